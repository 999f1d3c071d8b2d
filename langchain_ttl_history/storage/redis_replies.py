"""What the scripts reply, understood. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

import ormsgpack

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Blob, Change, Entry, Outcome, Snapshot, Status
from langchain_ttl_history.storage.redis_numbers import TABLE, Known

__all__ = ["Listed", "listed", "snapshot", "stored"]

_NOW = Struct(">QQ")
_NUMBERS = Struct(">7Q")
_HEADER = Struct(">QII")
_ENTRY = Struct(">QII")
_OUTCOME = Struct(">5Q")
_LISTED = Struct(">QQQ")
_RUN = Struct(">IH")
_MICRO = 1_000_000
_STATUS = {b"D": Status.DELETED, b"A": Status.ABSENT, b"M": Status.MOVED}

Names = dict[int, dict[int, str]]
"""For each first letter the names of blobs by their numbers."""


def snapshot(reply: Sequence[Any]) -> tuple[Snapshot, Known | None]:
    """What `read.lua` replies, and the numbers it tells of."""
    now, fence = _NOW.unpack(reply[0])
    if len(reply) == 1:
        return Snapshot(now / _MICRO, fence), None
    generation, position, size, created, used, deadline, epoch = _NUMBERS.unpack(reply[1])
    outline = len(reply) == 4
    parts = [_split(reply[at], reply[at + 1]) for at in range(2, len(reply), 2)]
    blobs, lists, tables = _fields(parts[0]) if outline else _parts(*parts)
    names: Names = {}
    for letter, number, found in tables:
        of = names.setdefault(letter, {})
        of.update(zip(range(number * TABLE, (number + 1) * TABLE), map(_text, found), strict=False))
    known = Known(generation, epoch)
    for name, value in blobs:
        number = known.numbers[name] = int.from_bytes(value[1:5], "big")
        names.setdefault(name.encode("utf-8", "surrogatepass")[0], {})[number] = name
    return Snapshot(
        now=now / _MICRO,
        fence=fence,
        generation=generation,
        position=position,
        bytes=size,
        created_at=created / _MICRO,
        last_used_at=used / _MICRO,
        expires_at=deadline / _MICRO if deadline else None,
        blobs={name: _blob(value, names) for name, value in blobs},
        lists={name: _entries(value, names) for name, value in lists},
        outline=outline,
    ), known


_Pairs = list[tuple[str, bytes]]
_Tables = list[tuple[int, int, Sequence[bytes]]]


def _split(lengths: bytes, joined: bytes) -> list[bytes]:
    """Strings that were sent as one."""
    found: list[bytes] = []
    at = 0
    for length in ormsgpack.unpackb(lengths):
        found.append(joined[at : at + length])
        at += length
    return found


def _parts(blobs: Sequence[bytes], lists: Sequence[bytes], tables: Sequence[bytes]) -> tuple[_Pairs, _Pairs, _Tables]:
    return (
        [(_text(name), value) for name, value in _pairs(blobs)],
        [(_text(name), value) for name, value in _pairs(lists)],
        [_table(key, found) for key, found in _pairs(tables)],
    )


def _fields(fields: Sequence[bytes]) -> tuple[_Pairs, _Pairs, _Tables]:
    """The same, from every field of a session."""
    blobs: _Pairs = []
    newest: _Pairs = []
    older: dict[str, list[tuple[int, bytes]]] = {}
    tables: _Tables = []
    for field, value in _pairs(fields):
        kind = field[:1]
        if kind == b"b":
            blobs.append((_text(field[1:]), value))
        elif kind == b"l":
            newest.append((_text(field[1:]), value[24:]))
        elif kind == b"k":
            older.setdefault(_text(field[5:]), []).append((int.from_bytes(field[1:5], "big"), value))
        elif kind == b"t":
            tables.append(_table(field[1:], value))
    lists = [(name, b"".join([each for _, each in sorted(older.get(name, ()))] + [value])) for name, value in newest]
    return blobs, lists, tables


def _pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    each = iter(flat)
    return zip(each, each, strict=True)


def _table(key: bytes, value: bytes) -> tuple[int, int, Sequence[bytes]]:
    start = 4 + int.from_bytes(value[:4], "big")
    return key[0], int.from_bytes(key[1:5], "big"), _split(value[4:start], value[start:])


def _blob(value: bytes, names: Names) -> Blob:
    if not value[0]:
        return Blob(value[5:])
    mark, refs, also = _HEADER.unpack_from(value, 5)
    start = 21 + refs
    return Blob(value[start + also :], _refs(value[21:start], names), mark, _also(value[start : start + also]))


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
    """The names in runs of references: pairs of gap and count, or 255, a letter, the first number and the count."""
    found: list[str] = []
    of: Mapping[int, str] = {}
    at = after = 0
    while at < len(runs):
        if runs[at] == 255:
            of = names[runs[at + 1]]
            first, count = _RUN.unpack_from(runs, at + 2)
            at += 8
        else:
            first, count = after + runs[at], runs[at + 1]
            at += 2
        after = first + count
        found += [of[number] for number in range(first, after)]
    return tuple(found)


def _also(raw: bytes) -> tuple[str, ...]:
    found: list[str] = []
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        found.append(_text(raw[at + 4 : end]))
        at = end
    return tuple(found)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def stored(reply: Sequence[Any], change: Change, weighed: Sequence[str]) -> tuple[Outcome, Known | None]:
    """What `write.lua` replies, and the numbers of the blobs in it; None if it does not tell them."""
    status = reply[0]
    if status == b"X":
        return Outcome(Status.MISSING, frozenset(map(_text, reply[1]))), None
    if status != b"S":
        return Outcome(_STATUS[status]), None
    generation, position, size, before, epoch = _OUTCOME.unpack(reply[1])
    weights = Struct(f">{len(weighed)}I").unpack(reply[2])
    outcome = Outcome(
        Status.STORED,
        generation=generation,
        position=position,
        bytes=size,
        weights={name: weight for name, weight in zip(weighed, weights, strict=True) if weight},
    )
    given = reply[3]
    if len(given) != 4 * len(change.blobs):
        return outcome, None
    numbers = dict(zip(change.blobs, Struct(f">{len(change.blobs)}I").unpack(given), strict=True))
    return outcome, Known(generation, epoch, numbers, before)


class Listed(NamedTuple):
    """A session as the user's key tells it; times are microseconds since the epoch."""

    digest: str
    used: int
    bytes: int
    is_over: bool
    key: SessionKey


def listed(reply: Sequence[Any]) -> tuple[list[Listed], str | None]:
    """What `listing.lua` replies: sessions, and where to go on."""
    now = int.from_bytes(reply[1], "big")
    found = []
    for digest, entry in _pairs(reply[2:]):
        used, deadline, size = _LISTED.unpack_from(entry)
        start = 28 + int.from_bytes(entry[24:28], "big")
        key = SessionKey(_text(entry[28:start]), _text(entry[start:]))
        found.append(Listed(digest.decode(), used, size, bool(deadline) and deadline <= now, key))
    after = reply[0].decode()
    return found, None if after == "0" else after
