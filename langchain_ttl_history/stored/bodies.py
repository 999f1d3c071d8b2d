"""Bodies: a message stored once, under a name made of its content and its id.

The content is the message packed without its id (`messages.pack_message`), and its digest is in the name:

```text
 HumanMessage("Hi", id="m1")          m250abd6c5569ebfc3f2ff607m1   95 00 a2 48 69 80 80 c0
 HumanMessage("Hi")                   m250abd6c5569ebfc3f2ff607     95 00 a2 48 69 80 80 c0
   and once it has got the id "m1"    m250abd6c5569ebfc3f2ff607m1   nothing, and refers to m250abd6c5569ebfc3f2ff607
 ToolMessage("22 C", id="t1", ...)    m0c0f1fa78a3c489b2bd20336t1   nothing, and refers to m0c0f1fa78a3c489b2bd20336
                                      m0c0f1fa78a3c489b2bd20336     98 03 a4 32 32 20 43 80 80 c0 a2 63 31 c0 ...
```

What opens a run, and a tool's result, are stored before they get their ids; both copies share the content. That of a
tool's result is stored apart whichever copy comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.layouts import is_core
from langchain_ttl_history.encoding.messages import pack_plain
from langchain_ttl_history.errors import ConfigurationError, CorruptRecordError, TypeNotAllowedError, brief
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import ID, BodyName, content_name, key_of
from langchain_ttl_history.stored.packed_conversation import Body

__all__ = ["check_id", "decode_bodies", "encode_bodies", "encode_conversation", "encode_new", "restored"]

# The longest id of a message, in characters. It is in the names of what is stored, which do not count for `max_bytes`.
_MAX_ID = 1024


def encode_conversation(
    messages: Sequence[BaseMessage], known: KnownBodies, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[BodyName]:
    """As `encode_bodies`, for a whole conversation, which becomes `known.conversation` for the next time.

    Every message is packed and compared, so a message that was changed in place is never missed.

    ```text
     known.conversation.images   93 [h1][a1][h2]    the images of three messages, behind the header of a list of three
     images                      93 [a1][h2][a2]    those of `messages`: the first `count` (2) are known from place
                                    ^begin  ^at     `start` (1) on; the image of the first new one begins `at`
    ```
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
    at = begin + last.offset(start + count) - last.offset(start)
    for message in messages[count:]:
        # All that is left of `images` is the image of the last message.
        is_last = images and count + len(bodies) + 1 == len(messages) and is_core(message)
        image = images[at:] if is_last else codec.image_of(message)
        if image is None or (images and images[at : at + len(image)] != image):
            # The message has no image of its own, so its share of `images` is unknown, or it changed since `images` was
            # packed. Either way the later images cannot be located any more.
            images = b""
        else:
            at += len(image)
        body = _encode(message, known, codec, where, blobs, image)
        bodies.append(body)
        names.append(body.name)
    if images:
        known.conversation = last.followed(start, count, begin, images, bodies)
    return names


