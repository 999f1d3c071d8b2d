"""Parses what the scripts reply. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

import ormsgpack

from langchain_ttl_history.encoding.records import decoder
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Blob, Change, Entry, Outcome, Query, Snapshot, Status
from langchain_ttl_history.storage.redis.lineage import later
from langchain_ttl_history.storage.redis.mirror import Mirror, Remembered
from langchain_ttl_history.storage.redis.names import full_name
from langchain_ttl_history.storage.redis.numbers import KIND, TABLE, Known
from langchain_ttl_history.storage.redis.payloads import full_payload

__all__ = ["Listed", "Stored", "is_completed", "listed", "snapshot", "stored", "table_names"]

_NOW = Struct(">QQ")
_HEAD = Struct(">10Q4I")
_HEADER = Struct(">QII")
_ENTRY = Struct(">HIIIH")
_OUTCOME = Struct(">7QI")
_REQUESTS = 1 + _OUTCOME.size
_LISTED = Struct(">QQI")
_MICRO = 1_000_000
_STATUS = {b"D": Status.DELETED, b"A": Status.ABSENT, b"M": Status.MOVED}

Names = dict[int, str]
"""The names of blobs by kind and number."""


def is_completed(reply: Sequence[bytes], mirror: Mirror, by: str) -> bool:
    """Whether a mirror may complete the reply of `read.lua`.

    It may not if the server left out what was remembered as of request `by`, but the mirror has become one of another
    lineage since.
    """
    requests = _requests_of(reply)
    return by.encode() not in requests or later(requests, mirror.requests) is not None


def _requests_of(reply: Sequence[bytes]) -> bytes:
    return reply[0][_HEAD.size :]


@decoder("a session")
def snapshot(
    reply: Sequence[bytes], query: Query, mirror: Mirror | None, remembered: Remembered
) -> tuple[Snapshot, Known | None, Mirror | None]:
    """Parse the reply of `read.lua`.

    Args:
        reply: The reply.
        query: What was asked.
        mirror: The remembered blobs, of which the server may have left out some; None if nothing was remembered.
        remembered: What the server was told that is remembered.

    Returns:
        The snapshot, completed from the mirror; the numbers that the reply told; the mirror to remember from now on.
        The last two are None if there is no session.
    """
    if len(reply) == 1:
        now, fence = _NOW.unpack(reply[0])
        return Snapshot(now / _MICRO, fence), None, None
    head = _HEAD.unpack_from(reply[0])
    requests = _requests_of(reply)
    now, fence, generation, position, size, created, used, deadline, epoch, edition, outline, *counts = head
    strings: list[bytes] = []
    joined = b"".join(reply[2:])
    at = 0
    for length in ormsgpack.unpackb(reply[1]):
        strings.append(joined[at : at + length])
        at += length
    if mirror is not None and (
        (mirror.generation, mirror.edition) != (generation, edition) or remembered.by.encode() not in requests
    ):
        mirror = None  # Nothing was left out.
    left_out = remembered.numbers if mirror is not None else {}
    names: Names = {} if mirror is None else mirror.names()
    values, lists = _every(strings, names) if outline else _some(strings, names, *counts)
    blobs = {name: _blob(value, names) for name, value in values.items()}
    entries = {name: _entries(raw, names) for name, raw in lists}
    numbers = {name: int.from_bytes(value[1:6], "big") for name, value in values.items()}
    known = Known(generation, epoch, numbers, requests)
    lasting = {name: number for name, number in numbers.items() if not values[name][0] & 2}
    if mirror is None:
        mirror = Mirror(generation, edition, requests)
    else:
        mirror.requests = later(requests, mirror.requests) or requests
    mirror.add(blobs, lasting)
    if outline:
        # Only what was left out: another thread's answer may have added more to the mirror since.
        blobs = {name: mirror.blobs[name] for name in left_out} | blobs
    else:
        refs = [ref for blob in blobs.values() for ref in blob.refs]
        refs += [ref for listed in entries.values() for entry in listed for ref in entry.refs]
        mirror.complete(blobs, refs, query.follow, query.known)
    return (
        Snapshot(
            now=now / _MICRO,
            fence=fence,
            generation=generation,
            position=position,
            bytes=size,
            created_at=created / _MICRO,
            last_used_at=used / _MICRO,
            expires_at=deadline / _MICRO if deadline else None,
            blobs=blobs,
            lists=entries,
            outline=bool(outline),
        ),
        known,
        mirror,
    )


_Found = tuple[dict[str, bytes], list[tuple[str, bytes]]]
"""The values of blobs, and lists."""


def _some(strings: Sequence[bytes], names: Names, tables: int, blobs: int, lists: int) -> _Found:
    """The blobs and lists in a reply that is not an outline."""
    for field, value in _pairs(strings[:tables]):
        _learn(names, field, value)
    listed, followed = tables + blobs, tables + blobs + lists
    values = {full_name(name): value for name, value in _pairs(strings[tables:listed])}
    for value in strings[followed:]:
        values[names[int.from_bytes(value[1:6], "big")]] = value
    return values, [(full_name(name), value) for name, value in _pairs(strings[listed:followed])]


def _every(strings: Sequence[bytes], names: Names) -> _Found:
    """The blobs and lists in an outline, which has every field of the session."""
    values: dict[str, bytes] = {}
    newest: list[tuple[str, bytes]] = []
    older: dict[str, list[tuple[int, bytes]]] = {}
    for field, value in _pairs(strings):
        kind = field[:1]
        if kind == b"b":
            values[full_name(field[1:])] = value
        elif kind == b"l":
            newest.append((full_name(field[1:]), value[24:]))
        elif kind == b"k":
            older.setdefault(full_name(field[5:]), []).append((int.from_bytes(field[1:5], "big"), value))
        elif kind == b"t":
            _learn(names, field, value)
    lists = [(name, b"".join([*(each for _, each in sorted(older.get(name, ()))), value])) for name, value in newest]
    return values, lists


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    each = iter(flat)
    return zip(each, each, strict=True)


def _learn(names: Names, field: bytes, table: bytes) -> None:
    """Learn the names in a table."""
    start = (field[1] << KIND) + TABLE * int.from_bytes(field[2:], "big")
    names.update(zip(range(start, start + TABLE), map(full_name, table_names(table)), strict=False))


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
    sort = value[0]
    if not sort & 1:
        return Blob(value[6:])
    mark, refs, also = _HEADER.unpack_from(value, 6)
    start = 22 + refs
    payload = value[start + also :]
    if sort & 4:
        payload = full_payload(payload[4:], int.from_bytes(payload[:4], "big"))
    return Blob(payload, _refs(value[22:start], names), mark, _also(value[start : start + also]))


def _entries(raw: bytes, names: Names) -> list[Entry]:
    found: list[Entry] = []
    at, end = 0, len(raw)
    while at < end:
        high, low, refs, payload, full = _ENTRY.unpack_from(raw, at)
        start = at + 16 + refs
        at = start + payload
        content = full_payload(raw[start:at], full) if full else raw[start:at]
        found.append(Entry(high << 32 | low, content, _refs(raw[start - refs : start], names) if refs else ()))
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
            first, count = after + runs[at] - 100, runs[at + 1]
            at += 2
        after = first + count
        found += [names[number] for number in range(first, after)]
    return tuple(found)


def _also(raw: bytes) -> tuple[str, ...]:
    return tuple(map(full_name, _without_lengths(raw)))


def _without_lengths(raw: bytes) -> Iterator[bytes]:
    """The strings in joined strings, each preceded by its length in 4 bytes."""
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        yield raw[at + 4 : end]
        at = end


class Stored(NamedTuple):
    """What the answer to a write tells for the caches."""

    known: Known
    """The numbers of the blobs it stored, in the epoch after it."""
    epoch: int
    """The epoch before it."""
    editions: tuple[int, int]
    """The editions before and after it."""
    lasting: dict[str, int]
    """The numbers of those of its blobs that were never set again with other content, and so may be remembered."""


@decoder("a session")
def stored(reply: bytes, change: Change, weighed: Sequence[str]) -> tuple[Outcome, Stored | None]:
    """Parse the reply of a write: its outcome, and what to remember; None if the reply tells no numbers."""
    status = reply[:1]
    if status == b"X":
        return Outcome(Status.MISSING, frozenset(map(full_name, _without_lengths(reply[1:])))), None
    if status != b"S":
        return Outcome(_STATUS[status]), None
    generation, position, size, epoch_before, epoch, before, after, length = _OUTCOME.unpack_from(reply, 1)
    weights_at = _REQUESTS + length
    requests = reply[_REQUESTS:weights_at]
    start = weights_at + 4 * len(weighed)
    weights = [int.from_bytes(reply[at : at + 4], "big") for at in range(weights_at, start, 4)]
    outcome = Outcome(
        Status.STORED,
        generation=generation,
        position=position,
        bytes=size,
        weights={name: weight for name, weight in zip(weighed, weights, strict=True) if weight},
    )
    if len(reply) != start + 6 * len(change.blobs):
        return outcome, None  # The request had been done before, and was sent again.
    numbers: dict[str, int] = {}
    lasting: dict[str, int] = {}
    for name, at in zip(change.blobs, range(start, len(reply), 6), strict=True):
        number = numbers[name] = int.from_bytes(reply[at + 1 : at + 6], "big")
        if not reply[at] & 2:
            lasting[name] = number
    for name in change.drop:
        if numbers.pop(name, None) is not None:
            lasting.pop(name, None)
    return outcome, Stored(Known(generation, epoch, numbers, requests), epoch_before, (before, after), lasting)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


class Listed(NamedTuple):
    """A session as its user's hash lists it; times are microseconds since the epoch."""

    digest: str
    used: int
    is_expired: bool
    key: SessionKey


@decoder("a user's index")
def listed(reply: Sequence[Any]) -> tuple[list[Listed], str | None]:
    """Parse the reply of `listing.lua`: sessions, and where the next page begins; None after the last."""
    now = int.from_bytes(reply[1], "big")
    found = []
    for digest, entry in _pairs(reply[2:]):
        used, deadline, length = _LISTED.unpack_from(entry)
        start = 20 + length
        key = SessionKey(_text(entry[20:start]), _text(entry[start:]))
        found.append(Listed(digest.decode(), used, bool(deadline) and deadline <= now, key))
    after = reply[0].decode()
    return found, None if after == "0" else after
