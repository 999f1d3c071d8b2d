"""What stands for keys and users in a SQLite file, and which path may name one."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from langchain_ttl_history.errors import ConfigurationError
from langchain_ttl_history.keys import SessionKey, user_digest
from langchain_ttl_history.storage.sqlite.opening import MEMORY

__all__ = ["name_of", "name_of_user", "valid_path"]


@lru_cache(maxsize=1024)
def name_of(key: SessionKey) -> bytes:
    """What stands for a session's key in its row."""
    return bytes.fromhex(key.digest)


@lru_cache(maxsize=1024)
def name_of_user(user_id: str) -> bytes:
    """What stands for a user among tombstones."""
    return bytes.fromhex(user_digest(user_id))


def valid_path(path: object) -> str:
    """A path as a string."""
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"path must be a string or a path, not {path!r}")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"path must name a file, not {path!r}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"path must name a file, not {path!r}: {error}") from error
    # A change of the working directory must not lead to another file.
    return text if text == MEMORY else str(Path(text).absolute())