def encode_bodies(
    messages: Sequence[BaseMessage], known: KnownBodies, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[BodyName]:
    """The names of these messages; the bodies that `known` lacks are added to `blobs`.

    Raises:
        TypeNotAllowedError: A message holds something that would not come back.
    """
    return [_encode(message, known, codec, where, blobs, codec.image_of(message)).name for message in messages]


def encode_new(messages: Iterable[BaseMessage], codec: Codec, where: str, blobs: dict[str, Blob]) -> list[BodyName]:
    """As `encode_bodies`, with nothing known before and nothing remembered after."""
    names: list[BodyName] = []
    for message in messages:
        check_id(message, where)
        id = message.id or ""
        packed, _ = _packed(message, codec, where)
        blob, content = Blob(codec.seal(packed)), content_name(packed)
        if not id or isinstance(message, ToolMessage):
            blobs[content] = blob
            blob = Blob(b"", (content,))
        if id:
            blobs[content + id] = blob
        names.append(content + id)  # type: ignore[arg-type]  # see `names`
    return names


def check_id(message: BaseMessage, where: str) -> None:
    """Refuse a message whose id is not a string, which pydantic does not check on assignment, or is too long.

    Raises:
        TypeNotAllowedError: It would not come back as it is; `where` names the place.
        ConfigurationError: It is too long.
    """
    id = message.id
    if id is not None and not isinstance(id, str):
        raise TypeNotAllowedError(
            f"{where}: the id of a message must be a string, not {brief(id)} of type {type(id).__name__}; pass str(id)"
        )
    if id and len(id) > _MAX_ID:
        raise ConfigurationError(
            f"{where}: the id {brief(id)} of a message has {len(id)} characters; at most {_MAX_ID} are allowed"
        )


def _packed(message: BaseMessage, codec: Codec, where: str) -> tuple[bytes, bool]:
    """The message without its id, as bytes, and whether it can be rebuilt from its image as well."""
    packed = pack_plain(message)
    if packed is not None:
        return packed, True
    named = "a message without an id" if message.id is None else f"message {message.id!r}"
    return codec.verified_message(message, f"{where}, {named}"), False


def _encode(
    message: BaseMessage, known: KnownBodies, codec: Codec, where: str, blobs: dict[str, Blob], image: bytes | None
) -> Body:
    """The body of this message with this image, if it has one; what is not known to be stored is added to `blobs`."""
    id, cls = message.id, type(message)
    if type(id) is not str or len(id) > _MAX_ID:
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
    if not id:
        return Body(_send(None, cls, packed, known, codec, blobs), None, packed)
    if body is not None and body.cls is None and body.content == packed:
        # It is stored as it is; only its image was not known.
        known.resend(body.name, blobs)
        if image is None:
            return body
        name = body.name
    else:
        name = _send(id, cls, packed, known, codec, blobs)
    body = Body(name, None, packed) if image is None else Body(name, cls, image, None if exact else packed)
    known.learn(id, body)
    return body


def _send(
    id: str | None, cls: type[BaseMessage], packed: bytes, known: KnownBodies, codec: Codec, blobs: dict[str, Blob]
) -> BodyName:
    """Add what is new of a body to what is going to be sent; its name."""
    sealed = Blob(codec.seal(packed))
    content = known.contents.get(packed) or known.waiting.get(packed)
    if content is not None:
        known.resend(content, blobs)
    elif not id or issubclass(cls, ToolMessage):
        content = content_name(packed)
        known.send(content, sealed, blobs)
        known.contents[packed] = content
        known.other_bytes += len(packed)
    else:
        name: BodyName = content_name(packed) + id  # type: ignore[assignment]  # see `names`
        known.send(name, sealed, blobs)
        return name
    if not id:
        return content
    sharing: BodyName = content + id  # type: ignore[assignment]  # likewise
    known.send(sharing, Blob(b"", (content,)), blobs)
    return sharing


def restored(names: Iterable[BodyName], known: KnownBodies, codec: Codec) -> dict[str, Blob]:
    """The bodies of these names that are known, as blobs, to store them again in a session that lost them."""
    blobs: dict[str, Blob] = {}
    for name in names:
        body = known.named(name)
        if body is None:
            continue
        blobs[name] = Blob(codec.seal(_packed_body(body, codec)))
    return blobs


def _packed_body(body: Body, codec: Codec) -> bytes:
    if body.cls is None:
        return body.content
    # What is not plain data, a set for example, might be packed in another order than the body is named after.
    return codec.packed_image(body.content, body.cls) if body.packed is None else body.packed


def decode_bodies(names: Iterable[BodyName], blobs: Mapping[str, Blob], codec: Codec) -> list[BaseMessage]:
    """The messages of these names.

    Raises:
        CorruptRecordError: A body is gone, damaged or of a newer format.
        TypeNotAllowedError: It is of a type that is not allow-listed.
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
    messages = codec.messages(packed, [name[ID:] or None for name in wanted])
    # Only now, since of a body from a newer format, or sealed with another key, the codec tells so.
    for name, content in zip(wanted, packed, strict=True):
        if not name.startswith(content_name(content)):
            raise CorruptRecordError(f"the body of message {key_of(name)!r} is damaged")
    return messages
