"""Bodies that are known to be stored, so that they need not be sent again: what a process remembers of a session's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from langchain_core.messages import BaseMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.images import joined
from langchain_ttl_history.encoding.messages import pack_plain
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.names import ID, BodyName
from langchain_ttl_history.stored.packed_conversation import EMPTY, Body, PackedConversation

__all__ = ["KnownBodies", "Load"]

# How many bodies are remembered that others took the place of.
_REPLACED = 64


class Load(NamedTuple):
    """What a run loaded."""

    id: str = ""
    """Of the checkpoint."""
    shown: str = ""
    """The messages it was shown, as in its token (`Token.shown`)."""
    names: tuple[BodyName, ...] = ()
    """The same as names."""


_NO_LOAD = Load()


@dataclass
class KnownBodies:
    """Bodies that are known to be stored, so that they need not be sent again."""

    by_id: dict[str, Body] = field(default_factory=dict)
    """Bodies by message id."""
    replaced: dict[BodyName, Body] = field(default_factory=dict)
    """Bodies by name that an edit or a removal of the same id replaced: a run under way may still hold them."""
    contents: dict[bytes, BodyName] = field(default_factory=dict)
    """The names of messages that were stored without an id since the last checkpoint, by their packed content."""
    waiting: dict[bytes, BodyName] = field(default_factory=dict)
    """Those of the checkpoint before: the message that opens a run gets its id from the step after the one that stores
    it."""
    sending: dict[BodyName, Blob] = field(default_factory=dict)
    """Bodies of writes that are not yet confirmed. Whoever refers to one sends it as well, since LangGraph stores what
    a step wrote and the step's checkpoint concurrently."""
    conversation: PackedConversation = EMPTY
    """The conversation as it was last put or read."""
    last_load: Load = _NO_LOAD
    """What the last run to begin loaded."""
    sound: tuple[BodyName, ...] = ()
    """The last conversation that was found sound; see `simple_start`."""
    other_bytes: int = 0
    """Bytes of all content but the conversation's."""
    kept: int = 0
    """How many bodies there were left when some were forgotten last."""

    # Runs in several threads share this without a lock, so each value in it is replaced whole:
    # what one of them reads is never half of what another wrote.

    @property
    def size(self) -> int:
        """Bytes of all content."""
        return self.other_bytes + len(self.conversation.images)

    def names_shown(self, shown: str) -> tuple[BodyName, ...]:
        """The names in a token's `shown`, if that is the last one; else empty. Saves splitting that string again."""
        load = self.last_load
        return load.names if load.shown == shown else ()

    def names_loaded(self, id: str) -> tuple[BodyName, ...] | None:
        """The names of the messages that the last run to begin was shown, if it loaded this checkpoint; else None."""
        load = self.last_load
        return load.names if load.id == id else None

    def sound_in(self, names: Sequence[BodyName]) -> int:
        """How many of the first of these messages are known to be sound."""
        sound = self.sound
        return len(sound) if tuple(names[: len(sound)]) == sound else 0

    def learn(self, id: str, body: Body) -> None:
        """Remember a message's body."""
        before = forgotten = self.by_id.get(id)
        if before is not None and before.name != body.name:
            forgotten = self.replaced.pop(before.name, None)
            self.replaced[before.name] = before
            if len(self.replaced) > _REPLACED:
                # Another thread may do the same: the oldest can be gone by now.
                forgotten = self.replaced.pop(next(iter(list(self.replaced))), None)
        self.other_bytes += body.size - (0 if forgotten is None else forgotten.size)
        self.by_id[id] = body

    def named(self, name: BodyName) -> Body | None:
        """The body of this name, if it is remembered."""
        body = self.by_id.get(name[ID:])
        return body if body is not None and body.name == name else self.replaced.get(name)

    def take(self, names: Iterable[BodyName], other: KnownBodies) -> None:
        """Remember the bodies of these names that another one knows."""
        for name in names:
            body = other.named(name)
            if body is not None:
                self.learn(name[ID:], body)

    def send(self, name: BodyName, blob: Blob, blobs: dict[str, Blob]) -> None:
        """Add a new body to what is going to be sent."""
        blobs[name] = self.sending[name] = blob

    def resend(self, name: BodyName, blobs: dict[str, Blob]) -> None:
        """Add a known body to what is going to be sent, if the write that stores it is not yet confirmed."""
        blob = self.sending.get(name)
        if blob is not None:
            blobs.setdefault(name, blob)
            for ref in blob.refs:
                self.resend(ref, blobs)  # type: ignore[arg-type]  # a body needs nothing but its content

    def sent(self, names: Iterable[str]) -> None:
        """Note that the write of these bodies is confirmed."""
        if self.sending:
            for name in names:
                self.sending.pop(name, None)  # type: ignore[call-overload]  # a name of any kind

    def settle(self, names: Sequence[BodyName], others: Callable[[], Iterable[Iterable[str]]] = tuple) -> None:
        """Forget bodies not among these names, if they are many, and contents without an id for two calls.

        Args:
            names: The conversation's.
            others: Gives further names, of anything: their bodies are not forgotten either.
        """
        self.other_bytes -= sum(map(len, self.waiting))
        self.waiting, self.contents = self.contents, {}
        if len(self.sending) > len(names) + 16:
            self.sending = {}  # Of writes that failed.
        if len(self.by_id) > 2 * max(len(names), self.kept) + 16:
            ids = {name[ID:] for name in chain(names, *others())}
            kept = {id: body for id, body in list(self.by_id.items()) if id in ids}
            left = (*kept.values(), *list(self.replaced.values()))
            self.by_id, self.other_bytes = kept, sum(body.size for body in left) + sum(map(len, self.waiting))
            self.kept = len(kept)

    def learn_read(
        self, names: Sequence[BodyName], messages: Sequence[BaseMessage], blobs: Mapping[str, Blob], codec: Codec
    ) -> None:
        """Remember a conversation as it was read."""
        by_id = self.by_id
        bodies: list[Body] = []
        for name, message in zip(names, messages, strict=True):
            body = by_id.get(name[ID:])
            if body is None or body.name != name or body.cls is None:
                body = _body_read(name, message, blobs, codec)
                if name[ID:]:
                    self.learn(name[ID:], body)
            bodies.append(body)
        begin, images = joined([body.content for body in bodies])
        self.conversation = EMPTY.followed(0, 0, begin, images, bodies)


def _body_read(name: BodyName, message: BaseMessage, blobs: Mapping[str, Blob], codec: Codec) -> Body:
    image = codec.image_of(message)
    if image is not None and pack_plain(message) is not None:
        return Body(name, type(message), image)
    blob = blobs[name]
    content = blobs[blob.refs[0]] if blob.refs else blob
    packed = codec.unseal(content.payload)
    return Body(name, None, packed) if image is None else Body(name, type(message), image, packed)
