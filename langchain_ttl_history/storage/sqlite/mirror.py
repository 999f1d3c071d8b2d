"""What a process remembers of one session in a SQLite file, without I/O.

Every write gives a session's row new counts. A mirror is valid as long as the row still has its
counts, which each verb looks up or makes a condition of what it writes. So a session that one process
uses is read from its memory, and what another process wrote is always seen. So is what a backup brought
back into the open file: then the same version may have other content, or even a lower one be newer.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from langchain_ttl_history.storage.memory_session import REFERENCE, MemorySession
from langchain_ttl_history.storage.sqlite.packs import Large, decode
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.storage.sqlite.tail import Tail
from langchain_ttl_history.storage.types import Blob, Query, Snapshot

__all__ = ["Fence", "Key", "Mirror"]

# Large payloads are remembered up to so many bytes of their session.
_EACH = 4 * 1024 * 1024
# What an item and its containers cost besides the payload, in bytes.
_OVERHEAD = 600

Key: TypeAlias = str | tuple[str, int]
"""The name of a blob, or the name of a list and the position of an entry."""


class Fence(NamedTuple):
    """What a deletion left of a session's key: writes that continue something as old are refused for a while."""

    generation: int = 0
    """The newest deleted generation."""
    until: float = 0.0
    """When its tombstone expires, in seconds since the epoch."""

    def at(self, now: float) -> int:
        """The newest deleted generation while its tombstone stands, otherwise 0."""
        return self.generation if now < self.until else 0


class Mirror:
    """A session at one version: its contents, and where in the file they stand."""

    __slots__ = (
        "contested", "counts", "fence", "ghosts", "homes", "large", "row", "session", "tail", "unloaded",
    )  # fmt: skip

    def __init__(self, row: Row, *, contested: int = 0) -> None:
        self.row: Row = row
        self.counts: bytes = row.counts
        """What every write changes in the row, as it is stored."""
        self.contested: int = contested
        """How many more writes must look at the row first, since another process has written."""
        self.fence: Fence = Fence()
        self.session: MemorySession = MemorySession(row.generation, row.created)
        """The contents."""
        self.tail: Tail = Tail(1)
        self.homes: dict[Key, int] = {}
        """The segment that contains each blob and entry."""
        self.ghosts: dict[str, set[int]] = {}
        """For a blob, the segments that still contain outdated blobs of its name."""
        self.large: dict[str, Large] = {}
        """The rows of large payloads."""
        self.unloaded: set[str] = set()
        """Blobs whose large payload is not remembered."""

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        session = self.session
        size = session.bytes + REFERENCE * session.references + _OVERHEAD * (10 + len(self.homes)) + len(self.tail.body)
        return size - sum(self.large[name].size for name in self.unloaded) if self.unloaded else size

    @property
    def counted_bytes(self) -> int:
        """The payload bytes of all blobs and entries, counted anew."""
        session = self.session
        listed = [len(entry.payload) for entries in session.lists.values() for entry in entries]
        unloaded = [self.large[name].size for name in self.unloaded]
        return sum([len(blob.payload) for blob in session.blobs.values()]) + sum(listed) + sum(unloaded)

    def answer(self, query: Query, now: float, fence: int) -> Snapshot:
        """What a read asks for; the payloads of what is `unloaded` are empty."""
        session, row = self.session, self.row
        session.last_used_at, session.deadline = row.used, row.deadline
        return session.snapshot(query, now, fence)

    def remember_payload(self, name: str, blob: Blob) -> None:
        """Remember a large payload, if there is room."""
        self.unloaded.add(name)
        if self.size + len(blob.payload) <= _EACH:
            self.session.blobs[name] = blob
            self.unloaded.discard(name)
        else:
            self.session.blobs[name] = blob._replace(payload=b"")

    def outdate(self, name: str) -> None:
        """Note that a blob is replaced by one elsewhere, and stays behind as a ghost."""
        home = self.homes.pop(name)
        self.ghosts.setdefault(name, set()).add(home)
        if home == self.tail.number:
            self.tail.outdated += 1

    # Learning what was written

    def learn(self, segment: int, body: bytes) -> bool:
        """Learn what was appended to a segment since the mirror last saw it. Segments must be given in order.

        Returns False if the segment does not begin as the mirror remembers it, and so was not appended to.

        Raises:
            CorruptRecordError: It is damaged.
        """
        tail, session, homes = self.tail, self.session, self.homes
        if segment != tail.number:
            tail.restart(segment)
        elif not body.startswith(tail.content):
            return False
        names = list(tail.names)
        named, listed = decode(body, tail.length, names)
        tail.length, tail.names = len(body), dict(zip(names, range(len(names)), strict=True))
        for name, blob, large in named:
            if name in homes:
                self.outdate(name)
                session.references -= len(session.blobs[name].refs)
            homes[name] = segment
            session.blobs[name] = blob
            session.references += len(blob.refs)
            if large is not None:
                self.large[name] = large
                self.unloaded.add(name)
        for name, entry in listed:
            homes[name, entry.position] = segment
            session.add(name, entry)
        return True

    def catch_up_to(self, row: Row) -> None:
        """Become the mirror of the session as of this row, after all segments were learnt."""
        self.row, self.counts = row, row.counts
        session = self.session
        session.position, session.bytes = row.position, row.bytes
        for entries in session.lists.values():
            # Entries in a rewritten segment may come after newer ones.
            entries.sort()
