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

__all__ = ["Known", "References"]

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

    def refer(self, refs: Iterable[str]) -> list[str | list[str | int]]:
        """References for a script: names, or a letter and runs of numbers, each first and count."""
        found: list[str | list[str | int]] = []
        numbers = self.numbers
        runs: list[str | int] | None = None
        letter, after = "", -1
        for name in refs:
            number = numbers.get(name)
            if number is None or name[0] > "\x7f":
                runs = None
                found.append(name)
                continue
            if runs is None or name[0] != letter:
                letter = name[0]
                runs = [letter, number, 1]
                found.append(runs)
            elif number == after:
                runs[-1] += 1  # type: ignore[operator]  # only the first is a letter
            else:
                runs += (number, 1)
            after = number + 1
        return found


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
