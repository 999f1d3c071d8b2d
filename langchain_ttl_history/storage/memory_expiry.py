"""Sessions in memory in the order in which they expire, so that what expired is found without a scan."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush, heapreplace

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.memory_session import MemorySession

__all__ = ["ExpiryQueue"]

# So many outdated entries may always stay in the queue.
_SPARE = 64


class ExpiryQueue:
    """A queue of deadlines; its storage's lock guards it.

    Nearly every use moves a deadline further away. Moving the session in the queue each time would be costly, so it
    stays where it is until it comes first, and only then goes where it belongs by now.
    """

    def __init__(self, sessions: Mapping[SessionKey, MemorySession]) -> None:
        self._sessions = sessions
        # By generation, so that nothing here names a session that is gone.
        self._heap: list[tuple[float, int]] = []
        self._keys: dict[int, SessionKey] = {}

    def note(self, key: SessionKey, session: MemorySession) -> None:
        """Take account of a session's deadline, which is new or has moved."""
        deadline = session.deadline
        if deadline is None or (session.queued_until is not None and session.queued_until <= deadline):
            return
        if len(self._heap) > 2 * len(self._keys) + _SPARE:
            self._rebuild()  # First, since a new session is not held yet.
        self._keys[session.generation] = key
        heappush(self._heap, (deadline, session.generation))
        session.queued_until = deadline

    def remove(self, session: MemorySession) -> None:
        """Forget a session that is going."""
        self._keys.pop(session.generation, None)

    def first_expired(self, now: float) -> SessionKey | None:
        """A session that has expired and is still held; None if there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            generation = heap[0][1]
            key = self._keys.get(generation)
            session = self._session(generation, key)
            if session is None:
                self._keys.pop(generation, None)
                heappop(heap)
            elif session.is_expired(now):
                return key
            elif session.deadline is None:
                session.queued_until = None
                heappop(heap)
            else:
                session.queued_until = session.deadline
                heapreplace(heap, (session.deadline, generation))
        return None

    def _session(self, generation: int, key: SessionKey | None) -> MemorySession | None:
        session = None if key is None else self._sessions.get(key)
        # One that was interrupted while it was added, or removed, may still have a place here.
        return None if session is None or session.generation != generation else session

    def _rebuild(self) -> None:
        """Leave out what is outdated, or of sessions that are gone."""
        heap: list[tuple[float, int]] = []
        for generation, key in [*self._keys.items()]:
            session = self._session(generation, key)
            if session is None:
                del self._keys[generation]
                continue
            session.queued_until = session.deadline
            if session.deadline is not None:
                heap.append((session.deadline, generation))
        heapify(heap)
        self._heap = heap
