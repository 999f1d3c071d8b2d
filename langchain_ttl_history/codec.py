"""Values to bytes and back: what goes in comes out, and stored bytes never run code.

Plain data and messages are packed directly. Everything else goes through LangGraph's serializer
on the way in, and through `_revive` on the way out, which rebuilds allow-listed types only and
raises where LangGraph's own reader would hand back raw data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from threading import local
from typing import Any

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langchain_ttl_history.allowlist import AllowList, TypeName
from langchain_ttl_history.errors import CorruptRecordError, TypeNotAllowedError
from langchain_ttl_history.fidelity import BYTEARRAY, INTEGER, TEXT, Pairs, same, spelled
from langchain_ttl_history.messages import (
    OPTIONS,
    image_of,
    images_of,
    is_core,
    joined,
    messages_of,
    pack_message,
    pack_plain,
    plainly,
    unpack_messages,
)
from langchain_ttl_history.objects import put_together, taken_apart
from langchain_ttl_history.records import KEYS, pack, unpack, whole

__all__ = [
    "Codec",
    "Serializer",
    "delta_snapshot",
    "is_snapshot",
    "joined",
    "snapshot_value",
]

# Extension types of this format.
# Those from 4 to 6 are `fidelity`'s.
_MESSAGE, _TYPED, _TUPLE, _PAIRS, _OBJECT = 1, 2, 3, 7, 8
_LANGGRAPH = JsonPlusSerializer()
_NONE = pack(None)

# LangGraph's own containers, besides the types its serializer calls safe.
_SAFE = SAFE_MSGPACK_TYPES | {
    ("langgraph.checkpoint.serde.types", "_DeltaSnapshot"),
    ("langgraph._internal._io", "AddableValuesDict"),
    ("langgraph.pregel._io", "AddableValuesDict"),
    ("collections", "OrderedDict"),
}

Serializer = SerializerProtocol


class Codec:
    """Turns messages and channel values into bytes and back.

    Args:
        allowed: Types that may be rebuilt besides LangGraph's safe ones, as classes or
            (module, name).
        learning: Whether a type that this process stores becomes allowed by that. Right only
            where nobody else can write to the storage.
        serde: Serializes channel values instead of this codec.
        cipher: Seals every payload, messages included (an `EncryptedSerializer`, say).
    """

    def __init__(
        self,
        *,
        allowed: Iterable[type | TypeName] = (),
        learning: bool = False,
        serde: SerializerProtocol | None = None,
        cipher: SerializerProtocol | None = None,
    ) -> None:
        self.learning = learning
        self.serde = serde
        self.cipher = cipher
        self._allowed = AllowList(_SAFE, allowed)
        self._resolve = self._allowed.resolve
        self._failure = local()

    def allowing(self, extra: Collection[TypeName], serde: SerializerProtocol | None) -> Codec:
        """A codec like this one that allows more types and shares what this one learns."""
        twin = Codec(learning=self.learning, serde=serde, cipher=self.cipher)
        twin._allowed = self._allowed if self.learning else self._allowed.copy()
        twin._resolve = twin._allowed.resolve
        twin._allowed.allow(extra)
        return twin

    # Payloads

    def seal(self, payload: bytes) -> bytes:
        """The payload as it is stored."""
        if self.cipher is None:
            return payload
        return pack(list(self.cipher.dumps_typed(payload)))

    def unseal(self, sealed: bytes) -> bytes:
        """The payload of what `seal` gave.

        Raises:
            CorruptRecordError: It was stored in plain, with another key, or damaged.
        """
        if self.cipher is None:
            return sealed
        try:
            kind, data = unpack(sealed)
            if isinstance(self.cipher, EncryptedSerializer) and "+" not in kind:
                raise ValueError("it is not encrypted")
            payload = self.cipher.loads_typed((kind, data))
        except Exception as error:
            raise CorruptRecordError(f"a record cannot be deciphered: {error}") from error
        if not isinstance(payload, bytes):
            raise CorruptRecordError("a record cannot be deciphered: it holds no bytes")
        return payload

    # Messages

    def pack_message(self, message: BaseMessage) -> bytes:
        """The message without its id; cheap, and the same bytes for the same content."""
        try:
            return pack_message(message, self._default)
        except TypeError:
            # A lone surrogate, say; an unknown type fails again, in `verified_message`.
            return pack_message(message, self._default, spelled)

    def plain_message(self, message: BaseMessage) -> bytes | None:
        """The message as bytes that certainly come back as they are; None if that is to be tried."""
        return pack_plain(message)

    def verified_message(self, message: BaseMessage, where: str) -> bytes:
        """The message as bytes that were read back and found equal.

        Raises:
            TypeNotAllowedError: Something in it would not come back as it is.
        """

        def encode(spell: Callable[[Any], Any] | None) -> bytes:
            return pack_message(message, self._default, spell)

        def decode(packed: bytes) -> Any:
            return self.message(packed, message.id)

        return self._verified(message, encode, decode, where)

    def image_of(self, message: BaseMessage) -> bytes | None:
        """All that this message holds, as bytes to compare; None if that cannot be told."""
        return image_of(message, self._default)

    def packed_image(self, image: bytes, cls: type[BaseMessage], where: str) -> bytes:
        """What :meth:`verified_message` gave for the message whose image this is."""
        (message,) = messages_of(joined([image])[1], [cls], self._hook)
        return self.plain_message(message) or self.verified_message(message, where)

    def images(self, messages: Sequence[BaseMessage]) -> tuple[int, bytes]:
        """The images of these messages side by side, as one, and where in it the first begins.

        Nothing if one of them holds what has no image.
        """
        return images_of(messages, self._default)

    def messages_of(self, images: bytes, classes: Sequence[type[BaseMessage]]) -> list[BaseMessage]:
        """The messages of these classes whose images these are."""
        return messages_of(images, classes, self._hook)

    def has_image(self, message: BaseMessage) -> bool:
        """Whether an image tells all that this message holds."""
        return is_core(message)

    def messages(self, packed: Sequence[bytes], ids: Iterable[str | None]) -> list[BaseMessage]:
        """The messages that were packed, with these ids.

        Raises:
            CorruptRecordError: One is damaged or of a newer format.
        """
        try:
            return unpack_messages(packed, ids, self._hook, self._resolve)
        except (CorruptRecordError, TypeNotAllowedError) as error:
            raise self._unread("a message", error) from error

    def _unread(self, what: str, error: Exception) -> Exception:
        """What is wrong with a record; a hook's own error is not passed on by MessagePack."""
        inner = self._failure.__dict__.pop("error", error)
        kind = TypeNotAllowedError if isinstance(inner, TypeNotAllowedError) else CorruptRecordError
        return kind(f"{what} cannot be read: {inner}")

    def message(self, packed: bytes, id: str | None) -> BaseMessage:
        """One message that was packed, with this id."""
        return self.messages([packed], [id])[0]

    # Values

    def plain(self, value: Any) -> bytes | None:
        """A channel's value as bytes that certainly come back as it is; None if that is to be tried."""
        if self.serde is not None:
            return None
        return _NONE if value is None else plainly(value)

    def dumps(self, value: Any, where: str) -> bytes:
        """A channel's value as bytes.

        Raises:
            TypeNotAllowedError: It would not come back as it is; `where` names the place.
        """
        if self.serde is not None:
            try:
                return pack(list(self.serde.dumps_typed(value)))
            except Exception as error:
                raise TypeNotAllowedError(f"{where}: {_refusal(value)} ({error})") from error
        packed = self.plain(value)
        if packed is not None:
            return packed

        def encode(spell: Callable[[Any], Any] | None) -> bytes:
            ready = value if spell is None else spell(value)
            return ormsgpack.packb(ready, self._default, OPTIONS)

        return self._verified(value, encode, self.loads, where)

    def loads(self, packed: bytes) -> Any:
        """The value that `dumps` packed.

        Raises:
            CorruptRecordError: The bytes are damaged or from a newer format.
        """
        if self.serde is not None:
            kind, data = unpack(packed)
            return self.serde.loads_typed((kind, data))
        try:
            framed = b"\x92" + packed + b"\xc3"
            return whole(ormsgpack.unpackb(framed, ext_hook=self._hook, option=KEYS))
        except (ormsgpack.MsgpackDecodeError, ValueError) as error:
            raise self._unread("a value", error) from error

    def _verified(
        self,
        value: Any,
        encode: Callable[[Callable[[Any], Any] | None], bytes],
        decode: Callable[[bytes], Any],
        where: str,
    ) -> bytes:
        problem: Exception | None = None
        self._failure.__dict__.clear()
        # What MessagePack refuses or quietly changes is spelled out and tried once more.
        for spell in (None, spelled):
            try:
                packed = encode(spell)
                if same(value, decode(packed)):
                    return packed
            except Exception as error:  # noqa: BLE001  # a class's own code may raise anything
                problem = self._failure.__dict__.pop("error", error)
        cause: BaseException | None = problem
        while cause is not None:
            if isinstance(cause, TypeNotAllowedError):
                raise TypeNotAllowedError(f"{where}: {cause}") from problem
            cause = cause.__cause__ or cause.__context__
        raise TypeNotAllowedError(f"{where}: {_refusal(value)}") from problem

    # Everything that is neither plain data nor a message

    def _default(self, value: Any) -> Any:
        try:
            return self._packable(value)
        except TypeNotAllowedError as error:
            self._failure.__dict__.setdefault("error", error)
            raise

    def _packable(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, BaseMessage):
            if self.learning and not is_core(value):
                self._allowed.remember(value)
            return self._ext(_MESSAGE, [value.id, self.pack_message(value)])
        if kind is int:  # Of more than 64 bits, or MessagePack would not have asked.
            return ormsgpack.Ext(INTEGER, str(value).encode())
        if kind is Pairs or kind is tuple:
            return self._ext(_PAIRS if kind is Pairs else _TUPLE, list(value))
        if self.learning:
            self._allowed.remember(value)
        parts = taken_apart(value)
        if parts is not None:
            # Spelled out at once: what stands inside may compare equal and yet be another type.
            return self._ext(_OBJECT, [kind.__module__, kind.__qualname__, *map(spelled, parts)])
        try:
            return ormsgpack.Ext(_TYPED, pack(list(_LANGGRAPH.dumps_typed(value))))
        except TypeError as error:
            raise TypeNotAllowedError(_refusal(value)) from error

    def _ext(self, code: int, parts: list[Any]) -> Any:
        try:
            return ormsgpack.Ext(code, ormsgpack.packb(parts, self._default, OPTIONS))
        except TypeError:
            parts = [spelled(each) for each in parts]
            return ormsgpack.Ext(code, ormsgpack.packb(parts, self._default, OPTIONS))

    def _hook(self, code: int, data: bytes) -> Any:
        try:
            return self._extension(code, data)
        except Exception as error:
            self._failure.__dict__.setdefault("error", error)
            raise

    def _extension(self, code: int, data: bytes) -> Any:
        if code == _TYPED:
            kind, payload = ormsgpack.unpackb(data)
            if kind == "msgpack":
                return ormsgpack.unpackb(payload, ext_hook=self._revive, option=KEYS)
            return _LANGGRAPH.loads_typed((kind, payload))
        if code == TEXT:
            return data.decode("utf-8", "surrogatepass")
        if code == BYTEARRAY:
            return bytearray(data)
        if code == INTEGER:
            return int(data)
        inner = ormsgpack.unpackb(data, ext_hook=self._hook, option=KEYS)
        if code == _MESSAGE:
            return self.message(inner[1], inner[0])
        if code == _TUPLE:
            return tuple(inner)
        if code == _PAIRS:
            return dict(inner)
        if code == _OBJECT:
            module, name, how, state = inner
            return put_together(self._resolve(module, name), how, state)
        raise CorruptRecordError(f"extension {code} is of a newer format")

    def _revive(self, code: int, data: bytes) -> Any:
        try:
            return self._revived(code, data)
        except Exception as error:
            self._failure.__dict__.setdefault("error", error)
            raise

    def _revived(self, code: int, data: bytes) -> Any:
        """An object LangGraph's serializer packed; the codes are its own."""
        parts = ormsgpack.unpackb(data, ext_hook=self._revive, option=KEYS)
        if code == 7:
            return _DeltaSnapshot(parts)
        if code == 6:
            return _LANGGRAPH._unpack_ext_hook(code, data)  # noqa: SLF001  # an array's bytes are its own format
        module, name, payload = parts[:3]
        if code == 3:
            if (module, name, parts[3]) not in SAFE_MSGPACK_METHODS:
                raise TypeNotAllowedError(f"{module}.{name}.{parts[3]} may not be called")
            return getattr(self._resolve(module, name), parts[3])(payload)
        cls: Any = self._resolve(module, name)
        if code == 0:
            return cls(payload)
        if code == 1:
            if (module, name) == ("langgraph.types", "Send") and len(payload) == 3:
                return cls(payload[0], payload[1], timeout=payload[2])
            return cls(*payload)
        try:
            return cls(**payload)
        except Exception:
            if code not in (4, 5):
                raise
            # A model that was changed after it had been validated.
            return cls.model_construct(**payload)


def _refusal(value: object) -> str:
    return (
        f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be "
        "stored, since it would not come back as it is. Store plain data, a dataclass or a "
        "pydantic model, or give the checkpointer a serde= that knows the type"
    )


def delta_snapshot(value: Any) -> Any:
    """A `DeltaChannel`'s stored value."""
    return _DeltaSnapshot(value)


def is_snapshot(value: Any) -> bool:
    """Whether a channel's value is a `DeltaChannel`'s snapshot."""
    return type(value) is _DeltaSnapshot


def snapshot_value(value: Any) -> Any:
    """A channel's value, out of its snapshot if it is one."""
    return value.value if is_snapshot(value) else value
