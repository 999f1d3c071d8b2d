"""Packs: what one write stores of a session, as bytes that are appended to those of earlier writes.

A segment is a run of packs. Within one, a name is spelled out where it is used first and a number from then on, so that
a checkpoint that shows 80 messages takes about 100 bytes for them. The second pack of a session, which says "Hi":

    00 00 00 1a             26 bytes follow these two sizes
    80 00 00 11             17 of them are the header; the highest bit: a checksum comes first
    d3 7e 38 1e             CRC-32 of header and payloads
    [ ["m2"],               new names: this one is number 3, since the first pack brought m1, h and log
      [[3, 2]],             blobs: m2, of 2 bytes; references, mark and `also` would follow, and a large payload's row
      [[2, 12, 3, [0, 3]]]  entries: of log, at position 12, of 3 bytes, referring to m1 and m2
    ]                       (the header is MessagePack)
    Hi+m2                   the payloads, in the same order
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

__all__ = ["Large", "ListedEntry", "NamedBlob", "Names", "decode", "encode", "sealed", "size_of", "unsealed"]

Names: TypeAlias = dict[str, int]
"""The names of a segment and their numbers, which count up from 0."""


class Large(NamedTuple):
    """A payload that has a row of its own."""

    number: int
    """The row's."""
    size: int


NamedBlob: TypeAlias = tuple[str, Blob, Large | None]
"""A blob behind its name, and where its payload is if that is large."""
ListedEntry: TypeAlias = tuple[str, Entry]
"""An entry behind the name of its list."""

_SIZES = Struct(">II")
# Set in the second size where a checksum of what follows it comes next, as from format 2 on; the first size counts it.
_SUMMED = 1 << 31
_SUM = Struct(">I")


def encode(names: Names, blobs: Iterable[NamedBlob], entries: Iterable[ListedEntry]) -> bytes:
    """Some blobs and entries as a pack; its new names are added to the segment's."""
    known = len(names)
    blob_records: list[list[Any]] = []
    entry_records: list[list[Any]] = []
    parts = [b""]
    for name, (payload, refs, mark, also), large in blobs:
        record: list[Any] = [names.setdefault(name, len(names)), len(payload) if large is None else large.size]
        if refs or mark or also or large is not None:
            record += (_numbers_of(refs, names), mark, _numbers_of(also, names))
        if large is None:
            parts.append(payload)
        else:
            record.append(large.number)
        blob_records.append(record)
    for name, (position, payload, refs) in entries:
        number = names.setdefault(name, len(names))
        entry_records.append([number, position, len(payload), _numbers_of(refs, names)])
        parts.append(payload)
    new = [*islice(names, known, None)] if len(names) > known else ()
    header = parts[0] = pack([new, blob_records, entry_records])
    body = b"".join(parts)
    return _SIZES.pack(_SUM.size + len(body), len(header) | _SUMMED) + _SUM.pack(crc32(body)) + body


def _numbers_of(refs: Sequence[str], names: Names) -> Sequence[int]:
    if not refs:
        return ()
    try:
        return [names[each] for each in refs]
    except KeyError:
        return [names.setdefault(each, len(names)) for each in refs]


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


def size_of(packs: bytes) -> int:
    """The size of the first of some packs."""
    return _SIZES.size + int(_SIZES.unpack_from(packs)[0]) if packs else 0


@decoder("a segment")
def decode(body: bytes, start: int, names: list[str]) -> tuple[list[NamedBlob], list[ListedEntry]]:
    """The blobs and entries in a segment from a byte on, oldest first; its names are added to those known of it.

    Raises:
        CorruptRecordError: It is damaged.
    """
    blobs: list[NamedBlob] = []
    entries: list[ListedEntry] = []
    while start < len(body):
        header, at, end = _opened(body, start)
        new, blob_records, entry_records = unpack(header)
        names += new
        for number, size, *links in blob_records:
            if not links:
                blobs.append((names[number], Blob(body[at : at + size]), None))
                at += size
                continue
            refs, mark, also, *row = links
            after = at if row else at + size
            blob = Blob(body[at:after], _names_of(refs, names), mark, _names_of(also, names))
            blobs.append((names[number], blob, Large(row[0], size) if row else None))
            at = after
        for number, position, size, refs in entry_records:
            entries.append((names[number], Entry(position, body[at : at + size], _names_of(refs, names))))
            at += size
        if at != end:
            raise CorruptRecordError("a segment is cut off")
        start = end
    return blobs, entries


def _opened(body: bytes, start: int) -> tuple[bytes, int, int]:
    """The header of the pack at a byte, where its payloads begin, and where it ends."""
    size, header_size = _SIZES.unpack_from(body, start)
    start += _SIZES.size
    end: int = start + size
    if end > len(body):
        raise CorruptRecordError("a segment is cut off")
    if header_size & _SUMMED:
        (told,) = _SUM.unpack_from(body, start)
        start += _SUM.size
        if crc32(memoryview(body)[start:end]) != told:
            raise CorruptRecordError("a segment is not what was written")
    at: int = start + (header_size & ~_SUMMED)
    return body[start:at], at, end


def _names_of(numbers: Sequence[int], names: list[str]) -> tuple[str, ...]:
    return tuple([names[each] for each in numbers]) if numbers else ()
