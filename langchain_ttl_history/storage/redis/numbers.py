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

    def after_read(self, key: SessionKey, told: SessionNumbers | None) -> None:
        """Remember the numbers that the answer to a read told; None if there is no session."""
        if told is None:
            self.forget(*key)
        else:
            self._learn(key, told)

    def after_write(self, key: SessionKey, told: SessionNumbers, dropped: Collection[str], before: int) -> None:
        """Remember the numbers that the answer to a write told.

        Args:
            key: The session.
            told: The numbers of blobs after the write.
            dropped: What the write dropped, if nothing else was dropped since epoch `before`.
            before: The epoch before the write.
        """
        self._learn(key, told, dropped, before)

    def _learn(
        self, key: SessionKey, told: SessionNumbers, dropped: Collection[str] = (), before: int | None = None
    ) -> None:
        with self._lock:
            known = self._known.pop(key, None)
            # Before it grows.
            size = _size(known)
            valid = told if known is None else _still_valid(known, told, dropped, before)
            self._known[key] = valid
            self._size += _size(valid) - size
            while self._size > _MOST and len(self._known) > 1:
                _, oldest = self._known.popitem(last=False)
                self._size -= _size(oldest)

    def forget(self, user_id: str, session_id: str | None) -> None:
        """Forget a session, or all of a user's."""
        with self._lock:
            for key in keys_concerned(self._known, user_id, session_id):
                self._size -= _size(self._known.pop(key, None))


def _still_valid(
    known: SessionNumbers, told: SessionNumbers, dropped: Collection[str], before: int | None
) -> SessionNumbers:
    """Of the numbers that were known, and those that an answer told, the ones that are valid after it.

    Where m1 and m2 are known, of epoch 1, and the answer tells m3:

    ```text
     m3 of epoch 1                                    m1 m2 m3
     m3 of epoch 0                                    m1 m2, since it was answered late
     m3 of epoch 2, by what dropped m1 in epoch 1     m2 m3
     m3 of epoch 2, by anything else                  m3
    ```
    """
    latest = later(told.requests, known.requests)
    if known.generation != told.generation or latest is None:
        return told
    if known.epoch == told.epoch:
        known.requests = latest
        known.numbers.update(told.numbers)
        return known
    if known.epoch > told.epoch:
        return known  # Another request, after this one, was answered first.
    if known.epoch == before:
        gone = set(dropped)
        told.numbers.update({name: number for name, number in known.numbers.items() if name not in gone})
    return told


def _size(known: SessionNumbers | None) -> int:
    return 0 if known is None else _SESSION + len(known.numbers)
