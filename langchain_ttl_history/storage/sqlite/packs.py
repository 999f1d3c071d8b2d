"""Packs: what one write stores of a session, as bytes that are appended to those of earlier writes.

A pack begins with its size, the size of its header and a checksum; header and payloads follow. A segment is a run of
packs. Within one, a name is spelled out where it is used first and a number from then on, so that a checkpoint that
shows 80 messages takes about 100 bytes for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from struct import Struct
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

from langchain_ttl_history.encoding.records import decoder, pack, unpack
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.types import Blob, Entry

__all__ = ["Large", "Listed", "Named", "Names", "decode", "encode", "sealed", "size_of", "unsealed"]

Names: TypeAlias = dict[str, int]
"""The names of a segment and their numbers, which count up from 0."""


class Large(NamedTuple):
    """A payload that has a row of its own."""

    number: int
    """The row's."""
    size: int


Named: TypeAlias = tuple[str, Blob, Large | None]
"""A blob, and where its payload is if that is not here."""
Listed: TypeAlias = tuple[str, Entry]
"""An entry of a list."""

_SIZES = Struct(">II")
# Set in the second size where a checksum of what follows it comes next, as from format 2 on; the first size counts it.
_SUMMED = 1 << 31
_SUM = Struct(">I")


def encode(names: Names, named: Iterable[Named], listed: Iterable[Listed]) -> bytes:
    """Some blobs and entries as a pack; its new names are added to the segment's."""
    known = len(names)
    parts = [b""]
    blobs: list[list[Any]] = []
    entries: list[list[Any]] = []
    for name, (payload, refs, mark, also), large in named:
        if name not in names:
            names[name] = len(names)
        if large is not None:
            blobs.append([names[name], large.size, _numbers(names, refs), mark, _numbers(names, also), large.number])
            continue
        if refs or mark or also:
            blobs.append([names[name], len(payload), _numbers(names, refs), mark, _numbers(names, also)])
        else:
            blobs.append([names[name], len(payload)])
        parts.append(payload)
    for name, (position, payload, refs) in listed:
        if name not in names:
            names[name] = len(names)
        entries.append([names[name], position, len(payload), _numbers(names, refs)])
        parts.append(payload)
    new = [*islice(names, known, None)] if len(names) > known else ()
    header = parts[0] = pack([new, blobs, entries])
    body = b"".join(parts)
    return _SIZES.pack(_SUM.size + len(body), len(header) | _SUMMED) + _SUM.pack(crc32(body)) + body


def sealed(payload: bytes) -> bytes:
    """A large payload as its row holds it, with a checksum behind it."""
    return payload + _SUM.pack(crc32(payload))


def unsealed(found: bytes, size: int) -> bytes:
    """The large payload of this size in a row's content.

    Raises:
        CorruptRecordError: It is not what was written. Format 1 had no checksum.
    """
    payload = found[:size]
    if len(payload) < size or found[size:] not in (b"", _SUM.pack(crc32(payload))):
        raise CorruptRecordError("a large payload is not what was written")
    return payload


def _numbers(names: Names, some: Sequence[str]) -> Sequence[int]:
    if not some:
        return ()
    try:
        return [names[each] for each in some]
    except KeyError:
        for each in some:
            if each not in names:
                names[each] = len(names)
        return [names[each] for each in some]


def size_of(packs: bytes) -> int:
    """The size of the first of some packs."""
    return _SIZES.size + int(_SIZES.unpack_from(packs)[0]) if packs else 0


@decoder("a segment")
def decode(body: bytes, start: int, names: list[str]) -> tuple[list[Named], list[Listed]]:
    """The blobs and entries in a segment from a byte on, oldest first; its names are added to those known of it.

    Raises:
        CorruptRecordError: It is damaged.
    """
    named: list[Named] = []
    listed: list[Listed] = []
    while start < len(body):
        size, header = _SIZES.unpack_from(body, start)
        start += _SIZES.size
        end = start + size
        if end > len(body):
            raise CorruptRecordError("a segment is cut off")
        if header & _SUMMED:
            (told,) = _SUM.unpack_from(body, start)
            start += _SUM.size
            if crc32(memoryview(body)[start:end]) != told:
                raise CorruptRecordError("a segment is not what was written")
        at = start + (header & ~_SUMMED)
        new, blobs, entries = unpack(body[start:at])
        names += new
        for number, length, *links in blobs:
            if not links:
                named.append((names[number], Blob(body[at : at + length]), None))
                at += length
                continue
            refs, mark, also, *row = links
            behind = at if row else at + length
            blob = Blob(body[at:behind], _named(names, refs), mark, _named(names, also))
            named.append((names[number], blob, Large(row[0], length) if row else None))
            at = behind
        for number, position, length, refs in entries:
            listed.append((names[number], Entry(position, body[at : at + length], _named(names, refs))))
            at += length
        if at != end:
            raise CorruptRecordError("a segment is cut off")
        start = end
    return named, listed


def _named(names: list[str], numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple([names[each] for each in numbers]) if numbers else ()
