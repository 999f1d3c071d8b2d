"""Parses what the scripts reply that read and write one session. No I/O here.

A read of h, and of what it refers to and the log after its mark, is replied with these strings behind the head:

    "tm"..., a2 "m1" a2 "m2"                 a table of names, since numbers of kind m are among the references
    "h", 01 "h" 00000000 ... ff "m" ...      the blob that was asked for, by name; see `layout` for all values
    "log", 000000000001 ... ff "m" ... "x"   the list, by name
    00 "m" 00000001 "Ho"                     blobs that were followed; their numbers give their names
    00 "m" 00000000 "Hi"

If m1 and m2 are remembered (see `mirror`), the reply has only h and the log, and the blobs are added from there. The
reply to an outline is fields of the session's hash and their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import NamedTuple, TypeAlias

import ormsgpack

from langchain_ttl_history.encoding.records import decoder
from langchain_ttl_history.storage.redis.layout import (
    MICRO,
    SET_AGAIN,
    blob_in,
    entries_in,
    number_in,
    pairs,
    table_names,
    without_lengths,
)
from langchain_ttl_history.storage.redis.lineage import later
from langchain_ttl_history.storage.redis.mirror import NOTHING, Mirror, Remembered
from langchain_ttl_history.storage.redis.mirrors import Found, Stored
from langchain_ttl_history.storage.redis.names import full_name
from langchain_ttl_history.storage.redis.numbers import SessionNumbers
from langchain_ttl_history.storage.redis.references import KIND, TABLE, Names
from langchain_ttl_history.storage.types import Blob, Change, Entry, Outcome, Query, Snapshot, Status

__all__ = ["may_complete", "parse_read", "parse_write"]

_NOW = Struct(">QQ")
_HEAD = Struct(">10Q4I")
_OUTCOME = Struct(">7QI")
_REQUESTS = 1 + _OUTCOME.size
_STATUS = {b"D": Status.DELETED, b"A": Status.ABSENT, b"M": Status.MOVED}


class _Head(NamedTuple):
    """How the reply of `read.lua` about a session begins; times are microseconds since the epoch."""

    now: int
    fence: int
    generation: int
    position: int
    bytes: int
    created_at: int
    last_used_at: int
    deadline: int
    """0 if there is none."""
    epoch: int
    edition: int
    is_outline: int
    tables: int
    """How many of the strings that follow are fields and values of tables; then, likewise, of blobs and of lists."""
    blobs: int
    lists: int


def may_complete(reply: Sequence[bytes], mirror: Mirror, by: str) -> bool:
    """Whether a mirror may complete the reply of `read.lua`.

    It may not if the server left out what was remembered as of request `by`, but the mirror has become one of another
    lineage since.
    """
    requests = _requests_of(reply)
    return by.encode() not in requests or later(requests, mirror.requests) is not None


def _requests_of(reply: Sequence[bytes]) -> bytes:
    return reply[0][_HEAD.size :]


@decoder("a session")
def parse_read(
    reply: Sequence[bytes], query: Query, mirror: Mirror | None, remembered: Remembered
) -> tuple[Snapshot, SessionNumbers | None, Found | None]:
    """Parse the reply of `read.lua`.

    Args:
        reply: The reply.
        query: What was asked.
        mirror: The remembered blobs, of which the server may have left out some; None if nothing was remembered.
        remembered: What the server was told that is remembered.

    Returns:
        The snapshot, completed from the mirror; the numbers that the reply told; what to remember from now on. The last
        two are None if there is no session.

    Raises:
        CorruptRecordError: It cannot be parsed.
    """
    if len(reply) == 1:
        now, fence = _NOW.unpack(reply[0])
        return Snapshot(now / MICRO, fence), None, None
    head, requests = _Head._make(_HEAD.unpack_from(reply[0])), _requests_of(reply)
    if mirror is None or not _left_out_any(head, requests, mirror, remembered):
        mirror, remembered = Mirror(head.generation, head.edition, requests), NOTHING
    names, strings = _Names(mirror.names()), _strings(reply)
    values, raw_lists = _every(strings, names) if head.is_outline else _some(strings, names, head)
    numbers = {name: number_in(value) for name, value in values.items()}
    names.update(zip(numbers.values(), numbers, strict=True))
    blobs = {name: blob_in(value, names) for name, value in values.items()}
    lists = {name: entries_in(raw, names) for name, raw in raw_lists}
    lasting = {name: number for name, number in numbers.items() if not values[name][0] & SET_AGAIN}
    found = Found(mirror, requests, {**blobs}, lasting)
    if head.is_outline:
        # Only what was left out: another thread's answer may have added more to the mirror since.
        blobs = {name: mirror.blobs[name] for name in remembered.numbers} | blobs
    else:
        refs = [ref for blob in blobs.values() for ref in blob.refs]
        refs += [ref for entries in lists.values() for entry in entries for ref in entry.refs]
        mirror.complete(blobs, refs, query.follow, query.known)
    return _snapshot(head, blobs, lists), SessionNumbers(head.generation, head.epoch, numbers, requests), found


def _left_out_any(head: _Head, requests: bytes, mirror: Mirror, remembered: Remembered) -> bool:
    """Whether the server has left out what it was told that is remembered: that still held where it replied."""
    is_same_edition = (mirror.generation, mirror.edition) == (head.generation, head.edition)
    return is_same_edition and remembered.by.encode() in requests


def _strings(reply: Sequence[bytes]) -> list[bytes]:
    """The strings that a reply holds joined; their lengths stand before them."""
    strings: list[bytes] = []
    joined = b"".join(reply[2:])
    at = 0
    for length in ormsgpack.unpackb(reply[1]):
        strings.append(joined[at : at + length])
        at += length
    return strings


def _snapshot(head: _Head, blobs: Mapping[str, Blob], lists: Mapping[str, Sequence[Entry]]) -> Snapshot:
    return Snapshot(
        now=head.now / MICRO,
        fence=head.fence,
        generation=head.generation,
        position=head.position,
        bytes=head.bytes,
        created_at=head.created_at / MICRO,
        last_used_at=head.last_used_at / MICRO,
        expires_at=head.deadline / MICRO if head.deadline else None,
        blobs=blobs,
        lists=lists,
        outline=bool(head.is_outline),
    )


class _Names(Names):
    """The names of blobs by kind and number. Tables of names are unpacked once a number is asked for that is new."""

    def __init__(self, known: Names) -> None:
        super().__init__(known)
        self.tables: list[tuple[bytes, bytes]] = []
        """The field and the value of each table."""

    def __missing__(self, number: int) -> str:
        tables, self.tables = self.tables, []
        for field, value in tables:
            start = (field[1] << KIND) + TABLE * int.from_bytes(field[2:], "big")
            self.update(zip(range(start, start + TABLE), map(full_name, table_names(value)), strict=False))
        if number not in self:
            raise KeyError(number)
        return self[number]


# The values of blobs, and lists.
_Raw: TypeAlias = tuple[dict[str, bytes], list[tuple[str, bytes]]]


def _some(strings: Sequence[bytes], names: _Names, head: _Head) -> _Raw:
    """The blobs and lists in a reply that is not an outline."""
    blobs_at = head.tables
    lists_at = blobs_at + head.blobs
    followed_at = lists_at + head.lists
    names.tables += pairs(strings[:blobs_at])
    values = {full_name(name): value for name, value in pairs(strings[blobs_at:lists_at])}
    for value in strings[followed_at:]:
        values[names[number_in(value)]] = value
    return values, [(full_name(name), value) for name, value in pairs(strings[lists_at:followed_at])]


def _every(strings: Sequence[bytes], names: _Names) -> _Raw:
    """The blobs and lists in an outline, which has every field of the session."""
    values: dict[str, bytes] = {}
    newest: list[tuple[str, bytes]] = []
    older: dict[str, list[tuple[int, bytes]]] = {}
    for field, value in pairs(strings):
        kind = field[:1]
        if kind == b"b":
            values[full_name(field[1:])] = value
        elif kind == b"l":
            newest.append((full_name(field[1:]), value[24:]))
        elif kind == b"k":
            older.setdefault(full_name(field[5:]), []).append((int.from_bytes(field[1:5], "big"), value))
        elif kind == b"t":
            names.tables.append((field, value))
    lists = [(name, b"".join([*(each for _, each in sorted(older.get(name, ()))), value])) for name, value in newest]
    return values, lists


@decoder("a session")
def parse_write(reply: bytes, change: Change, weighed: Sequence[str]) -> tuple[Outcome, Stored | None]:
    """Parse the reply of a write: its outcome, and what to remember; None if the reply tells no numbers."""
    status = reply[:1]
    if status == b"X":
        return Outcome(Status.MISSING, frozenset(map(full_name, without_lengths(reply[1:])))), None
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
        number = numbers[name] = number_in(reply[at : at + 6])
        if not reply[at] & SET_AGAIN:
            lasting[name] = number
    for name in change.drop:
        if numbers.pop(name, None) is not None:
            lasting.pop(name, None)
    return outcome, Stored(SessionNumbers(generation, epoch, numbers, requests), epoch_before, (before, after), lasting)
