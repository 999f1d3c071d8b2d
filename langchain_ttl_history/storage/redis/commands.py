"""The commands sent to Redis as values: scripts, scans, and the names of keys. No I/O here."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias

import ormsgpack

from langchain_ttl_history.keys import SessionKey, encoded

__all__ = ["NEVER_DECODE", "Address", "Command", "Eval", "Keys", "Scan", "Script", "packed", "request_id"]

Command: TypeAlias = Sequence["str | bytes | int"]
"""The name of a command and its arguments."""

NEVER_DECODE = {"NEVER_DECODE": True}
"""The option that makes replies bytes, even if the client decodes replies by default."""

# Ids need not be secret, only never the same. The system's own source of randomness would let other
# threads in between a write and its being sent. A forked process begins anew.
_random = random.Random(secrets.randbits(128))  # noqa: S311  # no secret
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _random.seed(secrets.randbits(128)))


def request_id() -> str:
    """An id of 8 letters for a request, by which it is known when it comes again."""
    return urlsafe_b64encode(_random.getrandbits(48).to_bytes(6, "big")).decode()


class Script(NamedTuple):
    """A Lua script, as it is kept by a server."""

    source: str
    sha: str

    @classmethod
    def load(cls, name: str, *shared: str) -> Script:
        """The script of a file in ``lua/``, behind what all of them share and what else it needs of ``lua/shared/``."""
        folder = files("langchain_ttl_history.storage.redis") / "lua"
        parts = [*(folder / "shared" / f"{each}.lua" for each in ("common", *shared)), folder / f"{name}.lua"]
        source = "".join(part.read_text("utf-8") for part in parts)
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


class Eval(NamedTuple):
    """A request to run a script; the answer is its reply."""

    script: Script
    keys: Sequence[bytes]
    arguments: Sequence[bytes]

    @property
    def by_sha(self) -> Command:
        """The command for a server that knows the script."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.arguments)

    @property
    def by_source(self) -> Command:
        """The command for a server that does not."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.arguments)


class Scan(NamedTuple):
    """A request for a page of keys, on one node after another; the answer is (keys, after)."""

    pattern: bytes
    after: str | None
    size: int

    def start(self, nodes: Collection[str]) -> tuple[str | None, Command]:
        """The node to ask and the command; None is the only server."""
        cursor, _, node = (self.after or "0").partition(" ")
        names = sorted(nodes)
        if not names:
            return None, self._command(cursor)
        # A node that is no more has its keys on another by now.
        later = [name for name in names if name >= node]
        chosen = later[0] if later else names[-1]
        return chosen, self._command(cursor if chosen == node else "0")

    def end(self, nodes: Collection[str], node: str | None, reply: Any) -> tuple[list[bytes], str | None]:
        """The keys found, and where to go on."""
        cursor, found = int(reply[0]), list(dict.fromkeys(reply[1]))
        if cursor:
            return found, f"{cursor} {node or ''}"
        later = [name for name in sorted(nodes) if name > (node or "")]
        return found, f"0 {later[0]}" if later else None

    def _command(self, cursor: str) -> Command:
        return ("SCAN", cursor, "MATCH", self.pattern, "COUNT", self.size)


class Address(NamedTuple):
    """Where a session is."""

    keys: tuple[bytes, bytes]
    """The keys of its user and of itself."""
    digest: str
    """By which its user's key lists it."""
    ids: bytes
    """Its ids, as its user's key holds them: the user's, behind its length in 4 bytes, and the session's."""


class Keys:
    """The names of Redis keys. A user's keys share a hash tag, whatever characters its id contains."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        """What they begin with."""
        # What a pattern gives a meaning to stands for itself.
        plain = "".join(f"\\{each}" if each in "*?[]\\^" else each for each in prefix)
        self.users: bytes = f"{plain}:{{{'[0-9a-f]' * 32}}}".encode()
        """The pattern of the users' keys, which keeps out most of what others may store under this prefix."""
        self.of: Callable[[SessionKey], Address] = lru_cache(maxsize=4096)(self._of)
        """The address of a session."""

    def user(self, user_id: str) -> bytes:
        """The key of what is known of a user."""
        digest = hashlib.blake2b(encoded(user_id), digest_size=16).hexdigest()
        return f"{self.prefix}:{{{digest}}}".encode()

    def _of(self, key: SessionKey) -> Address:
        user, digest = self.user(key.user_id), key.digest
        who = encoded(key.user_id)
        ids = len(who).to_bytes(4, "big") + who + encoded(key.session_id)
        return Address((user, self.session(user, digest)), digest, ids)

    @staticmethod
    def session(user: bytes, digest: str) -> bytes:
        """The key of a session."""
        return b"%b:%b" % (user, digest.encode())


def packed(arguments: Sequence[Any]) -> bytes:
    """The arguments of a script, as MessagePack that a server's Lua reads."""
    try:
        return ormsgpack.packb(arguments)
    except TypeError:
        # A name with half of a surrogate pair in it is no text to ormsgpack.
        return b"".join(_packed(arguments))


def _packed(value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        raw = encoded(value)
        yield b"\xdb" + len(raw).to_bytes(4, "big") + raw
    elif isinstance(value, (list, tuple)):
        yield b"\xdd" + len(value).to_bytes(4, "big")
        for each in value:
            yield from _packed(each)
    else:
        yield ormsgpack.packb(value)
