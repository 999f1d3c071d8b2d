"""A conversation that is known to be stored, as one string of images to compare another with and to read back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from langchain_core.messages import BaseMessage

__all__ = ["ID", "NOTHING", "Body", "Strip", "body_name", "key_of"]

_DIGEST = 24
ID = 1 + _DIGEST
"""Where the id begins in a body's name."""


def body_name(packed: bytes, id: str | None) -> str:
    """The name of a body: m, the digest of its content, its id."""
    return "m" + hashlib.blake2b(packed, digest_size=_DIGEST // 2).hexdigest() + (id or "")


def key_of(name: str) -> str:
    """What tells two messages of a conversation apart: the id, or the content without one."""
    return name[ID:] or name


class Body(NamedTuple):
    """A message that is known to be stored."""

    name: str
    cls: type[BaseMessage] | None
    """The class of the message whose image `content` is; None if it is the packed message."""
    content: bytes
    exact: bool = False
    """Whether the image certainly gives the message back as it is."""


class Strip(NamedTuple):
    """A conversation that is known to be stored, the images of its messages side by side.

    A step of a graph hands over what the step before did and a little more, so one comparison with
    this tells how far the two are the same; and all of it is read at once.
    """

    names: list[str]
    classes: list[type[BaseMessage]]
    exact: int
    """How many of the first images certainly give their messages back."""
    begin: int
    """Where in `images` the first begins."""
    ends: list[int]
    """Where in `images` that of each message ends."""
    images: bytes
    """As `Codec.images` gives them."""

    def common(self, first: str, classes: Sequence[type], begin: int, images: bytes) -> tuple[int, int]:
        """Where a conversation begins in here, and how many of its messages stand here just so.

        Args:
            first: The id of its first message.
            classes: The classes of all its messages.
            begin: Where in `images` the first begins.
            images: The images of all.
        """
        if not self.names:
            return 0, 0
        start, offset = 0, self.begin
        if self.names[0][ID:] != first:
            # Mostly the window moved on by a turn.
            start = next((at for at, name in enumerate(self.names) if name[ID:] == first), 0)
            if not start:
                return 0, 0
            offset = self.ends[start - 1]
        end = min(len(self.names), start + len(classes))
        # An image tells the id as well.
        if self.classes[start:end] != classes[: end - start]:
            return 0, 0
        return (start, end - start) if images.startswith(self.images[offset : self.ends[end - 1]], begin) else (0, 0)

    def followed(self, start: int, count: int, begin: int, images: bytes, bodies: Iterable[Body]) -> Strip:
        """A part of this and further messages, as far as each of them has an id and an image.

        Args:
            start: Where the part begins.
            count: How many messages it has.
            begin: Where in `images` the first begins.
            images: The images of all.
            bodies: The further messages.
        """
        names = self.names[start : start + count]
        classes = self.classes[start : start + count]
        ends = self.ends[start : start + count]
        exact = min(count, max(0, self.exact - start))
        moved = begin - (self.ends[start - 1] if start else self.begin)
        if count and moved:
            ends = [end + moved for end in ends]
        end = ends[-1] if count else begin
        for name, cls, image, sure in bodies:
            if cls is None or not name[ID:]:
                break
            exact += sure and exact == len(names)
            names.append(name)
            classes.append(cls)
            end += len(image)
            ends.append(end)
        return Strip(names, classes, exact, begin, ends, images)


NOTHING = Strip([], [], 0, 0, [], b"")
"""No conversation."""
