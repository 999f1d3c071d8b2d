"""How bodies are laid out in a SQLite file, and the segment of a session that is written to: pure, without I/O.

Messages, names and ids are stored on overflow pages only. SQLite zeroes such a page as a whole when it is
freed, whereas it may leave copies behind of rows that it moves between a table's own pages, even with
`secure_delete`. Of a row with overflow pages, SQLite keeps the part in the table's own page that is left
over when the overflow pages are full. So a body begins with zeros, its filling, and continues for a whole
number of overflow pages: only the other columns and the filling are left over.
"""

from __future__ import annotations

from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.sqlite.packs import Names

__all__ = ["PAGE", "SEGMENT", "Tail", "closed", "content", "opened", "room"]

PAGE = 1024
"""The bytes of a page of the file."""
_OVERFLOW = PAGE - 4
# Where less than this would be left over, SQLite puts bytes of the body there as well.
_FILLING = (PAGE - 12) * 32 // 255 - 23
_LENGTH = 8
_PAGES = 24
SEGMENT = _PAGES * _OVERFLOW
"""The bytes of a segment that is full, unless its first pack is large (see `room`)."""
_PACKS = 4


def room(first: int) -> int:
    """How many bytes a segment holds whose first pack is of this size.

    That pack spells out all names. Where they are many, it pays to go on with their numbers.
    """
    return max(SEGMENT, _PACKS * first)


def closed(content: bytes) -> bytes:
    """The body of a row of `segments`."""
    filling = len(content).to_bytes(_LENGTH, "big") + bytes(_FILLING - _LENGTH)
    return b"".join((filling, content, bytes(-len(content) % _OVERFLOW)))


def content(body: bytes) -> bytes:
    """What the body of a row of `segments` holds.

    Raises:
        CorruptRecordError: It is cut off.
    """
    length = int.from_bytes(body[:_LENGTH], "big")
    if len(body) != _FILLING + length + -length % _OVERFLOW:
        raise CorruptRecordError("a segment is cut off")
    return body[_FILLING : _FILLING + length]


def opened(body: bytes, length: int) -> bytes:
    """What a segment that is written to holds.

    Raises:
        CorruptRecordError: It is cut off.
    """
    if (len(body) - _FILLING) % _OVERFLOW or _FILLING + length > len(body):
        raise CorruptRecordError("a session's row is cut off")
    return body[_FILLING : _FILLING + length]


class Tail:
    """The segment that is written to.

    Attributes:
        number: Its number.
        body: All that stands in the row.
        length: How much of it is written.
        names: The names in it.
        outdated: How many blobs in it were replaced.
        room: How much it holds before it is full.
    """

    __slots__ = ("body", "length", "names", "number", "outdated", "room")

    def __init__(self, number: int) -> None:
        self.number = number
        self.body = bytearray(_FILLING + 2 * _OVERFLOW)
        self.length = 0
        self.names: Names = {}
        self.outdated = 0
        self.room = SEGMENT

    def restart(self, number: int) -> None:
        """Begin another segment, or this one again.

        The old content stays in the body until it is overwritten or wiped, since clearing a page costs as much as
        writing one.
        """
        self.number = number
        del self.body[_FILLING + _PAGES * _OVERFLOW :]
        self.length = self.outdated = 0
        self.names = {}
        self.room = SEGMENT

    def wipe(self) -> None:
        """Clear the body after what is written."""
        start = _FILLING + self.length
        self.body[start:] = bytes(len(self.body) - start)

    def forget(self, known: int) -> None:
        """Forget the names that came after so many, which were not written."""
        while len(self.names) > known:
            self.names.popitem()

    def add(self, pack: bytes) -> None:
        """Append a pack. The body grows by doubling, so that short sessions stay small."""
        if not self.length:
            self.room = room(len(pack))
        start = _FILLING + self.length
        end = start + len(pack)
        if end > len(self.body):
            pages = -(-(end - _FILLING) // _OVERFLOW)
            pages = max(pages, min(-(-self.room // _OVERFLOW), 1 << (pages - 1).bit_length()))
            self.body += bytes(_FILLING + pages * _OVERFLOW - len(self.body))
        self.body[start:end] = pack
        self.length += len(pack)

    @property
    def content(self) -> bytes:
        """What is written."""
        return bytes(self.body[_FILLING : _FILLING + self.length])
