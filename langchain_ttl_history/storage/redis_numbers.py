"""The numbers that blobs have in Redis, as far as this process knows them.

A reference is stored as a number, and most references of a write follow one another, so what is
known here is sent as a few runs. It is only a short cut: the server refuses numbers of another
generation and looks at each where something was dropped since, and then names are sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Change

__all__ = ["TABLE", "Known", "References"]

TABLE = 16
"""How many names are in a table."""
# How many names are remembered of all sessions together.
_MOST = 200_000


@dataclass(slots=True)
class Known:
    """The numbers of a session's blobs that were stored in this epoch of its generation."""

    generation: int
    epoch: int
    """Counts what was dropped."""
    numbers: dict[str, int] = field(default_factory=dict)
    before: int = 0
    """The epoch before the write that told this."""

    def refer(self, refs: Iterable[str], runs: list[bytes], start: int) -> list[str | list[str | int]]:
        """References for `write.lua`: names, or where runs of numbers stand, which are added to `runs`.

        Args:
            refs: Names of blobs.
            runs: What is sent as arguments of its own.
            start: Where the first of these stands.
        """
        found: list[str | list[str | int]] = []
        numbers = self.numbers
        segment: _Segment | None = None
        for name in refs:
            number = numbers.get(name)
            if number is None or name[0] > "\x7f":
                if segment is not None:
                    found.append(segment.end(runs, start))
                    segment = None
                found.append(name)
                continue
            if segment is None:
                segment = _Segment(name[0], number)
            elif number == segment.after and name[0] == segment.letter:
                segment.after += 1
            else:
                segment.begin(name[0], number)
        if segment is not None:
            found.append(segment.end(runs, start))
        return found


class _Segment:
    """Runs of numbers as they are stored: gap and count, or 255, a letter, the first number and the count."""

    __slots__ = ("after", "first", "letter", "out", "tables", "told_after", "told_letter")

    def __init__(self, letter: str, first: int) -> None:
        self.out = bytearray()
        self.tables: dict[tuple[str, int], int] = {}
        self.told_letter, self.told_after = "", 0
        self.letter, self.first, self.after = letter, first, first + 1

    def begin(self, letter: str, first: int) -> None:
        """Another run, after this one."""
        self._tell()
        self.letter, self.first, self.after = letter, first, first + 1

    def end(self, runs: list[bytes], start: int) -> list[str | int]:
        """What a script is told of all runs."""
        self._tell()
        runs.append(bytes(self.out))
        told: list[str | int] = [start + len(runs) - 1, self.letter, self.after]
        for (letter, number), count in self.tables.items():
            told += (letter, number, count)
        return told

    def _tell(self) -> None:
        first = self.first
        while first < self.after:
            count = min(self.after - first, 65_535)
            gap = first - self.told_after
            if self.letter == self.told_letter and 0 <= gap < 255 and count < 256:
                self.out += bytes((gap, count))
            else:
                self.out += b"\xff%b%b%b" % (self.letter.encode(), first.to_bytes(4, "big"), count.to_bytes(2, "big"))
            for number in range(first // TABLE, (first + count - 1) // TABLE + 1):
                self.tables[self.letter, number] = self.tables.get((self.letter, number), 0) + 1
            first += count
            self.told_letter, self.told_after = self.letter, first


class References:
    """What is known of many sessions; the least recently used is forgotten first."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[SessionKey, Known] = OrderedDict()
        self._size = 0

    def of(self, key: SessionKey) -> Known | None:
        """What is known of a session. It is never changed, only replaced."""
        return self._known.get(key)

    def learn(self, key: SessionKey, read: Known | None) -> None:
        """Remember what a read told; None if there is no session."""
        if read is None:
            self.forget(key)
            return
        known = self._known.get(key)
        if known is not None and (known.generation, known.epoch) == (read.generation, read.epoch):
            if known.numbers.keys() >= read.numbers.keys():
                return
            if len(known.numbers) <= 4 * len(read.numbers) + 256:
                read = Known(read.generation, read.epoch, known.numbers | read.numbers)
        self._put(key, read)

    def wrote(self, key: SessionKey, change: Change, generation: int, sent: Known | None, told: Known | None) -> None:
        """Remember what a write told."""
        if told is None:
            self.forget(key)
            return
        numbers = told.numbers
        if sent is not None and sent.generation == generation:
            if sent.epoch == told.before:
                numbers = sent.numbers | numbers
            else:
                # What this write referred to was looked at.
                used = {ref for blob in change.blobs.values() for ref in blob.refs}
                numbers = {name: each for name, each in sent.numbers.items() if name in used} | numbers
        if change.drop:
            gone = set(change.drop)
            numbers = {name: each for name, each in numbers.items() if name not in gone}
        self._put(key, Known(generation, told.epoch, numbers))

    def forget(self, key: SessionKey) -> None:
        """Forget a session."""
        with self._lock:
            old = self._known.pop(key, None)
            self._size -= len(old.numbers) if old else 0

    def _put(self, key: SessionKey, known: Known) -> None:
        with self._lock:
            old = self._known.pop(key, None)
            self._size += len(known.numbers) - (len(old.numbers) if old else 0)
            self._known[key] = known
            while self._size > _MOST and len(self._known) > 1:
                _, oldest = self._known.popitem(last=False)
                self._size -= len(oldest.numbers)
