"""Bodies: a message stored once, under a name made of its content and its id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_ttl_history.codec import Codec, joined
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.base import Blob

__all__ = [
    "ID",
    "Base",
    "Body",
    "body_name",
    "decode_bodies",
    "encode_bodies",
    "encode_conversation",
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
    strip: Strip = NOTHING
    """The conversation as it was last handed over."""
    told: tuple[str, tuple[str, ...]] = ("", ())
    """What a run was last told it is shown, in a token and as names."""
    held: int = 0
    """Bytes of all content but the strip's."""

    # Runs in several threads share a base without a lock, so each value in it is replaced whole:
    # what one of them reads is never half of what another wrote.

    @property
    def size(self) -> int:
        """Bytes of all content."""
        return self.held + len(self.strip.images)

    def names_told(self, shown: str) -> tuple[str, ...]:
        """The names in a token, if it is the one told last. So that each name is held once, and not read again."""
        told, names = self.told
        return names if told == shown else ()

    def learn(self, id: str, body: Body) -> None:
        """Remember a message's body."""
        self.held += len(body.content)
        self.known[id] = body

    def send(self, name: str, blob: Blob, blobs: dict[str, Blob]) -> None:
        """Add a new body to what is going to be sent."""
        blobs[name] = self.sending[name] = blob

    def resend(self, names: Sequence[str], blobs: dict[str, Blob]) -> None:
        """Add those of these bodies that are on their way to what is going to be sent."""
        if not self.sending:
            return
        for name in self.sending.keys() & set(names):
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
            self.known, self.held = kept, sum(len(body.content) for body in kept.values())

    def learn_read(
        self, names: Sequence[str], messages: Sequence[BaseMessage], blobs: Mapping[str, Blob], codec: Codec
    ) -> None:
        """Remember a conversation as it was read."""
        known = self.known
        bodies: list[Body] = []
        for name, message in zip(names, messages, strict=True):
            body = known.get(name[ID:])
            if body is None or body.name != name or body.cls is None:
                body = _body_read(name, message, blobs, codec)
                if name[ID:]:
                    self.learn(name[ID:], body)
            bodies.append(body)
        begin, images = joined([body.content for body in bodies])
        self.strip = NOTHING.followed(0, 0, begin, images, bodies)

    def recalled(self, names: Sequence[str], codec: Codec) -> list[BaseMessage]:
        """The messages of these names, as far as they are known from the first on."""
        known, _, count, begin, ends, images = self.strip
        if not count or list(names[:count]) != known[:count]:
            return []
        if ends[count - 1] < len(images):
            # Images of others stand behind.
            begin, images = joined([images[begin : ends[count - 1]]], count)
        return codec.messages_of(images, self.strip.classes[:count])


def _body_read(name: str, message: BaseMessage, blobs: Mapping[str, Blob], codec: Codec) -> Body:
    image = codec.image_of(message)
    if image is not None:
        return Body(name, type(message), image, codec.plain_message(message) is not None)
    blob = blobs[name]
    content = blobs[blob.refs[0]] if blob.refs else blob
    return Body(name, None, codec.unseal(content.payload))


def encode_conversation(
    messages: Sequence[BaseMessage], base: Base, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """As :func:`encode_bodies`, for all of a conversation, which is remembered for the next time.

    Every message is packed anew and compared, so one that was changed in place is never missed.
    """
    classes = list(map(type, messages))
    begin, images = codec.images(messages)
    strip, start, count = base.strip, 0, 0
    if images and messages and (first := messages[0].id):
        start, count = strip.common(first, classes, begin, images)
    names = strip.names[start : start + count]
    new = messages[count:]
    if len(new) == 1 and images and codec.has_image(new[0]):
        end = begin
        if count:
            end += strip.ends[start + count - 1] - (strip.ends[start - 1] if start else strip.begin)
        bodies = [_encode(new[0], base, codec, where, blobs, images[end:])]
    else:
        bodies = [_encode(message, base, codec, where, blobs, codec.image_of(message)) for message in new]
    if images:
        base.strip = strip.followed(start, count, begin, images, bodies)
    names += [body.name for body in bodies]
    base.resend(names, blobs)
    return names


def encode_bodies(
    messages: Sequence[BaseMessage], base: Base, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """The names of these messages; the bodies that `base` lacks are added to `blobs`.

    Raises:
        TypeNotAllowedError: A message holds something that would not come back.
    """
    names = [_encode(message, base, codec, where, blobs, codec.image_of(message)).name for message in messages]
    base.resend(names, blobs)
    return names


def _encode(
    message: BaseMessage, base: Base, codec: Codec, where: str, blobs: dict[str, Blob], image: bytes | None
) -> Body:
    id = message.id or None
    body = None if id is None else base.known.get(id)
    if body is not None and image is not None and body.cls is type(message) and body.content == image:
        return body
    packed = codec.plain_message(message)
    exact = packed is not None
    if packed is None:
        packed = codec.verified_message(message, f"{where}, message {message.id!r}")
    if id is not None and body is not None and body.cls is None and body.content == packed:
        if image is not None:
            body = Body(body.name, type(message), image, exact)
            base.learn(id, body)
        return body
    content = base.contents.get(packed)
    if content is None:
        content = body_name(packed, None)
        if id is None or isinstance(message, ToolMessage):
            base.send(content, Blob(codec.seal(packed)), blobs)
            base.contents[packed] = content
            base.held += len(packed)
    if id is None:
        return Body(content, None, packed)
    name = content + id
    if isinstance(message, ToolMessage):
        # A tool's result gets its id only after it was written as pending; both copies share the
        # content.
        base.send(name, Blob(b"", (content,)), blobs)
    else:
        base.send(name, Blob(codec.seal(packed)), blobs)
    body = Body(name, None, packed) if image is None else Body(name, type(message), image, exact)
    base.learn(id, body)
    return body


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


def decode_bodies(
    names: Iterable[str], blobs: Mapping[str, Blob], codec: Codec, base: Base | None = None
) -> list[BaseMessage]:
    """The messages of these names; `base` may know some of them.

    Raises:
        CorruptRecordError: A body is gone, damaged or of a newer format.
    """
    wanted = names if isinstance(names, Sequence) else list(names)
    known = [] if base is None else base.recalled(wanted, codec)
    if known:
        wanted = wanted[len(known) :]
        if not wanted:
            return known
    try:
        found = [blobs[name] for name in wanted]
        packed = [blobs[blob.refs[0]].payload if blob.refs else blob.payload for blob in found]
    except KeyError:
        gone = next(name for name in wanted if name not in blobs or any(ref not in blobs for ref in blobs[name].refs))
        raise CorruptRecordError(f"the body of message {key_of(gone)!r} is gone") from None
    if codec.cipher is not None:
        packed = [codec.unseal(payload) for payload in packed]
    ids = [name[ID:] or None for name in wanted]
    return known + codec.messages(packed, ids)
