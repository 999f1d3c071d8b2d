"""The sessions that a process recently used in a SQLite file, as it remembers them; without I/O."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, keys_concerned
from langchain_ttl_history.storage.sqlite.mirror import Mirror
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.storage.types import Query, Snapshot

__all__ = ["Mirrors"]

T = TypeVar("T")

# How many sessions are remembered, and how many bytes of all together; the newest in any case.
_SESSIONS = 1_000
_BYTES = 64 * 1024 * 1024
# How often a call that waits for a mirror looks again, in seconds. Waiting for a condition would be no better: an
# interrupt between its steps may leave its lock released twice.
_PAUSE = 0.000_5


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
        # When sessions were last deleted.
        self._deleted = 0

    def moment(self) -> int:
        """A number for this moment, larger than those of all moments before."""
        return next(self._moments)

    def answer(
        self, key: SessionKey, row: Row, query: Query, now: float, fence: int, began: int, wait_until: float = 0.0
    ) -> Snapshot | None:
        """Answer a read from a session's mirror; None if that is absent, not current, or lacks a payload.

        Args:
            key: The session.
            row: Its row, as the read found it.
            query: What is asked for.
            now: Seconds since the epoch.
            fence: The newest deleted generation while its tombstone stands, otherwise 0.
            began: The moment at which the read began.
            wait_until: Until when to wait for a thread that changes the mirror, in seconds of the monotonic clock.
        """

        def answered(place: _Place) -> Snapshot | None:
            snapshot = place.answer(row, query, now, fence, began)
            if snapshot is not None:
                self._mirrors.move_to_end(key)
            return snapshot

        return self._when_free(key, wait_until, answered)

    def is_changing(self, key: SessionKey, since: int) -> bool:
        """Whether another thread changes a session's mirror, or has put one in since that moment."""
        with self._lock:
            place = self._mirrors.get(key)
            return place is not None and (place.taken or place.put_at > since)

    def take(self, key: SessionKey, wait_until: float = 0.0) -> Mirror | None:
        """Take a mirror to change it, until it is put back or thrown away.

        Returns None if there is none, or if another thread has it until then, in seconds of the monotonic clock.
        """

        def taken(place: _Place) -> Mirror:
            place.taken = True
            return place.mirror

        return self._when_free(key, wait_until, taken)

    def _when_free(self, key: SessionKey, wait_until: float, use: Callable[[_Place], T | None]) -> T | None:
        """Use the place of a mirror that no thread has taken; None if there is none, or if one has it until then."""
        while True:
            with self._lock:
                place = self._mirrors.get(key)
                if place is None:
                    return None
                if not place.taken:
                    return use(place)
            if not _pause(wait_until):
                return None

    def put(self, key: SessionKey, mirror: Mirror, current_at: int = 0) -> None:
        """Put a mirror in, or back, unless a newer one is there, or it may be of a session that was deleted meanwhile.

        Args:
            key: The session.
            mirror: Its mirror.
            current_at: A moment after which the file was found to be as the mirror is; 0 if it was not looked at.
        """
        with self._lock:
            place = self._mirrors.get(key)
            if place is None:
                if current_at < self._deleted:
                    return
                place = self._mirrors[key] = _Place(mirror)
            elif place.mirror is not mirror:
                if not place.taken and _age(place.mirror) > _age(mirror):
                    return
                place.mirror = mirror
            place.current_at, place.put_at = current_at, next(self._moments)
            place.taken = False
            self._mirrors.move_to_end(key)
            size = mirror.size
            self._bytes += size - place.size
            place.size = size
            while len(self._mirrors) > _SESSIONS or (self._bytes > _BYTES and len(self._mirrors) > 1):
                self._bytes -= self._mirrors.popitem(last=False)[1].size

    def delete(self, user_id: str, session_id: str | None) -> None:
        """Throw away the mirrors of what was deleted, those that other threads are going to put back included."""
        with self._lock:
            self._deleted = next(self._moments)
        self.drop(user_id, session_id)

    def drop(self, user_id: str, session_id: str | None) -> None:
        """Throw the mirror of a session away, or those of all of a user's."""
        with self._lock:
            for key in keys_concerned(self._mirrors, user_id, session_id):
                place = self._mirrors.pop(key, None)
                self._bytes -= 0 if place is None else place.size


class _Place:
    """Where a mirror is, whether or not a thread has taken it."""

    __slots__ = ("current_at", "mirror", "put_at", "size", "taken")

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.size = 0
        self.taken = False
        self.put_at = 0
        """The moment at which the mirror was put here."""
        self.current_at = 0
        """As in `Mirrors.put`."""

    def answer(self, row: Row, query: Query, now: float, fence: int, began: int) -> Snapshot | None:
        """As `Mirrors.answer`, of a mirror that nobody has taken."""
        mirror = self.mirror
        if mirror.row.generation != row.generation or mirror.counts != row.counts:
            # The row is that of one moment of the read. A mirror that was found to be current at a later one will do as
            # well, so that a read among many writes need not meet the moment between two of them.
            later, lease = mirror.row, query.lease
            if began >= self.current_at or later.is_expired(now):
                return None
            if lease is not None and later.is_due(now, lease):
                return None
            fence = mirror.fence.at(now)
        snapshot = mirror.answer(query, now, fence)
        if mirror.unloaded and not mirror.unloaded.isdisjoint(snapshot.blobs):
            return None
        return snapshot


def _pause(wait_until: float) -> bool:
    """Wait a little; False, at once, if it is too late."""
    if time.monotonic() >= wait_until:
        return False
    time.sleep(_PAUSE)  # Nobody is told when a mirror is put back.
    return True


def _age(mirror: Mirror) -> tuple[int, int]:
    return mirror.row.generation, mirror.row.version
