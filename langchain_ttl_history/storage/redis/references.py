"""References as Redis holds them: numbers of blobs, in runs. Pure, without I/O.

Each blob of a session has a number, which counts up by its kind, and a checkpoint mostly refers to consecutive ones. So
references to m3, m4, m5 and m7, whose kind is the letter m, take ten bytes:

    ff 6d 00000003 0003    255, the kind, the first number, the count: 3, 4 and 5
    65 01                  the gap plus 100, the count: 6 would be next, and one further on is 7

The second form takes a gap and a count that fit a byte each. In this process a number has its kind in its higher bits.
Scripts do the same in ``lua/shared/layout.lua``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from langchain_ttl_history.keys import encoded
from langchain_ttl_history.storage.redis.names import short_name

__all__ = ["KIND", "TABLE", "Names", "flat_runs", "kind_of", "refs_in", "runs_of"]

TABLE = 16
"""How many names a table holds."""
KIND = 32
"""A number in this process has its kind in the bits from this one on."""
# The bits of a number without its kind.
_NUMBER = (1 << KIND) - 1
# A run of one, in which `write.lua` puts the number of a blob that the same write stores.
_PLACE = b"\xff\0\0\0\0\0\0\1"

Names: TypeAlias = dict[int, str]
"""The names of blobs by kind and number."""


def kind_of(name: str) -> int:
    """The kind of a blob, as ``lua/shared/common.lua`` says."""
    raw = encoded(short_name(name))
    first = raw[0] if raw else 0
    if first > 127:
        return 0
    return first + 128 if first and len(raw) > 32 else first


def flat_runs(numbers: Iterable[int]) -> list[int]:
    """Numbers in runs, as `read.lua` takes them: kind, first number and count of each run in turn."""
    runs: list[int] = []
    first = after = -1
    for number in sorted(numbers):
        if number != after:
            if after >= 0:
                runs += (first >> KIND, first & _NUMBER, after - first)
            first = number
        after = number + 1
    if after >= 0:
        runs += (first >> KIND, first & _NUMBER, after - first)
    return runs


def runs_of(
    refs: Iterable[str], numbers: Mapping[str, int], places: Mapping[str, int], start: int
) -> tuple[bytes, list[int]] | None:
    """References as they are stored; None if one has no number yet.

    Args:
        refs: Names of blobs.
        numbers: Numbers by name.
        places: The blobs of the same write, counted from 1, by name; their numbers may not be known yet.
        start: How many bytes will be in front of the runs.

    Returns:
        The runs, and for each number that is still missing in them its offset and the place of its blob.
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
            place = places.get(name)
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


def refs_in(runs: bytes, names: Names) -> tuple[str, ...]:
    """The names that runs of references stand for."""
    found: list[str] = []
    at = after = 0
    while at < len(runs):
        if runs[at] == 255:
            first = int.from_bytes(runs[at + 1 : at + 6], "big")
            count = int.from_bytes(runs[at + 6 : at + 8], "big")
            at += 8
        else:
            first, count = after + runs[at] - 100, runs[at + 1]
            at += 2
        after = first + count
        found += [names[number] for number in range(first, after)]
    return tuple(found)
