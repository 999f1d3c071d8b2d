"""The segment of a session that is written to: pure, without I/O."""

from __future__ import annotations

from langchain_ttl_history.storage.sqlite.overflow import FILLING, OVERFLOW
from langchain_ttl_history.storage.sqlite.packs import Names

__all__ = ["SEGMENT", "Tail", "room"]

_PAGES = 24
SEGMENT = _PAGES * OVERFLOW
"""The bytes of a segment that is full, unless its first pack is large (see `room`)."""
_PACKS = 4


def room(first: int) -> int:
    """How many bytes a segment holds whose first pack is of this size.

    That pack spells out all names. Where they are many, it pays to go on with their numbers.
    """
    return max(SEGMENT, _PACKS * first)


class Tail:
    """The segment that is written to."""

    __slots__ = ("body", "length", "names", "number", "outdated", "room")

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.body: bytearray = bytearray(FILLING + 2 * OVERFLOW)
        """All that stands in the row."""
        self.length: int = 0
        """How much of it is written."""
        self.names: Names = {}
        self.outdated: int = 0
        """How many blobs in it were replaced."""
        self.room: int = SEGMENT
        """How much it holds before it is full."""

    def restart(self, number: int) -> None:
        """Begin another segment, or this one again.

        The old content stays in the body until it is overwritten or wiped, since clearing a page costs as much as
        writing one.
        """
        self.number = number
        del self.body[FILLING + _PAGES * OVERFLOW :]
        self.length = self.outdated = 0
        self.names = {}

    def wipe(self) -> None:
        """Clear the body after what is written."""
        start = FILLING + self.length
        self.body[start:] = bytes(len(self.body) - start)

    def forget(self, known: int) -> None:
        """Forget the names that came after so many, which were not written."""
        while len(self.names) > known:
            self.names.popitem()

    def add(self, pack: bytes) -> None:
        """Append a pack. The body grows by doubling, so that short sessions stay small."""
        if not self.length:
            self.room = room(len(pack))
        start = FILLING + self.length
        end = start + len(pack)
        if end > len(self.body):
            pages = -(-(end - FILLING) // OVERFLOW)
            pages = max(pages, min(-(-self.room // OVERFLOW), 1 << (pages - 1).bit_length()))
            self.body += bytes(FILLING + pages * OVERFLOW - len(self.body))
        self.body[start:end] = pack
        self.length += len(pack)

    @property
    def content(self) -> bytes:
        """What is written."""
        return bytes(self.body[FILLING : FILLING + self.length])
