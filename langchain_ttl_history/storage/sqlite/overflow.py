"""How text lies in a SQLite file: on overflow pages only. Pure, without I/O.

SQLite zeroes such a page as a whole when it is freed, whereas it may leave copies behind of rows that it moves
between a table's own pages, even with `secure_delete`. Of a row with overflow pages, SQLite keeps the part in the
table's own page that is left over when the overflow pages are full. So a *body*, the column with the text, begins
with zeros, its filling, and continues for a whole number of overflow pages: only the other columns and the filling
are left over.
"""

from __future__ import annotations

from langchain_ttl_history.errors import CorruptRecordError

__all__ = ["FILLING", "OVERFLOW", "PAGE", "body_of", "content_of", "written_in"]

PAGE = 1024
"""The bytes of a page of the file."""
OVERFLOW = PAGE - 4
"""How many of them an overflow page has room for."""
FILLING = (PAGE - 12) * 32 // 255 - 23
"""The bytes of a body's filling. Where less would be left over, SQLite puts bytes of the text there as well."""
_LENGTH = 8


def body_of(content: bytes) -> bytes:
    """The body of a row of `segments`."""
    filling = len(content).to_bytes(_LENGTH, "big") + bytes(FILLING - _LENGTH)
    return b"".join((filling, content, bytes(-len(content) % OVERFLOW)))


def content_of(body: bytes) -> bytes:
    """What the body of a row of `segments` holds.

    Raises:
        CorruptRecordError: It is cut off.
    """
    length = int.from_bytes(body[:_LENGTH], "big")
    if len(body) != FILLING + length + -length % OVERFLOW:
        raise CorruptRecordError("a segment is cut off")
    return body[FILLING : FILLING + length]


def written_in(body: bytes, length: int) -> bytes:
    """What is written so far in the body of a segment that is written to; its filling does not tell the length.

    Raises:
        CorruptRecordError: It is cut off.
    """
    if (len(body) - FILLING) % OVERFLOW or FILLING + length > len(body):
        raise CorruptRecordError("a session's row is cut off")
    return body[FILLING : FILLING + length]
