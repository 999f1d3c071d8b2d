"""Unpacks what a session's hash holds: blobs, lists, tables of names; ``lua/shared/common.lua`` describes it.

Two messages, an entry of the log that refers to both, and a pointer that does as well, without the session's record:

    tm    a2 "m1" a2 "m2"            the names of the blobs of kind m, in MessagePack: numbers 0 and 1
    bm1   00 "m" 00000000 "Hello"    flags, kind and number, payload
    bm2   00 "m" 00000001 "Hi"
    th    a1 "h"
    bh    01 "h" 00000000            a flag says that a header comes next: its mark, the lengths of references
          0000000000000007           and of what belongs to it, then these; its payload is empty
          00000008 00000000
          ff "m" 00000000 0002       references, see `references`
    llog  00000001 00000003          how many entries, and their weight
          00000000 00000000          the oldest of its older parts, and the next one
          0000000000000001           the newest position; entries follow
          000000000001               its position
          00000008 00000006 0000     lengths of references and payload, and of that before it was shortened
          ff "m" 00000000 0002 "+m1+m2"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct

from langchain_ttl_history.keys import encoded
from langchain_ttl_history.storage.redis.names import full_name
from langchain_ttl_history.storage.redis.payloads import full_payload
from langchain_ttl_history.storage.redis.references import Names, refs_in
from langchain_ttl_history.storage.types import Blob, Entry

__all__ = [
    "HEADER",
    "MICRO",
    "SET_AGAIN",
    "blob_in",
    "entries_in",
    "number_in",
    "pairs",
    "table_names",
    "with_lengths",
    "without_lengths",
]

MICRO = 1_000_000
"""Times are stored in microseconds: so many are a second."""
HEADER = Struct(">QII")
"""What a blob's value has behind its number, if it has a header: its mark, and the bytes of its references and of what
belongs to it."""
_ENTRY = Struct(">HIIIH")

HAS_HEADER, SET_AGAIN, SHORTENED = 1, 2, 4
"""What the first byte of a blob's value tells: it has a header, was set again with other content, is shortened."""


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


def number_in(value: bytes) -> int:
    """The kind and number of a blob, which its value begins with, behind the first byte."""
    return int.from_bytes(value[1:6], "big")


def blob_in(value: bytes, names: Names) -> Blob:
    """The blob in its value; `names` has the name of each number that it refers to."""
    flags = value[0]
    if not flags & HAS_HEADER:
        return Blob(value[6:])
    mark, refs, also = HEADER.unpack_from(value, 6)
    start = 22 + refs
    payload = value[start + also :]
    if flags & SHORTENED:
        payload = full_payload(payload[4:], int.from_bytes(payload[:4], "big"))
    return Blob(payload, refs_in(value[22:start], names), mark, _also(value[start : start + also]))


def entries_in(raw: bytes, names: Names) -> list[Entry]:
    """The entries in a list's value; `names` has the name of each number that they refer to."""
    found: list[Entry] = []
    at, end = 0, len(raw)
    while at < end:
        high, low, refs, payload, full = _ENTRY.unpack_from(raw, at)
        start = at + 16 + refs
        at = start + payload
        content = full_payload(raw[start:at], full) if full else raw[start:at]
        found.append(Entry(high << 32 | low, content, refs_in(raw[start - refs : start], names) if refs else ()))
    return found


def _also(raw: bytes) -> tuple[str, ...]:
    return tuple(map(full_name, without_lengths(raw)))


def with_lengths(names: Iterable[str]) -> bytes:
    """Names joined, each preceded by its length in 4 bytes."""
    raw = map(encoded, names)
    return b"".join([b"%b%b" % (len(name).to_bytes(4, "big"), name) for name in raw])


def without_lengths(raw: bytes) -> Iterator[bytes]:
    """The strings in joined strings, each preceded by its length in 4 bytes."""
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        yield raw[at + 4 : end]
        at = end


def pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Fields and values that come in turn."""
    each = iter(flat)
    return zip(each, each, strict=True)
