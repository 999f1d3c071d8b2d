"""What this process remembers of a conversation, so that a read can leave it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langchain_core.messages import BaseMessage

from langchain_ttl_history.codec import Codec, joined
from langchain_ttl_history.storage.base import Blob
from langchain_ttl_history.stored.bodies import decode_bodies
from langchain_ttl_history.stored.strip import Strip

__all__ = ["Recall"]


class Recall:
    """Completes reads from a strip.

    A body is named after its content, so a remembered body is never wrong. Which bodies are shown is up to the
    checkpoints and the log, which are always read.
    """

    def __init__(self, strip: Strip, codec: Codec) -> None:
        self._strip = strip
        self._codec = codec
        self.known = frozenset(strip.names[: strip.exact])
        """The names of the bodies that a read can leave out."""

    def completed(self, found: Mapping[str, Blob]) -> Mapping[str, Blob]:
        """The blobs that a read returned, and those it left out."""
        return _Completed(found, self._strip, self._codec) if self.known else found

    def decode(self, names: Sequence[str], blobs: Mapping[str, Blob]) -> list[BaseMessage]:
        """The messages of these names.

        Raises:
            CorruptRecordError: A body is gone, damaged or of a newer format.
        """
        strip, codec = self._strip, self._codec
        count = strip.exact
        if not count or list(names[:count]) != strip.names[:count]:
            return decode_bodies(names, blobs, codec)
        begin, images = strip.begin, strip.images
        if strip.ends[count - 1] < len(images):
            # The images of further messages follow, which are left out.
            begin, images = joined([images[begin : strip.ends[count - 1]]], count)
        messages = codec.messages_of(images, strip.classes[:count])
        return messages + decode_bodies(names[count:], blobs, codec) if len(names) > count else messages


class _Completed(dict[str, Blob]):
    """Blobs of which those in a strip are made on demand."""

    def __init__(self, found: Mapping[str, Blob], strip: Strip, codec: Codec) -> None:
        super().__init__(found)
        self._strip = strip
        self._codec = codec

    def __missing__(self, name: str) -> Blob:
        strip = self._strip
        try:
            at = strip.names.index(name, 0, strip.exact)
        except ValueError:
            raise KeyError(name) from None
        image = strip.images[strip.ends[at - 1] if at else strip.begin : strip.ends[at]]
        packed = self._codec.packed_image(image, strip.classes[at], "a message")
        blob = self[name] = Blob(self._codec.seal(packed))
        return blob
