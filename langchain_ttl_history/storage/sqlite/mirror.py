"""A cache of the sessions that a process recently used in a SQLite file, without I/O.

Every write gives a session's row new counts. A mirror is valid as long as the row still has its
counts, which each verb looks up or makes a condition of what it writes. So a session that one process
uses is read from its memory, and what another process wrote is always seen. So is what a backup brought
back into the open file: then the same version may have other content, or even a lower one be newer.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Blob, Query, Snapshot
from langchain_ttl_history.storage.memory_session import REFERENCE, MemorySession
from langchain_ttl_history.storage.sqlite.packs import Large, decode
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.storage.sqlite.tail import Tail

__all__ = ["Key", "Mirror", "Mirrors"]

T = TypeVar("T")

# How many sessions are remembered, and how many bytes of all together; the newest in any case.
_SESSIONS = 1_000
_BYTES = 64 * 1024 * 1024
# Large payloads are remembered up to so many bytes of their session.
_EACH = 4 * 1024 * 1024
# How often a call that waits for a mirror looks again, in seconds. Waiting for a condition would be no better: an
# interrupt between its steps may leave its lock released twice.
_PAUSE = 0.000_5
# What an item and its containers cost besides the payload, in bytes.
_OVERHEAD = 600

Key = str | tuple[str, int]
"""The name of a blob, or the name of a list and the position of an entry."""


class Mirror:
    """A session at one version: its contents, and where in the file they stand.

    Attributes:
        row: Its row.
        counts: What every write changes in the row, as it is stored.
        fence: The newest deleted generation, while its tombstone stands.
        until: When that tombstone expires, in seconds since the epoch.
        session: The contents.
        tail: The segment that is written to.
        homes: The segment that contains each blob and entry.
        ghosts: For a blob, the segments that still contain outdated blobs of its name.
        large: The rows of large payloads.
        unloaded: Blobs whose large payload is not remembered.
        contested: How many more writes must look at the row first, since another process has written.
    """

    __slots__ = (
        "contested", "counts", "fence", "ghosts", "homes", "large", "row", "session", "tail", "unloaded", "until",
    )  # fmt: skip

    def __init__(self, row: Row, *, contested: int = 0) -> None:
        self.row = row
        self.counts = row.counts
        self.contested = contested
        self.fence = 0
        self.until = 0.0
        self.session = MemorySession(row.generation, row.created)
        self.tail = Tail(1)
        self.homes: dict[Key, int] = {}
        self.ghosts: dict[str, set[int]] = {}
        self.large: dict[str, Large] = {}
        self.unloaded: set[str] = set()

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        session = self.session
        size = session.bytes + REFERENCE * session.references + _OVERHEAD * (10 + len(self.homes)) + len(self.tail.body)
        return size - sum(self.large[name].size for name in self.unloaded) if self.unloaded else size

    @property
    def held(self) -> int:
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

    def load(self, name: str, blob: Blob) -> None:
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
        self.tail.outdated += home == self.tail.number

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


class Mirrors:
    """The mirrors of the sessions used last, bounded in number and bytes; safe to share among threads.

    A mirror that one thread has taken is hidden from others, so that nobody reads half of a change. Others wait for it,
    if not for long, since to read a whole session costs far more than most changes of it.
    """

    def __init__(self) -> None:
        self._lock = lock()
        self._mirrors: OrderedDict[SessionKey, _Place] = OrderedDict()
        self._bytes = 0
        self._moments = count(1)

    def moment(self) -> int:
        """A number for this moment, larger than those of all moments before."""
        return next(self._moments)

    def answer(
        self, key: SessionKey, row: Row, query: Query, now: float, fence: int, began: int = 0, until: float = 0.0
    ) -> Snapshot | None:
        """Answer a read from a session's mirror; None if that is absent, not current, or lacks a payload.

        Args:
            key: The session.
            row: Its row, as the read found it.
            query: What is asked for.
            now: Seconds since the epoch.
            fence: The newest deleted generation while its tombstone stands, otherwise 0.
            began: The moment at which the read began; 0 if only a mirror that is as the row will do.
            until: Until when to wait for a thread that changes the mirror, in seconds of the monotonic clock.
        """

        def answered(place: _Place) -> Snapshot | None:
            snapshot = place.answer(row, query, now, fence, began)
            if snapshot is not None:
                self._mirrors.move_to_end(key)
            return snapshot

        return self._when_free(key, until, answered)

    def is_changing(self, key: SessionKey, since: int) -> bool:
        """Whether another thread changes a session's mirror, or has put one in since that moment."""
        with self._lock:
            place = self._mirrors.get(key)
            return place is not None and (place.taken or place.changed > since)

    def take(self, key: SessionKey, until: float = 0.0) -> Mirror | None:
        """Take a mirror to change it, until it is put back or thrown away.

        Returns None if there is none, or if another thread has it until then, in seconds of the monotonic clock.
        """

        def taken(place: _Place) -> Mirror:
            place.taken = True
            return place.mirror

        return self._when_free(key, until, taken)

    def _when_free(self, key: SessionKey, until: float, use: Callable[[_Place], T | None]) -> T | None:
        """Use the place of a mirror that no thread has taken; None if there is none, or if one has it until then."""
        while True:
            with self._lock:
                place = self._mirrors.get(key)
                if place is None:
                    return None
                if not place.taken:
                    return use(place)
            if not _pause(until):
                return None

    def put(self, key: SessionKey, mirror: Mirror, current: int = 0) -> None:
        """Put a mirror in, or back, unless a newer one is there.

        Args:
            key: The session.
            mirror: Its mirror.
            current: A moment after which the file was found to be as the mirror is; 0 if it was not looked at.
        """
        with self._lock:
            place = self._mirrors.get(key)
            if place is None:
                place = self._mirrors[key] = _Place(mirror)
            elif place.mirror is not mirror:
                if not place.taken and _age(place.mirror) > _age(mirror):
                    return
                place.mirror = mirror
            place.current, place.changed = current, next(self._moments)
            place.taken = False
            self._mirrors.move_to_end(key)
            size = mirror.size
            self._bytes += size - place.size
            place.size = size
            while len(self._mirrors) > _SESSIONS or (self._bytes > _BYTES and len(self._mirrors) > 1):
                self._bytes -= self._mirrors.popitem(last=False)[1].size

    def drop(self, user_id: str, session_id: str | None) -> None:
        """Throw the mirror of a session away, or those of all of a user's."""
        with self._lock:
            if session_id is None:
                keys = [key for key in self._mirrors if key.user_id == user_id]
            else:
                keys = [SessionKey(user_id, session_id)]
            for key in keys:
                place = self._mirrors.pop(key, None)
                self._bytes -= 0 if place is None else place.size


