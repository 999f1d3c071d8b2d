"""What the scripts reply, understood. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

import ormsgpack

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Blob, Change, Entry, Outcome, Snapshot, Status
from langchain_ttl_history.storage.redis_numbers import KIND, TABLE, Known

__all__ = ["Listed", "listed", "snapshot", "stored"]

_NOW = Struct(">QQ")
_HEAD = Struct(">9Q4I")
_HEADER = Struct(">QII")
_ENTRY = Struct(">QII")
_OUTCOME = Struct(">5Q")
_LISTED = Struct(">QQI")
_MICRO = 1_000_000
_STATUS = {b"D": Status.DELETED, b"A": Status.ABSENT, b"M": Status.MOVED}

Names = dict[int, str]
"""The names of blobs by kind and number."""


def snapshot(reply: Sequence[bytes]) -> tuple[Snapshot, Known | None]:
    """What `read.lua` replies, and the numbers it tells of."""
    if len(reply) == 1:
        now, fence = _NOW.unpack(reply[0])
        return Snapshot(now / _MICRO, fence), None
    now, fence, generation, position, size, created, used, deadline, epoch, outline, *counts = _HEAD.unpack(reply[0])
    strings: list[bytes] = []
    joined = b"".join(reply[2:])
    at = 0
    for length in ormsgpack.unpackb(reply[1]):
        strings.append(joined[at : at + length])
        at += length
    blobs, lists, numbers = _every(strings) if outline else _some(strings, *counts)
    return Snapshot(
        now=now / _MICRO,
        fence=fence,
        generation=generation,
        position=position,
        bytes=size,
        created_at=created / _MICRO,
        last_used_at=used / _MICRO,
        expires_at=deadline / _MICRO if deadline else None,
        blobs=blobs,
        lists=lists,
        outline=bool(outline),
    ), Known(generation, epoch, numbers)


_Found = tuple[dict[str, Blob], dict[str, list[Entry]], dict[str, int]]
"""Blobs, lists, and the numbers of the blobs."""


def _some(strings: Sequence[bytes], tables: int, blobs: int, lists: int) -> _Found:
    """What was asked for, from tables, named blobs, lists, and blobs that were followed."""
    names: Names = {}
    for field, value in _pairs(strings[:tables]):
        _learn(names, field, value)
    values: dict[str, bytes] = {}
    numbers: dict[str, int] = {}
    listed, followed = tables + blobs, tables + blobs + lists
    for raw, value in _pairs(strings[tables:listed]):
        name = _text(raw)
        values[name] = value
        numbers[name] = int.from_bytes(value[1:6], "big")
    for value in strings[followed:]:
        number = int.from_bytes(value[1:6], "big")
        name = names[number]
        values[name] = value
        numbers[name] = number
    return (
        {name: _blob(value, names) for name, value in values.items()},
        {_text(name): _entries(value, names) for name, value in _pairs(strings[listed:followed])},
        numbers,
    )


def _every(strings: Sequence[bytes]) -> _Found:
    """The same, from every field of a session."""
    names: Names = {}
    values: dict[str, bytes] = {}
    newest: list[tuple[str, bytes]] = []
    older: dict[str, list[tuple[int, bytes]]] = {}
    for field, value in _pairs(strings):
        kind = field[:1]
        if kind == b"b":
            values[_text(field[1:])] = value
        elif kind == b"l":
            newest.append((_text(field[1:]), value[24:]))
        elif kind == b"k":
            older.setdefault(_text(field[5:]), []).append((int.from_bytes(field[1:5], "big"), value))
        elif kind == b"t":
            _learn(names, field, value)
    lists = [(name, b"".join([*(each for _, each in sorted(older.get(name, ()))), value])) for name, value in newest]
    return (
        {name: _blob(value, names) for name, value in values.items()},
        {name: _entries(raw, names) for name, raw in lists},
        {name: int.from_bytes(value[1:6], "big") for name, value in values.items()},
    )


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    each = iter(flat)
    return zip(each, each, strict=True)


def _learn(names: Names, field: bytes, table: bytes) -> None:
    """Learn the names in a table."""
    start = (field[1] << KIND) + TABLE * int.from_bytes(field[2:], "big")
    names.update(zip(range(start, start + TABLE), map(_text, table_names(table)), strict=False))


def table_names(table: bytes) -> list[bytes]:
    """The names in a table: strings of MessagePack, which need not be text to others."""
    found: list[bytes] = []
    at, end = 0, len(table)
    while at < end:
        kind = table[at]
        start = at + 1
        if kind < 0xD9:
            at = start + (kind & 0x1F)
        else:
            start += 1 << (kind - 0xD9)
            at = start + int.from_bytes(table[at + 1 : start], "big")
        found.append(table[start:at])
    return found


def _blob(value: bytes, names: Names) -> Blob:
    if not value[0]:
        return Blob(value[6:])
    mark, refs, also = _HEADER.unpack_from(value, 6)
    start = 22 + refs
    return Blob(value[start + also :], _refs(value[22:start], names), mark, _also(value[start : start + also]))


def _entries(raw: bytes, names: Names) -> list[Entry]:
    found: list[Entry] = []
    at, end = 0, len(raw)
    while at < end:
        position, refs, payload = _ENTRY.unpack_from(raw, at)
        start = at + 16 + refs
        at = start + payload
        found.append(Entry(position, raw[start:at], _refs(raw[start - refs : start], names) if refs else ()))
    return found


def _refs(runs: bytes, names: Names) -> tuple[str, ...]:
    """The names in runs of references: pairs of gap and count, or 255, a kind, the first number and the count."""
    found: list[str] = []
    at = after = 0
    while at < len(runs):
        if runs[at] == 255:
            first = int.from_bytes(runs[at + 1 : at + 6], "big")
            count = int.from_bytes(runs[at + 6 : at + 8], "big")
            at += 8
        else:
            first, count = after + runs[at], runs[at + 1]
            at += 2
        after = first + count
        found += [names[number] for number in range(first, after)]
    return tuple(found)


def _also(raw: bytes) -> tuple[str, ...]:
    return tuple(map(_text, _behind_lengths(raw)))


def _behind_lengths(raw: bytes) -> Iterator[bytes]:
    """Strings, each behind its length."""
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        yield raw[at + 4 : end]
        at = end


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def stored(reply: bytes, change: Change, weighed: Sequence[str]) -> tuple[Outcome, Known | None, int]:
    """What a write replies: its outcome, the numbers of its blobs if they are told, the epoch before it."""
    status = reply[:1]
    if status == b"X":
        return Outcome(Status.MISSING, frozenset(map(_text, _behind_lengths(reply[1:])))), None, 0
    if status != b"S":
        return Outcome(_STATUS[status]), None, 0
    generation, position, size, before, epoch = _OUTCOME.unpack_from(reply, 1)
    start = 41 + 4 * len(weighed)
    weights = [int.from_bytes(reply[at : at + 4], "big") for at in range(41, start, 4)]
    outcome = Outcome(
        Status.STORED,
        generation=generation,
        position=position,
        bytes=size,
        weights={name: weight for name, weight in zip(weighed, weights, strict=True) if weight},
    )
    if len(reply) != start + 5 * len(change.blobs):
        return outcome, None, before
    places = range(start, len(reply), 5)
    numbers = {name: int.from_bytes(reply[at : at + 5], "big") for name, at in zip(change.blobs, places, strict=True)}
    for name in change.drop:
        numbers.pop(name, None)
    return outcome, Known(generation, epoch, numbers), before


class Listed(NamedTuple):
    """A session as the user's key tells it; times are microseconds since the epoch."""

    digest: str
    used: int
    is_over: bool
    key: SessionKey


def listed(reply: Sequence[Any]) -> tuple[list[Listed], str | None]:
    """What `listing.lua` replies: sessions, and where to go on."""
    now = int.from_bytes(reply[1], "big")
    found = []
    for digest, entry in _pairs(reply[2:]):
        used, deadline, length = _LISTED.unpack_from(entry)
        start = 20 + length
        key = SessionKey(_text(entry[20:start]), _text(entry[start:]))
        found.append(Listed(digest.decode(), used, bool(deadline) and deadline <= now, key))
    after = reply[0].decode()
    return found, None if after == "0" else after
