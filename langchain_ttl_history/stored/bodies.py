"""Bodies: a message stored once, under a name made of its content and its id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_ttl_history.codec import Codec, joined
from langchain_ttl_history.encoding.messages import is_core, pack_plain
from langchain_ttl_history.errors import CorruptRecordError, TypeNotAllowedError, brief
from langchain_ttl_history.storage.base import Blob
from langchain_ttl_history.stored.names import ID, body_name, key_of
from langchain_ttl_history.stored.packed_conversation import EMPTY, Body, PackedConversation

__all__ = ["KnownBodies", "check_id", "decode_bodies", "encode_bodies", "encode_conversation", "encode_new", "restored"]

# How many bodies are remembered that others took the place of.
_REPLACED = 64


@dataclass
class KnownBodies:
    """Bodies that are known to be stored, so that they need not be sent again."""

    by_id: dict[str, Body] = field(default_factory=dict)
    """Bodies by message id."""
    replaced: dict[str, Body] = field(default_factory=dict)
    """Bodies by name that an edit or a removal of the same id replaced: a run under way may still hold them."""
    contents: dict[bytes, str] = field(default_factory=dict)
    """The names of messages that were stored without an id since the last checkpoint, by their packed content."""
    waiting: dict[bytes, str] = field(default_factory=dict)
    """Those of the checkpoint before: the message that opens a run gets its id from the step after the one that stores
    it."""
    sending: dict[str, Blob] = field(default_factory=dict)
    """Bodies of writes that are not yet confirmed. Whoever refers to one sends it as well, since LangGraph stores what
    a step wrote and the step's checkpoint concurrently."""
    conversation: PackedConversation = EMPTY
    """The conversation as it was last put or read."""
    last_shown: tuple[str, tuple[str, ...]] = ("", ())
    """What the last run to begin was shown: as in its token (`Token.shown`), and as names."""
    sound: tuple[str, ...] = ()
    """The last conversation that was found sound; see `simple_start`."""
    held: int = 0
    """Bytes of all content but the conversation's."""

    # Runs in several threads share this without a lock, so each value in it is replaced whole:
    # what one of them reads is never half of what another wrote.

    @property
    def size(self) -> int:
        """Bytes of all content."""
        return self.held + len(self.conversation.images)

    def names_shown(self, shown: str) -> tuple[str, ...]:
        """The names in a token's `shown`, if that is the last one; else empty. Saves splitting that string again."""
        last, names = self.last_shown
        return names if last == shown else ()

    def sound_in(self, names: Sequence[str]) -> int:
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
        self.held += len(body.content) - (0 if forgotten is None else len(forgotten.content))
        self.by_id[id] = body

    def named(self, name: str) -> Body | None:
        """The body of this name, if it is remembered."""
        body = self.by_id.get(name[ID:])
        return body if body is not None and body.name == name else self.replaced.get(name)

    def take(self, names: Iterable[str], other: KnownBodies) -> None:
        """Remember the bodies of these names that another one knows."""
        for name in names:
            body = other.named(name)
            if body is not None:
                self.learn(name[ID:], body)

    def send(self, name: str, blob: Blob, blobs: dict[str, Blob]) -> None:
        """Add a new body to what is going to be sent."""
        blobs[name] = self.sending[name] = blob

    def resend(self, name: str, blobs: dict[str, Blob]) -> None:
        """Add a known body to what is going to be sent, if the write that stores it is not yet confirmed."""
        blob = self.sending.get(name)
        if blob is not None:
            blobs.setdefault(name, blob)
            for ref in blob.refs:
                self.resend(ref, blobs)

    def sent(self, names: Iterable[str]) -> None:
        """Note that the write of these bodies is confirmed."""
        if self.sending:
            for name in names:
                self.sending.pop(name, None)

    def settle(self, names: Sequence[str]) -> None:
        """Forget bodies not among these names, if they are many, and contents without an id for two calls."""
        self.held -= sum(map(len, self.waiting))
        self.waiting, self.contents = self.contents, {}
        if len(self.sending) > len(names) + 16:
            self.sending = {}  # Of writes that failed.
        if len(self.by_id) > 2 * len(names) + 16:
            ids = {name[ID:] for name in names}
            kept = {id: body for id, body in list(self.by_id.items()) if id in ids}
            held = (*kept.values(), *list(self.replaced.values()))
            self.by_id, self.held = kept, sum(len(body.content) for body in held) + sum(map(len, self.waiting))

    def learn_read(
        self, names: Sequence[str], messages: Sequence[BaseMessage], blobs: Mapping[str, Blob], codec: Codec
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


def _body_read(name: str, message: BaseMessage, blobs: Mapping[str, Blob], codec: Codec) -> Body:
    image = codec.image_of(message)
    if image is not None:
        return Body(name, type(message), image, pack_plain(message) is not None)
    blob = blobs[name]
    content = blobs[blob.refs[0]] if blob.refs else blob
    return Body(name, None, codec.unseal(content.payload))


def encode_conversation(
    messages: Sequence[BaseMessage], known: KnownBodies, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """As :func:`encode_bodies`, for a whole conversation, which becomes `known.conversation` for the next time.

    Every message is packed and compared, so a message that was changed in place is never missed.
    """
    classes = list(map(type, messages))
    begin, images = codec.images(messages)
    last, start, count = known.conversation, 0, 0
    if images and messages and (first := messages[0].id):
        start, count = last.common(first, classes, begin, images)
    names = last.names[start : start + count]
    if known.sending:
        for name in known.sending.keys() & set(names):
            known.resend(name, blobs)
    bodies: list[Body] = []
    end = begin
    if count:
        end += last.ends[start + count - 1] - (last.ends[start - 1] if start else last.begin)
    for message in messages[count:]:
        # The rest of `images`, after the last but one, is the image of the last message.
        is_last = images and count + len(bodies) + 1 == len(messages) and is_core(message)
        image = images[end:] if is_last else codec.image_of(message)
        if image is None or (images and images[end : end + len(image)] != image):
            # The message has no image of its own, so its share of `images` is unknown, or it changed since `images` was
            # packed. Either way the later images cannot be located any more.
            images = b""
        else:
            end += len(image)
        body = _encode(message, known, codec, where, blobs, image)
        bodies.append(body)
        names.append(body.name)
    if images:
        known.conversation = last.followed(start, count, begin, images, bodies)
    return names


def encode_bodies(
    messages: Sequence[BaseMessage], known: KnownBodies, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """The names of these messages; the bodies that `known` lacks are added to `blobs`.

    Raises:
        TypeNotAllowedError: A message holds something that would not come back.
    """
    return [_encode(message, known, codec, where, blobs, codec.image_of(message)).name for message in messages]


def encode_new(messages: Iterable[BaseMessage], codec: Codec, where: str, blobs: dict[str, Blob]) -> list[str]:
    """As :func:`encode_bodies`, with nothing known before and nothing remembered after."""
    names: list[str] = []
    for message in messages:
        check_id(message, where)
        id = message.id or ""
        packed, _ = _packed(message, codec, where)
        blob, content = Blob(codec.seal(packed)), body_name(packed, None)
        if not id or isinstance(message, ToolMessage):
            blobs[content] = blob
            blob = Blob(b"", (content,))
        if id:
            blobs[content + id] = blob
        names.append(content + id)
    return names


def check_id(message: BaseMessage, where: str) -> None:
    """Refuse a message whose id is no text, as one may be that was assigned.

    Raises:
        TypeNotAllowedError: It would not come back as it is; `where` names the place.
    """
    id = message.id
    if id is not None and not isinstance(id, str):
        raise TypeNotAllowedError(
            f"{where}: the id {brief(id)} of a message is of type {type(id).__name__}, and not text; pass str(id)"
        )


def _packed(message: BaseMessage, codec: Codec, where: str) -> tuple[bytes, bool]:
    """The message without its id, as bytes, and whether it can be rebuilt from its image as well."""
    packed = pack_plain(message)
    if packed is not None:
        return packed, True
    return codec.verified_message(message, f"{where}, message {message.id!r}"), False


def _encode(
    message: BaseMessage, known: KnownBodies, codec: Codec, where: str, blobs: dict[str, Blob], image: bytes | None
) -> Body:
    id, cls = message.id, type(message)
    if type(id) is not str:
        check_id(message, where)
    body = known.by_id.get(id) if id else None
    if body is not None and image is not None and body.cls is cls and body.content == image:
        if known.sending:
            known.resend(body.name, blobs)
        return body
    packed, exact = _packed(message, codec, where)
    if image is not None and codec.image_of(message) != image:
        # The message changed since the image was taken: a run may give it an id while a task's writes are being stored.
        image = None
    if id and body is not None and body.cls is None and body.content == packed:
        known.resend(body.name, blobs)
        if image is not None:
            body = Body(body.name, cls, image, exact)
            known.learn(id, body)
        return body
    sealed = Blob(packed if codec.cipher is None else codec.seal(packed))
    content = known.contents.get(packed) or known.waiting.get(packed)
    shares = content is not None or not id or issubclass(cls, ToolMessage)
    if content is not None:
        known.resend(content, blobs)
    else:
        content = body_name(packed, None)
        if shares:
            known.send(content, sealed, blobs)
            known.contents[packed] = content
            known.held += len(packed)
    if not id:
        return Body(content, None, packed)
    # What opens a run, and a tool's result, are stored before they get their ids; both copies share the content.
    name = content + id
    known.send(name, Blob(b"", (content,)) if shares else sealed, blobs)
    body = Body(name, None, packed) if image is None else Body(name, cls, image, exact)
    known.learn(id, body)
    return body


def restored(names: Iterable[str], known: KnownBodies, codec: Codec, where: str) -> dict[str, Blob]:
    """The bodies of these names that are known, as blobs, to store them again in a session that lost them."""
    blobs: dict[str, Blob] = {}
    for name in names:
        body = known.named(name)
        if body is None:
            continue
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
