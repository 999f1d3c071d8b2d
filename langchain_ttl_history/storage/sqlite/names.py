"""Digests that stand for keys and users in a SQLite file, so that no id stands in the tables' own pages."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from langchain_ttl_history.keys import SessionKey, encoded, user_digest

__all__ = ["name_of", "tombstone_of_user", "user_column"]


@lru_cache(maxsize=1024)
def name_of(key: SessionKey) -> bytes:
    """What stands for a session's key, in its row and among tombstones."""
    return bytes.fromhex(key.digest)


@lru_cache(maxsize=1024)
def tombstone_of_user(user_id: str) -> bytes:
    """What stands for a user among tombstones."""
    return bytes.fromhex(user_digest(user_id))


def user_column(user_id: str) -> bytes:
    """What stands for a user in the rows of the user's sessions."""
    return hashlib.blake2b(encoded(user_id), digest_size=12).digest()
