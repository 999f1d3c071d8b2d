"""Writes to Redis as values: the common change, whose references are numbers, and any change, by names.

What each sends of two blobs, m2 with "Hi" and h, which refers to m1 and m2, and of an entry that refers to m2, where
the number of m1 is known:

    by_number   blobs     ["m2", 0, 2, False, 0, "h", 32, 0, False, [25, 1]]
                entries   ["log", 8, 3, 0, 2, [1, 1]]
                content   Hi; 16 bytes, ff "m" 00000000 0001, ff 00 00000000 0001; ff 00 00000000 0001; +m2

    by_name     blobs     [["m2", 0, [], [], False], ["h", 7, [], ["m1", "m2"], False]]
                entries   [["log", ["m2"], 0]]
                payloads  "Hi", "", "+m2"

The number of m2 is still to be given by the server: [25, 1] says that the number of the first blob goes to byte 25 of
the header of h, and [1, 1] to byte 1 of the references of the entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from langchain_ttl_history.storage.redis.commands import Address, Eval, Script, packed
from langchain_ttl_history.storage.redis.layout import HEADER, MICRO, with_lengths
from langchain_ttl_history.storage.redis.lineage import newest
from langchain_ttl_history.storage.redis.names import short_name
from langchain_ttl_history.storage.redis.numbers import Dropping, SessionNumbers
from langchain_ttl_history.storage.redis.payloads import short_entry, short_record
from langchain_ttl_history.storage.redis.references import kind_of, runs_of
from langchain_ttl_history.storage.types import KEEP, Appended, Blob, Change, Lease

__all__ = ["Envelope", "by_name", "by_number", "micro", "times", "weighed"]

_WRITE = Script.load("write", "deadlines", "numbers", "blobs", "lists", "positions", "requests")
_CHANGE = Script.load(
    "change", "deadlines", "layout", "numbers", "blobs", "lists", "list_changes", "positions", "requests", "tables"
)

_LONGEST = 1 << 52
# What write.lua takes at once, so that its arguments fit Lua's stack.
_MOST = 500

# The numbers of blobs, by name.
_Numbers: TypeAlias = Mapping[str, int]


class Envelope(NamedTuple):
    """What a write says besides its change."""

    address: Address
    """Where the session is."""
    now: int
    """Microseconds since the epoch, or -1 for the server's time."""
    margin: int
    """By how many milliseconds keys outlive their deadlines."""
    request: str
    """The id of this request."""


def by_number(envelope: Envelope, change: Change, known: SessionNumbers, dropping: Dropping) -> Eval | None:
    """The request for a change that `write.lua` can make; None if that takes `change.lua`.

    Such a change only sets blobs and appends entries, and refers only to blobs that it sets itself or whose numbers are
    known.

    Args:
        envelope: What the write says besides.
        change: What to write.
        known: The numbers this process knows.
        dropping: A request of this process under way that drops blobs; see `Dropping`.
    """
    address, now, margin, request = envelope
    dropper, dropped = dropping
    if not _only_adds(change) or (dropped and _concerns(change, dropped)):
        return None
    blobs, numbers, guard = change.blobs, known.numbers, change.guard
    numbered = _Numbered(blobs, numbers)
    stored = numbered.blobs()
    appended = None if stored is None else numbered.entries(change.append)
    if stored is None or appended is None:
        return None
    kinds = list(dict.fromkeys([_kind(name) for name in blobs if name not in numbers]))
    # Whether the server has to check that the known numbers are still valid.
    relies = dropped or numbered.relies or any([name in numbers for name in blobs])  # noqa: C419  # a generator is slower
    arguments = [
        now, margin, *times(change.lease), _number(change.at_generation), _number(guard.generation),
        short_name(guard.needs or ""), *((known.generation, known.epoch) if relies else (-1, -1)),
        newest(known.requests).decode(), dropper, address.digest, request, kinds, stored, appended,
    ]  # fmt: skip
    return Eval(_WRITE, address.keys, [packed(arguments), address.ids, b"".join(numbered.content)])


def _only_adds(change: Change) -> bool:
    """Whether a change only sets blobs and appends entries, not too many for one call of `write.lua`."""
    return not (
        change.drop or change.place or change.trim or change.new or change.upkeep
        or change.idle_ttl is not KEEP or change.at_position is not None
        or len(change.blobs) + len(change.append) > _MOST
    )  # fmt: skip


def _concerns(change: Change, names: AbstractSet[str]) -> bool:
    """Whether a change sets one of these blobs or refers to one."""
    return not (
        names.isdisjoint(change.blobs)
        and all(names.isdisjoint(blob.refs) for blob in change.blobs.values())
        and all(names.isdisjoint(refs) for _, _, refs in change.append)
    )


