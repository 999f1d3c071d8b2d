"""The numbers that blobs have in Redis, as far as this process knows them.

A reference is stored as a number, and most references of a write follow one another, so what is
known here is sent as a few runs. It is only a short cut: the server refuses numbers of another
generation or history, or learnt before something was dropped, and then names are sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.redis_commands import encoded
from langchain_ttl_history.storage.redis_lineage import later
from langchain_ttl_history.storage.redis_names import short_name

__all__ = ["KIND", "TABLE", "Dropping", "Known", "References", "kind_of"]

TABLE = 16
"""How many names are in a table."""
KIND = 32
"""A number here has its kind in the bits from this one on."""
# How many names are remembered of all sessions together.
_MOST = 200_000
# What `write.lua` replaces by the number of a blob of the same write, as a run of one.
_PLACE = b"\xff\0\0\0\0\0\0\1"


def kind_of(name: str) -> int:
    """The kind of a blob, as ``lua/common.lua`` says."""
    raw = encoded(short_name(name))
    first = raw[0] if raw else 0
    if first > 127:
        return 0
    return first + 128 if first and len(raw) > 32 else first


Dropping = tuple[str, frozenset[str]]
"""A request of this process under way that drops blobs, and their names."""


@dataclass(slots=True)
class Known:
    """The numbers of a session's blobs that were stored in this epoch of its generation."""

    generation: int
    epoch: int
    """Counts what was dropped."""
    numbers: dict[str, int] = field(default_factory=dict)
    requests: bytes = b""
    """The newest requests by then; see `redis_lineage`. Set before numbers are added, and looked at after them."""
    dropping: Dropping = ("", frozenset())


def runs(
    refs: Iterable[str], numbers: Mapping[str, int], own: Mapping[str, int], start: int
) -> tuple[bytes, list[int]] | None:
    """References as they are stored; None if one has no number yet.

    Pairs of gap and count, or 255, a kind, the first number and the count. A gap is counted from -100.

    Args:
        refs: Names of blobs.
        numbers: Numbers by name.
        own: Blobs of the same write by name, counted from 1; their numbers are not known yet.
        start: How many bytes will be in front of the runs.

    Returns:
        The runs, and for each number that is missing in them after how many bytes, and whose it is.
    """
    out = bytearray()
    missing: list[int] = []
    told = first = after = -1
    find = numbers.get
    for name in refs:
        number = find(name, -1)
        if number == after >= 0:
            after += 1
            continue
        if after >= 0:
            told = _tell(out, told, first, after)
        first, after = number, number + 1
        if number < 0:
            place = own.get(name)
            if place is None:
                return None
            missing += (start + len(out) + 1, place)
            out += _PLACE
            told = after = -1
    if after >= 0:
        _tell(out, told, first, after)
    return bytes(out), missing


def _tell(out: bytearray, told: int, first: int, after: int) -> int:
    """Add a run to others of which the last ended before `told`, or is not known."""
    while first < after:
        count = min(after - first, 65_535)
        gap = first - told
        if told >= 0 and -100 <= gap < 155 and count < 256 and told >> KIND == first >> KIND:
            out += bytes((gap + 100, count))
        else:
            out += b"\xff%b%b" % (first.to_bytes(5, "big"), count.to_bytes(2, "big"))
        first += count
        told = first
    return told


class References:
    """What is known of many sessions; the least recently used is forgotten first."""

    def __init__(self) -> None:
        self._lock = lock()
        self._known: OrderedDict[SessionKey, Known] = OrderedDict()
        self._size = 0

    def of(self, key: SessionKey) -> Known | None:
        """What is known of a session. More may be added to it, which is as true as the rest."""
        return self._known.get(key)

    def learn(self, key: SessionKey, told: Known | None, dropped: Collection[str] = (), before: int = -1) -> None:
        """Remember what a request told; None if that is nothing.

        Args:
            key: The session.
            told: The numbers of blobs after it.
            dropped: What it dropped, if that is all that changed since the epoch before.
            before: The epoch before it, if it is a write's.
        """
        if told is None:
            self.forget(key)
            return
        with self._lock:
            known = self._known.pop(key, None)
            size = 0 if known is None else len(known.numbers)
            latest = None if known is None else later(told.requests, known.requests)
            if known is not None and known.generation == told.generation and latest is not None:
                if known.epoch == told.epoch:
                    known.requests = latest
                    known.numbers.update(told.numbers)
                    told = known
                elif known.epoch > told.epoch:
                    told = known  # The answer to a request that another overtook.
                elif known.epoch == before:
                    gone = set(dropped)
                    kept = {name: number for name, number in known.numbers.items() if name not in gone}
                    told.numbers.update(kept)
            self._known[key] = told
            self._size += len(told.numbers) - size
            while self._size > _MOST and len(self._known) > 1:
                _, oldest = self._known.popitem(last=False)
                self._size -= len(oldest.numbers)

    def forget(self, key: SessionKey) -> None:
        """Forget a session."""
        with self._lock:
            old = self._known.pop(key, None)
            self._size -= len(old.numbers) if old else 0
