"""A cache of the numbers that blobs have in Redis.

A reference is stored as a number, and most references of a write are consecutive, so those known here are
sent as a few runs. This is only a short cut: the server refuses numbers of another generation or lineage,
or from before something was dropped, and then names are sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, encoded, keys_concerned
from langchain_ttl_history.storage.redis.lineage import later
from langchain_ttl_history.storage.redis.names import short_name

__all__ = ["KIND", "TABLE", "Dropping", "NumbersCache", "SessionNumbers", "kind_of", "runs_of"]

TABLE = 16
"""How many names a table holds."""
KIND = 32
"""A number in this process has its kind in the bits from this one on."""
# How many names are remembered of all sessions together, and as how many a session counts by itself.
_MOST = 200_000
_SESSION = 10
# A run of one, in which `write.lua` puts the number of a blob that the same write stores.
_PLACE = b"\xff\0\0\0\0\0\0\1"


def kind_of(name: str) -> int:
    """The kind of a blob, as ``lua/shared/common.lua`` says."""
    raw = encoded(short_name(name))
    first = raw[0] if raw else 0
    if first > 127:
        return 0
    return first + 128 if first and len(raw) > 32 else first


Dropping: TypeAlias = tuple[str, frozenset[str]]
"""The id of a request of this process that is under way and drops blobs, and the names of those."""


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
    dropping: Dropping = ("", frozenset())


def runs_of(
    refs: Iterable[str], numbers: Mapping[str, int], own: Mapping[str, int], start: int
) -> tuple[bytes, list[int]] | None:
    """References as they are stored; None if one has no number yet.

    Each run takes two bytes, the gap since the last one plus 100 and the count; or eight: 255, the kind, the first
    number (4 bytes) and the count (2 bytes).

    Args:
        refs: Names of blobs.
        numbers: Numbers by name.
        own: Blobs of the same write by name, counted from 1; their numbers are not known yet.
        start: How many bytes will be in front of the runs.

    Returns:
        The runs, and for each number that is still missing in them its offset and the place of its blob in `own`.
    """
    out = bytearray()
    missing: list[int] = []
    previous = first = after = -1
    find = numbers.get
    for name in refs:
        number = find(name, -1)
        if number == after >= 0:
            after += 1
            continue
        if after >= 0:
            previous = _append_run(out, previous, first, after)
        first, after = number, number + 1
        if number < 0:
            place = own.get(name)
            if place is None:
                return None
            missing += (start + len(out) + 1, place)
            out += _PLACE
            previous = after = -1
    if after >= 0:
        _append_run(out, previous, first, after)
    return bytes(out), missing


def _append_run(out: bytearray, previous: int, first: int, after: int) -> int:
    """Append a run; `previous` is the number after the run before, or -1. Returns the number after this one."""
    while first < after:
        count = min(after - first, 65_535)
        gap = first - previous
        if previous >= 0 and -100 <= gap < 155 and count < 256 and previous >> KIND == first >> KIND:
            out += bytes((gap + 100, count))
        else:
            out += b"\xff%b%b" % (first.to_bytes(5, "big"), count.to_bytes(2, "big"))
        first += count
        previous = first
    return previous


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
