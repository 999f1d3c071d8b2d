"""A cache of the numbers that blobs have in Redis, so that a write refers to them by number (see `references`).

This is only a short cut: the server refuses numbers of another generation or lineage, or from before something was
dropped, and then names are sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, keys_concerned
from langchain_ttl_history.storage.redis.lineage import later

__all__ = ["NOT_DROPPING", "Dropping", "NumbersCache", "SessionNumbers"]

# How many names are remembered of all sessions together, and as how many a session counts by itself.
_MOST = 200_000
_SESSION = 10


class Dropping(NamedTuple):
    """A request of this process that drops blobs, and may be under way."""

    request: str = ""
    """Its id; empty if there is none."""
    names: frozenset[str] = frozenset()
    """The blobs."""


NOT_DROPPING = Dropping()


@dataclass(slots=True)
class SessionNumbers:
    """The numbers of a session's blobs that were stored in this epoch of its generation."""

    generation: int
    epoch: int
    """Counts the changes that dropped blobs."""
    numbers: dict[str, int] = field(default_factory=dict)
    requests: bytes = b""
    """The newest requests; see `lineage`. Set before numbers are added, and read after them, since threads share
    this without a lock."""
    dropping: Dropping = NOT_DROPPING


class NumbersCache:
    """The numbers of many sessions; the least recently used is forgotten first."""

    def __init__(self) -> None:
        self._lock = lock()
        self._known: OrderedDict[SessionKey, SessionNumbers] = OrderedDict()
        self._size = 0

    def of(self, key: SessionKey) -> SessionNumbers | None:
        """What is known of a session. Other threads may add to it, but never change what is there."""
        return self._known.get(key)

    def learn(
        self, key: SessionKey, told: SessionNumbers | None, dropped: Collection[str] = (), before: int = -1
    ) -> None:
        """Remember what the answer to a request told.

        Args:
            key: The session.
            told: The numbers of blobs after the request; None if there is no session.
            dropped: The names that the request dropped, if nothing else was dropped since epoch `before`.
            before: The epoch before the request, if that is a write.
        """
        if told is None:
            self.forget(*key)
            return
        with self._lock:
            known = self._known.pop(key, None)
            size = _size(known)
            latest = None if known is None else later(told.requests, known.requests)
            if known is not None and known.generation == told.generation and latest is not None:
                if known.epoch == told.epoch:
                    known.requests = latest
                    known.numbers.update(told.numbers)
                    told = known
                elif known.epoch > told.epoch:
                    told = known  # Another request, after this one, was answered first.
                elif known.epoch == before:
                    gone = set(dropped)
                    kept = {name: number for name, number in known.numbers.items() if name not in gone}
                    told.numbers.update(kept)
            self._known[key] = told
            self._size += _size(told) - size
            while self._size > _MOST and len(self._known) > 1:
                _, oldest = self._known.popitem(last=False)
                self._size -= _size(oldest)

    def forget(self, user_id: str, session_id: str | None) -> None:
        """Forget a session, or all of a user's."""
        with self._lock:
            for key in keys_concerned(self._known, user_id, session_id):
                self._size -= _size(self._known.pop(key, None))


def _size(known: SessionNumbers | None) -> int:
    return 0 if known is None else _SESSION + len(known.numbers)
