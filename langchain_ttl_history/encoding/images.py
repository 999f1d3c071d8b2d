"""Images of messages: all that a message of LangChain's own classes holds, id included, as bytes to compare.

They stay in this process, and are no part of the stored format.
"""

from __future__ import annotations

from collections.abc import Sequence

import ormsgpack
from langchain_core.messages import BaseMessage

from langchain_ttl_history.encoding.layouts import (
    BY_CLASS,
    extra_of,
    new_message,
    set_extra,
    set_present,
    set_private,
    set_state,
    state_of,
)
from langchain_ttl_history.encoding.plain import OPTIONS
from langchain_ttl_history.encoding.records import KEYS, Default, Hook, list_header

__all__ = ["image_of", "images_of", "joined", "messages_of"]


def image_of(message: BaseMessage, default: Default) -> bytes | None:
    """Everything a message holds, its id included, as bytes to compare; None if they would not show all of it."""
    if type(message) not in BY_CLASS or message.__pydantic_extra__:
        return None
    try:
        return ormsgpack.packb(message.__dict__, default, OPTIONS)
    except TypeError:
        return None


def images_of(messages: Sequence[BaseMessage], default: Default) -> tuple[int, bytes]:
    """The images of these messages as one byte string, and the offset of the first; empty if one has no image.

    MessagePack packs a list as a header followed by its elements, so one call makes all images, at a third of the
    cost of a call for each.
    """
    if any(map(extra_of, messages)):
        return 0, b""
    try:
        together = ormsgpack.packb([*map(state_of, messages)], default, OPTIONS)
    except TypeError:
        return 0, b""
    return len(list_header(len(messages))), together


def joined(images: Sequence[bytes], count: int | None = None) -> tuple[int, bytes]:
    """These images as `images_of` returns them; `count` is how many they are, where one byte string holds several."""
    header = list_header(len(images) if count is None else count)
    return len(header), b"".join((header, *images))


def messages_of(images: bytes, classes: Sequence[type[BaseMessage]], hook: Hook) -> list[BaseMessage]:
    """The messages with these images, which are of LangChain's own classes; further bytes after them are ignored."""
    messages: list[BaseMessage] = []
    for state, cls in zip(ormsgpack.unpackb(images, ext_hook=hook, option=KEYS), classes, strict=True):
        message = new_message(cls)
        set_state(message, state)
        set_present(message, BY_CLASS[cls].every)
        set_extra(message, {})
        set_private(message, None)
        messages.append(message)
    return messages