class _Place:
    """Where a mirror is, whether or not a thread has taken it."""

    __slots__ = ("changed", "current", "mirror", "size", "taken")

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.size = 0
        self.taken = False
        self.current = self.changed = 0

    def answer(self, row: Row, query: Query, now: float, fence: int, began: int) -> Snapshot | None:
        """As `Mirrors.answer`, of a mirror that nobody has taken."""
        mirror = self.mirror
        if mirror.row.generation != row.generation or mirror.counts != row.counts:
            # The row is that of one moment of the read. A mirror that was found to be current at a later one will do as
            # well, so that a read among many writes need not meet the moment between two of them.
            later, lease = mirror.row, query.lease
            if not 0 < began < self.current or later.is_expired(now):
                return None
            if lease is not None and later.is_due(now, lease):
                return None
            fence = mirror.fence if now < mirror.until else 0
        snapshot = mirror.answer(query, now, fence)
        if mirror.unloaded and not mirror.unloaded.isdisjoint(snapshot.blobs):
            return None
        return snapshot


def _pause(until: float) -> bool:
    """Wait a little; False, at once, if it is too late."""
    if time.monotonic() >= until:
        return False
    time.sleep(_PAUSE)  # See `_PAUSE`: nobody is told when a mirror is put back.
    return True


def _age(mirror: Mirror) -> tuple[int, int]:
    return mirror.row.generation, mirror.row.version
