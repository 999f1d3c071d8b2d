"""Bodies: a message stored once, under a name made of its content and its id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.base import Blob

__all__ = [
    "ID",
    "Base",
    "Body",
    "body_name",
    "decode_bodies",
    "encode_bodies",
    "key_of",
    "restored",
]

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


@dataclass
class Base:
    """Bodies that are known to be stored, so that they need not be sent again."""

    known: dict[str, Body] = field(default_factory=dict)
    """For each id its body."""
    contents: dict[bytes, str] = field(default_factory=dict)
    """For each content that was stored without an id its name."""
    sending: dict[str, Blob] = field(default_factory=dict)
    """Bodies among them that are on their way: who refers to one sends it as well, since LangGraph
    stores what a step wrote and its checkpoint at the same time."""
    size: int = 0
    """Bytes of all content."""

    # Runs in several threads share a base without a lock, so each value in it is replaced whole:
    # what one of them reads is never half of what another wrote.

    def learn(self, id: str, body: Body) -> None:
        """Remember a message's body."""
        self.size += len(body.content)
        self.known[id] = body

    def send(self, name: str, blob: Blob, blobs: dict[str, Blob]) -> None:
        """Add a new body to what is going to be sent."""
        blobs[name] = self.sending[name] = blob

    def resend(self, names: Iterable[str], blobs: dict[str, Blob]) -> None:
        """Add those of these bodies that are on their way to what is going to be sent."""
        for name in names:
            blob = self.sending.get(name)
            if blob is not None:
                blobs.setdefault(name, blob)
                self.resend(blob.refs, blobs)

    def sent(self, names: Iterable[str]) -> None:
        """Know that these are stored."""
        if self.sending:
            for name in names:
                self.sending.pop(name, None)

    def settle(self, names: Sequence[str]) -> None:
        """Forget what is not among these, once it is much, and contents that waited for an id."""
        self.contents = {}
        if len(self.sending) > len(names) + 16:
            self.sending = {}  # Of writes that failed.
        if len(self.known) > 2 * len(names) + 16:
            ids = {name[ID:] for name in names}
            kept = {id: body for id, body in list(self.known.items()) if id in ids}
            self.known, self.size = kept, sum(len(body.content) for body in kept.values())

    def learn_read(self, names: Iterable[str], blobs: Mapping[str, Blob], codec: Codec) -> None:
        """Remember bodies as they were read."""
        known = self.known
        for name in names:
            id = name[ID:]
            if not id or name not in blobs or ((body := known.get(id)) and body.name == name):
                continue
            blob = blobs[name]
            content = blobs.get(blob.refs[0]) if blob.refs else blob
            if content is not None:
                self.learn(id, Body(name, None, codec.unseal(content.payload)))


def encode_bodies(
    messages: Sequence[BaseMessage], base: Base, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """The names of these messages; the bodies that `base` lacks are added to `blobs`.

    Every message is packed anew and compared, so one that was changed in place is never missed.

    Raises:
        TypeNotAllowedError: A message holds something that would not come back.
    """
    # Nearly always all but the last few are as they were stored, which one comparison tells.
    known = base.known
    bodies: list[Body] = []
    for message in messages:
        body = known.get(message.id or "")
        if body is None or body.cls is not type(message):
            break
        bodies.append(body)
    count = len(bodies)
    if count and not codec.images_alike(messages[:count], [body.content for body in bodies]):
        count = 0
    names = [body.name for body in bodies[:count]]
    names += [_encode(message, base, codec, where, blobs) for message in messages[count:]]
    if base.sending:
        base.resend(names, blobs)
    return names


def _encode(message: BaseMessage, base: Base, codec: Codec, where: str, blobs: dict[str, Blob]) -> str:
    id = message.id or None
    image = None if id is None else codec.image_of(message)
    body = None if id is None else base.known.get(id)
    if body is not None and image is not None and body.cls is type(message) and body.content == image:
        return body.name
    packed = codec.plain_message(message) or codec.verified_message(message, f"{where}, message {message.id!r}")
    if id is not None and body is not None and body.cls is None and body.content == packed:
        if image is not None:
            base.learn(id, Body(body.name, type(message), image))
        return body.name
    content = base.contents.get(packed)
    if content is None:
        content = body_name(packed, None)
        if id is None or isinstance(message, ToolMessage):
            base.send(content, Blob(codec.seal(packed)), blobs)
            base.contents[packed] = content
            base.size += len(packed)
    if id is None:
        return content
    name = content + id
    if isinstance(message, ToolMessage):
        # A tool's result gets its id only after it was written as pending; both copies share the
        # content.
        base.send(name, Blob(b"", (content,)), blobs)
    else:
        base.send(name, Blob(codec.seal(packed)), blobs)
    base.learn(id, Body(name, None, packed) if image is None else Body(name, type(message), image))
    return name


def restored(names: Iterable[str], base: Base, codec: Codec, where: str) -> dict[str, Blob] | None:
    """The bodies of these names, for a session that lost them; None if one is not known."""
    blobs: dict[str, Blob] = {}
    for name in names:
        body = base.known.get(name[ID:])
        if body is None or body.name != name:
            return None
        packed = body.content if body.cls is None else codec.packed_image(body.content, body.cls, where)
        blobs[name] = Blob(codec.seal(packed))
    return blobs


def decode_bodies(names: Iterable[str], blobs: Mapping[str, Blob], codec: Codec) -> list[BaseMessage]:
    """The messages of these names.

    Raises:
        CorruptRecordError: A body is gone, damaged or of a newer format.
    """
    wanted = names if isinstance(names, Sequence) else list(names)
    try:
        found = [blobs[name] for name in wanted]
        packed = [blobs[blob.refs[0]].payload if blob.refs else blob.payload for blob in found]
    except KeyError:
        gone = next(name for name in wanted if name not in blobs or any(ref not in blobs for ref in blobs[name].refs))
        raise CorruptRecordError(f"the body of message {key_of(gone)!r} is gone") from None
    if codec.cipher is not None:
        packed = [codec.unseal(payload) for payload in packed]
    ids = [name[ID:] or None for name in wanted]
    return codec.messages(packed, ids)
