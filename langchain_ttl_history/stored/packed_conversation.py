"""A conversation that is known to be stored, as one byte string: to compare the next one with, and to read back.

It is the images of its messages, side by side. A message's **image** is all it holds, id included, packed (see
`images.image_of`); two messages are the same if their classes and images are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from langchain_core.messages import BaseMessage

from langchain_ttl_history.stored.names import ID, BodyName

__all__ = ["EMPTY", "Body", "PackedConversation"]


class Body(NamedTuple):
    """A message that is known to be stored."""

    name: BodyName
    cls: type[BaseMessage] | None
    """The message's class if `content` is its image; None if `content` is the packed message without its id."""
    content: bytes
    packed: bytes | None = None
    """The packed message without its id, where `content` is an image that does not give back all of it exactly."""

    @property
    def size(self) -> int:
        """Bytes of all content."""
        return len(self.content) + len(self.packed or b"")


class PackedConversation(NamedTuple):
    """A conversation that is known to be stored, the images of its messages side by side.

    A step of a graph hands over the messages of the previous step and a few more, so one comparison with this tells
    how many are the same; and all of them can be unpacked in one call.
    """

    names: list[BodyName]
    classes: list[type[BaseMessage]]
    exact: int
    """From how many of the first images the messages can be rebuilt exactly."""
    begin: int
    """The offset in `images` of the first image."""
    ends: list[int]
    """For each message the offset in `images` of its image's end."""
    images: bytes
    """As `Codec.images` returns them."""

    def offset(self, at: int) -> int:
        """The offset in `images` of the image of the message at this place; for how many there are, of the end."""
        return self.ends[at - 1] if at else self.begin

    def common(self, first: str, classes: Sequence[type], begin: int, images: bytes) -> tuple[int, int]:
        """How much of another conversation is a stretch of this one.

        Args:
            first: The id of the other conversation's first message.
            classes: The classes of all its messages.
            begin: The offset in `images` of the first image.
            images: The images of all its messages.

        Returns:
            The place in this one of the other's first message, and how many messages from there on are the same:
            all to the end of the shorter one, or else (0, 0).
        """
        if not self.names:
            return 0, 0
        start = 0
        if self.names[0][ID:] != first:
            # Usually because the window moved on by a turn.
            start = next((at for at, name in enumerate(self.names) if name[ID:] == first), 0)
            if not start:
                return 0, 0
        end = min(len(self.names), start + len(classes))
        # Ids need no comparison of their own: an image includes the id.
        if self.classes[start:end] != classes[: end - start]:
            return 0, 0
        # Slicing the bytes themselves would copy the whole conversation.
        mine = memoryview(self.images)[self.offset(start) : self.offset(end)]
        return (start, end - start) if images.startswith(mine, begin) else (0, 0)

    def followed(self, start: int, count: int, begin: int, images: bytes, bodies: Iterable[Body]) -> PackedConversation:
        """A conversation that shares a stretch with this one, packed; it ends before a body without id or image.

        Args:
            start: The place in this one where the shared stretch begins.
            count: How many messages are shared.
            begin: The offset in `images` of the first image.
            images: The images of the whole new conversation.
            bodies: The messages after the shared ones.
        """
        names = self.names[start : start + count]
        classes = self.classes[start : start + count]
        ends = self.ends[start : start + count]
        exact = min(count, max(0, self.exact - start))
        moved = begin - self.offset(start)
        if count and moved:
            ends = [end + moved for end in ends]
        end = ends[-1] if count else begin
        for name, cls, image, packed in bodies:
            if cls is None or not name[ID:]:
                break
            exact += packed is None and exact == len(names)
            names.append(name)
            classes.append(cls)
            end += len(image)
            ends.append(end)
        return PackedConversation(names, classes, exact, begin, ends, images)


EMPTY = PackedConversation([], [], 0, 0, [], b"")
"""No conversation."""
