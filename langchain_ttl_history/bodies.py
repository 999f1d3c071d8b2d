"""Bodies: a message stored once, under a name made of its content and its id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.base import Blob

__all__ = [
    "ID",
    "Base",
    "body_name",
    "decode_bodies",
    "encode_bodies",
    "encode_conversation",
    "key_of",
]

_DIGEST = 24
# In so many parts a conversation is compared at most; joining them costs more than a few calls.
_PARTS = 8
ID = 1 + _DIGEST
"""Where the id begins in a body's name."""


def body_name(packed: bytes, id: str | None) -> str:
    """The name of a body: m, the digest of its content, its id."""
    return "m" + hashlib.blake2b(packed, digest_size=_DIGEST // 2).hexdigest() + (id or "")


def key_of(name: str) -> str:
    """What tells two messages of a conversation apart: the id, or the content without one."""
    return name[ID:] or name


Conversation = tuple[tuple[str, ...], tuple[tuple[list[type], bytes], ...]]
"""The names of a conversation, and what its messages were, in the parts they came in."""


@dataclass
class Base:
    """Bodies that are known to be stored, so that they need not be sent again."""

    known: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """For each id the name of its body and the content."""
    contents: dict[bytes, str] = field(default_factory=dict)
    """For each content that was stored without an id its name."""
    last: Conversation = ((), ())
    """The conversation encoded last."""
    size: int = 0
    """Bytes of all content."""

    # Runs in several threads share a base without a lock, so each value in it is replaced whole:
    # what one of them reads is never half of what another wrote.

    def learn(self, name: str, packed: bytes) -> None:
        """Remember a body."""
        self.size += len(packed)
        if id := name[ID:]:
            self.known[id] = (name, packed)
        else:
            self.contents[packed] = name

    def settle(self, names: Sequence[str]) -> None:
        """Forget what is not among these, once it is much, and contents that waited for an id."""
        self.contents = {}
        if len(self.known) > 2 * len(names) + 16:
            ids = {name[ID:] for name in names}
            kept = {id: body for id, body in list(self.known.items()) if id in ids}
            self.known, self.size = kept, sum(len(packed) for _, packed in kept.values())

    def learn_read(self, names: Iterable[str], blobs: Mapping[str, Blob], codec: Codec) -> None:
        """Remember bodies as they were read."""
        known = self.known
        for name in names:
            id = name[ID:]
            if not id or (id in known and known[id][0] == name) or name not in blobs:
                continue
            blob = blobs[name]
            content = blobs.get(blob.refs[0]) if blob.refs else blob
            if content is not None:
                self.learn(name, codec.unseal(content.payload))


def encode_bodies(
    messages: Sequence[BaseMessage], base: Base, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """The names of these messages; the bodies that `base` lacks are added to `blobs`.

    Every message is packed anew and compared, so one that was changed in place is never missed.

    Raises:
        TypeNotAllowedError: A message holds something that would not come back.
    """
    # Nearly always all but the last few are as they were stored.
    known = base.known
    stored: list[tuple[str, bytes]] = []
    for message in messages:
        body = known.get(message.id or "")
        if body is None:
            break
        stored.append(body)
    count = len(stored)
    if stored and not codec.packed_alike(messages[:count], [packed for _, packed in stored]):
        count = 0
    names = [name for name, _ in stored[:count]]
    names += [_encode(message, base, codec, where, blobs) for message in messages[count:]]
    return names


def encode_conversation(
    messages: Sequence[BaseMessage], base: Base, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """:func:`encode_bodies` for the conversation, which mostly begins as it was last time.

    One comparison of all that the messages hold then tells so, and only what is new is encoded.
    """
    shown, parts = base.last
    known = 0
    for kinds, image in parts:
        old = messages[known : known + len(kinds)]
        if list(map(type, old)) != kinds or codec.image_of(old) != image:
            known, parts = 0, ()
            break
        known += len(kinds)
    names = [*shown[:known]]
    new = messages[known:]
    if new or not known:
        names += encode_bodies(new, base, codec, where, blobs)
        if len(parts) >= _PARTS:
            parts, new = (), messages
        added = codec.image_of(new)
        base.last = (tuple(names), () if added is None else (*parts, (list(map(type, new)), added)))
    return names


def _encode(message: BaseMessage, base: Base, codec: Codec, where: str, blobs: dict[str, Blob]) -> str:
    id = message.id or None
    try:
        packed: bytes | None = codec.pack_message(message)
    except TypeError:
        packed = None  # `verified_message` tells what is wrong with it.
    if id is not None and packed is not None and (body := base.known.get(id)) and body[1] == packed:
        return body[0]
    content = None if packed is None else base.contents.get(packed)
    if packed is None or content is None:
        packed = codec.verified_message(message, f"{where}, message {message.id!r}")
        content = body_name(packed, None)
        if id is None or isinstance(message, ToolMessage):
            blobs.setdefault(content, Blob(codec.seal(packed)))
            base.learn(content, packed)
    if id is None:
        return content
    name = content + id
    if isinstance(message, ToolMessage):
        # A tool's result gets its id only after it was written as pending; both copies share the
        # content.
        blobs[name] = Blob(b"", (content,))
    else:
        blobs[name] = Blob(codec.seal(packed))
    base.learn(name, packed)
    return name


def decode_bodies(names: Iterable[str], blobs: Mapping[str, Blob], codec: Codec) -> list[BaseMessage]:
    """The messages of these names.

    Raises:
        CorruptRecordError: A body is gone, damaged or of a newer format.
    """
    packed: list[bytes] = []
    ids: list[str | None] = []
    plain = codec.cipher is None
    for name in names:
        try:
            blob = blobs[name]
            if blob.refs:
                blob = blobs[blob.refs[0]]
        except KeyError:
            raise CorruptRecordError(f"the body of message {key_of(name)!r} is gone") from None
        packed.append(blob.payload if plain else codec.unseal(blob.payload))
        ids.append(name[ID:] or None)
    return codec.messages(packed, ids)