class _Numbered:
    """What `write.lua` is told of blobs and entries, in the making; their references are numbers.

    Args:
        blobs: The blobs to set.
        numbers: The numbers this process knows.
    """

    __slots__ = ("_blobs", "_numbers", "_places", "content", "relies")

    def __init__(self, blobs: Mapping[str, Blob], numbers: _Numbers) -> None:
        self.content: list[bytes] = []
        """What the arguments give the lengths of."""
        self.relies: bool = False
        """Whether a reference is to a known number."""
        self._blobs = blobs
        self._numbers = numbers
        # Those that the write sets get their numbers from the server, by their place among them, from 1 on.
        self._places = {name: place for place, name in enumerate(blobs, 1)}

    def blobs(self) -> list[Any] | None:
        """The arguments about the blobs; None if a number is missing."""
        arguments: list[Any] = []
        for name, (given, refs, mark, also) in self._blobs.items():
            short = short_record(given) if refs and given else None
            payload = given if short is None else short
            if not (refs or also or mark):
                self.content.append(payload)
                arguments += (short_name(name), 0, len(payload), short is not None, 0)
                continue
            found = self._runs(refs, 16)
            if found is None:
                return None
            references, missing = found
            belonging = with_lengths(map(short_name, also))
            self.content += (HEADER.pack(mark, len(references), len(belonging)), references, belonging, payload)
            length = 16 + len(references) + len(belonging)
            arguments += (short_name(name), length, len(payload), short is not None, missing or 0)
        return arguments

    def entries(self, entries: Sequence[Appended]) -> list[Any] | None:
        """The arguments about entries to append; None if a number is missing."""
        arguments: list[Any] = []
        for name, payload, refs in entries:
            found = self._runs(refs, 0)
            if found is None:
                return None
            references, missing = found
            short, full = short_entry(payload)
            self.content += (references, short)
            arguments += (short_name(name), len(references), len(short), full, 1 + len(refs), missing or 0)
        return arguments

    def _runs(self, refs: Sequence[str], at: int) -> tuple[bytes, list[int]] | None:
        """References as runs that begin at a byte, and which numbers the server is to add; None if one is missing."""
        found = runs_of(refs, self._numbers, self._places, at)
        if found is not None:
            references, added = found
            # Each number that it adds takes a run of 8 bytes, and two values there; the rest is known numbers.
            self.relies = self.relies or 4 * len(added) < len(references)
        return found


_kind = lru_cache(maxsize=4096)(kind_of)


def by_name(envelope: Envelope, change: Change) -> Eval:
    """The request for any change, made by `change.lua`; references are names."""
    address, now, margin, request = envelope
    guard = change.guard
    blobs, payloads = [], []
    for name, (payload, refs, mark, also) in change.blobs.items():
        short = short_record(payload) if refs and payload else None
        blobs.append((short_name(name), mark, _short(also), _short(refs), short is not None))
        payloads.append(payload if short is None else short)
    appended = [(each, short_entry(each[1])) for each in change.append]
    placed = [(each, short_entry(each[1].payload)) for each in change.place]
    payloads += [short for _, (short, _) in (*appended, *placed)]
    arguments = [
        address.digest, now, margin, *times(change.lease), request, _own_idle_ttl(change),
        change.upkeep, change.new, _number(change.at_position), _number(change.at_generation),
        _number(guard.generation), short_name(guard.needs or ""),
        blobs,
        [(short_name(name), _short(refs), full) for (name, _, refs), (_, full) in appended],
        [(short_name(name), entry.position, _short(entry.refs), full) for (name, entry), (_, full) in placed],
        _short(change.drop),
        [(short_name(name), tuple(positions)) for name, positions in change.trim.items()],
        _short(weighed(change)),
    ]  # fmt: skip
    return Eval(_CHANGE, address.keys, [packed(arguments), address.ids, *payloads])


def _short(names: Iterable[str]) -> list[str]:
    return [short_name(name) for name in names]


def times(lease: Lease) -> tuple[int, int]:
    """Idle time and maximal age in microseconds; -1 is unbounded."""
    idle, age = lease
    return -1 if idle is None else micro(idle), -1 if age is None else micro(age)


def micro(seconds: float) -> int:
    """A duration in microseconds, limited to 140 years, which a server's Lua can still represent exactly."""
    return min(round(seconds * MICRO), _LONGEST)


def weighed(change: Change) -> list[str]:
    """The lists that a change touches; what is dropped may be a blob."""
    names = dict.fromkeys([name for name, _, _ in change.append])
    names.update(dict.fromkeys([name for name, _ in change.place]))
    names.update(dict.fromkeys(change.trim))
    return list(names)


def _own_idle_ttl(change: Change) -> int:
    """A session's own idle time in microseconds; -1 leaves it as it is, 1 pins the session."""
    if change.idle_ttl is KEEP:
        return -1
    return 1 if change.idle_ttl is None else max(2, micro(change.idle_ttl))


def _number(value: int | None) -> int:
    return -1 if value is None else value
