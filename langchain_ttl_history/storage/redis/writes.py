"""Writes to Redis as values: a lean one for the common change, and one for any change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

from langchain_ttl_history.storage.base import KEEP, Change, Lease
from langchain_ttl_history.storage.redis.commands import Eval, Script, encoded, packed
from langchain_ttl_history.storage.redis.lineage import newest
from langchain_ttl_history.storage.redis.names import short_name
from langchain_ttl_history.storage.redis.numbers import Dropping, Known, kind_of, runs
from langchain_ttl_history.storage.redis.payloads import short_entry, short_record

__all__ = ["change", "lean", "micro", "times", "weighed"]

_WRITE = Script.load("write", "numbers")
_CHANGE = Script.load("change", "layout", "numbers", "lists", "tables")

_MICRO = 1_000_000
_LONGEST = 1 << 52
# What write.lua takes at once, so that its arguments fit Lua's stack.
_MOST = 500
_HEADER = Struct(">QII")

Address = tuple[tuple[bytes, bytes], str, bytes]
"""The keys of a session, its digest, and its ids."""


def lean(
    to: Address, now: int, margin: int, change: Change, known: Known, dropping: Dropping, request: str
) -> Eval | None:
    """The request for a change that `write.lua` can make; None if that takes `change.lua`.

    Such a change only sets blobs and appends entries, and refers only to blobs that it sets itself or whose numbers are
    known.

    Args:
        to: The keys of the session, its digest, and its ids.
        now: Microseconds since the epoch, or -1 for the server's time.
        margin: By how many milliseconds keys outlive their deadlines.
        change: What to write.
        known: The numbers this process knows.
        dropping: A request of this process under way that drops blobs; see `Dropping`.
        request: The id of this request.
    """
    blobs, append = change.blobs, change.append
    if (
        change.drop or change.place or change.trim or change.new or change.upkeep
        or change.idle_ttl is not KEEP or change.at_position is not None or len(blobs) + len(append) > _MOST
    ):  # fmt: skip
        return None
    keys, digest, ids = to
    numbers = known.numbers
    own = {name: place for place, name in enumerate(blobs, 1)}
    dropper, dropped = dropping
    if dropped and not (
        dropped.isdisjoint(blobs)
        and all(dropped.isdisjoint(blob.refs) for blob in blobs.values())
        and all(dropped.isdisjoint(refs) for _, _, refs in append)
    ):
        return None
    kinds: dict[int, None] = {}
    # Whether the write depends on the numbers, so that the server has to check that they are still valid.
    counts = bool(dropped)
    stored: list[Any] = []
    content: list[bytes] = []
    for name, (given, refs, mark, also) in blobs.items():
        short = short_record(given) if refs and given else None
        payload = given if short is None else short
        if name in numbers:
            counts = True
        else:
            kinds[_kind(name)] = None
        if refs or also or mark:
            found = runs(refs, numbers, own, 16)
            if found is None:
                return None
            told, missing = found
            counts = counts or 4 * len(missing) < len(told)
            belonging = _with_lengths(also)
            content += (_HEADER.pack(mark, len(told), len(belonging)), told, belonging, payload)
            stored += (short_name(name), 16 + len(told) + len(belonging), len(payload), short is not None, missing or 0)
        else:
            content.append(payload)
            stored += (short_name(name), 0, len(payload), short is not None, 0)
    appended: list[Any] = []
    for name, payload, refs in append:
        found = runs(refs, numbers, own, 0)
        if found is None:
            return None
        told, missing = found
        counts = counts or 4 * len(missing) < len(told)
        short, full = short_entry(payload)
        content += (told, short)
        appended += (short_name(name), len(told), len(short), full, 1 + len(refs), missing or 0)
    guard = change.guard
    arguments = [
        now, margin, *times(change.lease), _number(change.at_generation), _number(guard.generation),
        short_name(guard.needs or ""), *((known.generation, known.epoch) if counts else (-1, -1)),
        newest(known.requests).decode(), dropper, digest, request, list(kinds), stored, appended,
    ]  # fmt: skip
    return Eval(_WRITE, keys, [packed(arguments), ids, b"".join(content)])


_kind = lru_cache(maxsize=4096)(kind_of)


def _with_lengths(names: Sequence[str]) -> bytes:
    """Names joined, each preceded by its length in 4 bytes."""
    raw = [encoded(short_name(name)) for name in names]
    return b"".join([b"%b%b" % (len(name).to_bytes(4, "big"), name) for name in raw])


def change(to: Address, now: int, margin: int, change: Change, request: str) -> Eval:
    """The request for any change; references are sent as names. Arguments as for :func:`lean`."""
    keys, digest, ids = to
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
        digest, now, margin, *times(change.lease), request, _own(change),
        change.upkeep, change.new, _number(change.at_position), _number(change.at_generation),
        _number(guard.generation), short_name(guard.needs or ""),
        blobs,
        [(short_name(name), _short(refs), full) for (name, _, refs), (_, full) in appended],
        [(short_name(name), entry.position, _short(entry.refs), full) for (name, entry), (_, full) in placed],
        _short(change.drop),
        [(short_name(name), tuple(positions)) for name, positions in change.trim.items()],
        _short(weighed(change)),
    ]  # fmt: skip
    return Eval(_CHANGE, keys, [packed(arguments), ids, *payloads])


def _short(names: Iterable[str]) -> list[str]:
    return [short_name(name) for name in names]


def times(lease: Lease) -> tuple[int, int]:
    """Idle time and maximal age in microseconds; -1 is unbounded."""
    idle, age = lease
    return -1 if idle is None else micro(idle), -1 if age is None else micro(age)


def micro(seconds: float) -> int:
    """A duration in microseconds, limited to 140 years, which a server's Lua can still represent exactly."""
    return min(round(seconds * _MICRO), _LONGEST)


def weighed(change: Change) -> list[str]:
    """The lists that a change touches; what is dropped may be a blob."""
    names = dict.fromkeys([name for name, _, _ in change.append])
    names.update(dict.fromkeys([name for name, _ in change.place]))
    names.update(dict.fromkeys(change.trim))
    return list(names)


def _own(change: Change) -> int:
    own = change.idle_ttl
    if own is KEEP:
        return -1
    return 1 if own is None else max(2, micro(own))


def _number(value: int | None) -> int:
    return -1 if value is None else value
