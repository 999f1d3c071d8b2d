"""Sessions in this process's memory.

One lock is held for the length of one verb. Sessions stand in the order of their last use, so the next to evict is
always the first, and in a queue by their deadlines, so that what expired is freed before. No thread and no scan is
needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, user_digest
from langchain_ttl_history.retention import check_count
from langchain_ttl_history.storage.clocks import Clock, checked_clock, steady_clock
from langchain_ttl_history.storage.memory_expiry import ExpiryQueue
from langchain_ttl_history.storage.memory_session import MemorySession
from langchain_ttl_history.storage.memory_tombstones import Tombstones
from langchain_ttl_history.storage.own_process import OfThisProcess
from langchain_ttl_history.storage.refusals import refusal
from langchain_ttl_history.storage.types import (
    KEEP,
    Change,
    Lease,
    Outcome,
    Query,
    Snapshot,
    Status,
    Usage,
    generation_at,
)

__all__ = ["MemoryStorage"]

# Expired sessions freed by each write, so that freeing keeps up with creating.
_FREED_PER_WRITE = 2
_NOTHING: frozenset[str] = frozenset()


class MemoryStorage(OfThisProcess):
    """Keeps sessions in memory, bounded in number and bytes; the least recently used goes first.

    Args:
        max_sessions: How many sessions are kept; None means unbounded.
        max_bytes: How many bytes all sessions may hold together; None means unbounded.
        clock: Gives the time in seconds since the epoch.

    Raises:
        ConfigurationError: A bound is not a whole number of at least 1, or the clock gives no number of seconds.
    """

    private: bool = True
    slack: float = 1.5

    def __init__(
        self,
        max_sessions: int | None = 10_000,
        max_bytes: int | None = 512 * 1024 * 1024,
        clock: Clock | None = None,
    ) -> None:
        for name, bound in (("max_sessions", max_sessions), ("max_bytes", max_bytes)):
            check_count(name, bound)
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._clock = checked_clock(clock) or steady_clock()
        self._lock = lock()
        self._sessions: OrderedDict[SessionKey, MemorySession] = OrderedDict()
        self._expiry = ExpiryQueue(self._sessions)
        self._users: dict[str, dict[str, None]] = {}
        self._tombstones = Tombstones()
        self._bytes = 0
        self._generation = 0

    def __repr__(self) -> str:
        return f"MemoryStorage(sessions={len(self._sessions)}, bytes={self._bytes})"

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session."""
        with self._lock:
            now = self._clock()
            fence = self._tombstones.fence(key, now)
            session = self._live(key, now, query.lease)
            if session is None:
                return Snapshot(now, fence)
            if query.lease is not None:
                session.use(now, query.lease)
                self._expiry.note(key, session)
                self._sessions.move_to_end(key)
            return session.snapshot(query, now, fence)

    def write(self, key: SessionKey, change: Change) -> Outcome:
        """Change one session."""
        with self._lock:
            now = self._clock()
            self._free_expired(now, _FREED_PER_WRITE)
            session = self._live(key, now, change.lease)
            refused = refusal(session, change, self._tombstones.fence(key, now))
            if refused is not None:
                return refused
            is_new = session is None
            if session is None:
                self._generation = max(self._generation + 1, generation_at(now))
                session = MemorySession(self._generation, now)
            before = session.cost
            try:
                session.apply(change)
            finally:
                if not is_new:
                    self._bytes += session.cost - before
            if change.idle_ttl is not KEEP:
                session.idle_ttl = change.idle_ttl
                session.renew(change.lease)
            if not change.upkeep:
                session.use(now, change.lease)
            self._expiry.note(key, session)
            if is_new:
                self._add(key, session)
            elif not change.upkeep:
                self._sessions.move_to_end(key)
            weights = session.weights_of(change)
            outcome = Outcome(Status.STORED, _NOTHING, session.generation, session.position, session.bytes, weights)
            self._evict(key, now)
            return outcome

    def delete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Delete a session, or all of a user's, leaving tombstones."""
        with self._lock:
            now = self._clock()
            ids = [session_id] if session_id is not None else [*self._users.get(user_id, ())]
            keys = [SessionKey(user_id, each) for each in ids]
            live = [key for key in keys if self._live(key, now) is not None]
            # A turn that outlived its session must not bring it back either, so whatever could
            # have been created until now is behind the fence, found or not.
            self._generation = max(self._generation, generation_at(now))
            for key in keys:
                if key in self._sessions:
                    self._remove(key)
            digests = [key.digest for key in keys]
            if session_id is None:
                # Turns may still run of sessions that have expired and are already freed.
                digests.append(user_digest(user_id))
            self._tombstones.put(digests, self._generation, now + tombstone_ttl)
            self._tombstones.free(now)
            return len(live)

    def sessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """All of a user's live sessions, or everyone's, in one page."""
        with self._lock:
            now = self._clock()
            keys: Iterable[SessionKey] = self._sessions
            if user_id is not None:
                keys = [SessionKey(user_id, each) for each in self._users.get(user_id, ())]
                keys = sorted(keys, key=lambda key: self._sessions[key].last_used_at)
            return [key for key in keys if not self._sessions[key].is_expired(now)], None

    def usage(self) -> Usage:
        """How much is held."""
        with self._lock:
            return Usage(len(self._sessions), self._bytes)

    def sweep(self) -> int:
        """Free everything that expired."""
        with self._lock:
            now = self._clock()
            freed = self._free_expired(now, len(self._sessions))
            self._tombstones.free(now)
            return freed

    def close(self) -> None:
        """Do nothing: there is nothing to close, and the sessions stay for whoever still holds this storage."""

    async def aread(self, key: SessionKey, query: Query) -> Snapshot:
        """Async `read`."""
        return self.read(key, query)

    async def awrite(self, key: SessionKey, change: Change) -> Outcome:
        """Async `write`."""
        return self.write(key, change)

    async def adelete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Async `delete`."""
        return self.delete(user_id, session_id, tombstone_ttl)

    async def asessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """Async `sessions`."""
        return self.sessions(user_id, after)

    async def ausage(self) -> Usage:
        """Async `usage`."""
        return self.usage()

    async def asweep(self) -> int:
        """Async `sweep`."""
        return self.sweep()

    async def aclose(self) -> None:
        """Async `close`."""

    # Called with the lock held.

    def _live(self, key: SessionKey, now: float, lease: Lease | None = None) -> MemorySession | None:
        session = self._sessions.get(key)
        if session is not None and (
            session.is_expired(now) or (lease is not None and lease.is_past_max_age(session.created_at, now))
        ):
            self._remove(key)
            return None
        return session

    # An exception from a signal handler may come at any call, so what belongs together changes without one in between.

    def _add(self, key: SessionKey, session: MemorySession) -> None:
        ids = self._users.setdefault(key.user_id, {})
        ids[key.session_id] = None
        self._sessions[key] = session
        self._bytes += session.cost

    def _remove(self, key: SessionKey) -> None:
        session, ids = self._sessions[key], self._users[key.user_id]
        del self._sessions[key]
        del ids[key.session_id]
        self._bytes -= session.cost
        if not ids:
            del self._users[key.user_id]
        self._expiry.remove(session)

    def _evict(self, keep: SessionKey, now: float) -> None:
        while (self._max_sessions is not None and len(self._sessions) > self._max_sessions) or (
            self._max_bytes is not None and self._bytes > self._max_bytes
        ):
            if self._free_expired(now, 1):
                continue
            oldest = next(iter(self._sessions))
            if oldest == keep:
                # A session is never evicted by its own write, even alone over the bound.
                return
            self._remove(oldest)

    def _free_expired(self, now: float, most: int) -> int:
        for freed in range(most):
            key = self._expiry.first_expired(now)
            if key is None:
                return freed
            self._remove(key)
        return most
