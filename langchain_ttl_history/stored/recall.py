"""What this process remembers of a conversation, so that a read can leave it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from langchain_core.messages import BaseMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.images import joined
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.bodies import decode_bodies
from langchain_ttl_history.stored.names import BodyName
from langchain_ttl_history.stored.packed_conversation import PackedConversation

__all__ = ["Recall"]


class Recall:
    """Completes reads from a packed conversation.

    A body is named after its content, so a remembered body is never wrong. Which bodies are shown is up to the
    checkpoints and the log, which are always read.
    """

    def __init__(self, packed: PackedConversation, codec: Codec) -> None:
        self._packed = packed
        self._codec = codec
        self.known: frozenset[BodyName] = frozenset(packed.names[: packed.exact])
        """The names of the bodies that a read can leave out."""

    def completed(self, found: Mapping[str, Blob]) -> Mapping[str, Blob]:
        """The blobs that a read returned, and those it left out."""
        return _Completed(found, self._packed, self._codec) if self.known else found

    def decode(self, names: Sequence[BodyName], blobs: Mapping[str, Blob]) -> list[BaseMessage]:
        """The messages of these names.

        Raises:
            CorruptRecordError: A body is gone, damaged or of a newer format.
            TypeNotAllowedError: It is of a type that is not allow-listed.
        """
        packed, codec = self._packed, self._codec
        # An older conversation may be the beginning of the packed one.
        count = min(packed.exact, len(names))
        if not count or list(names[:count]) != packed.names[:count]:
            return decode_bodies(names, blobs, codec)
        begin, images = packed.begin, packed.images
        if (end := packed.offset(count)) < len(images):
            # The images of further messages follow, which are left out.
            begin, images = joined([images[begin:end]], count)
        messages = codec.messages_of(images, packed.classes[:count])
        return messages + decode_bodies(names[count:], blobs, codec) if len(names) > count else messages


class _Completed(dict[str, Blob]):
    """Blobs of which those in a packed conversation are made on demand."""

    def __init__(self, found: Mapping[str, Blob], packed: PackedConversation, codec: Codec) -> None:
        super().__init__(found)
        self._packed = packed
        self._codec = codec

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """For each name a place in the packed conversation."""
        packed = self._packed
        return {name: at for at, name in enumerate(packed.names[: packed.exact])}

    def __missing__(self, name: str) -> Blob:
        packed, at = self._packed, self._places[name]
        image = packed.images[packed.offset(at) : packed.offset(at + 1)]
        body = self._codec.packed_image(image, packed.classes[at])
        blob = self[name] = Blob(self._codec.seal(body))
        return blob
