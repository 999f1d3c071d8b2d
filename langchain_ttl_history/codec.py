"""Values to bytes and back: what goes in comes out, and stored bytes never run code.

Plain data and messages are packed directly, and everything else as `extensions` does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias, cast

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_ttl_history.encoding.allowlist import TypeName
from langchain_ttl_history.encoding.extensions import Extensions, UnmadeError, refusal
from langchain_ttl_history.encoding.fidelity import changed, same
from langchain_ttl_history.encoding.images import image_of, images_of, joined, messages_of
from langchain_ttl_history.encoding.messages import pack_message, pack_plain
from langchain_ttl_history.encoding.plain import OPTIONS, plainly
from langchain_ttl_history.encoding.records import pack, unpack, unpack_marked
from langchain_ttl_history.encoding.spelling import spelled
from langchain_ttl_history.errors import ConfigurationError, CorruptRecordError, TypeNotAllowedError, brief

__all__ = [
    "Codec",
    "Serializer",
    "check_serde",
]

_NONE = pack(None)

Serializer: TypeAlias = SerializerProtocol


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
        inner = cipher.serde if type(cipher) is EncryptedSerializer else cipher
        self._by_langgraph = type(inner) is JsonPlusSerializer
        self._extensions = Extensions(allowed, learning=learning)

    def allows(self, names: Iterable[TypeName]) -> bool:
        """Whether all of these types may be rebuilt already."""
        return self._extensions.allows(names)

    def allowing(self, extra: Collection[TypeName], serde: SerializerProtocol | None) -> Codec:
        """A codec like this one that allows more types and shares what this one learns."""
        twin = Codec(learning=self.learning, serde=serde, cipher=self.cipher)
        twin._extensions = self._extensions.allowing(extra)
        return twin

    def learn_with(self, other: Codec) -> None:
        """Share what is learned with another codec for the same storage."""
        self._extensions.learn_with(other._extensions)

    # Payloads

    def seal(self, payload: bytes) -> bytes:
        """The payload as it is stored.

        Raises:
            ConfigurationError: The cipher failed.
        """
        if self.cipher is None:
            return payload
        try:
            return pack(list(self.cipher.dumps_typed(payload)))
        except Exception as error:  # it is the program's own, and may raise anything
            raise ConfigurationError(
                f"the buffer's serde= cannot seal a record: {type(error).__name__}: {error}"
            ) from error

    def unseal(self, sealed: bytes) -> bytes:
        """The payload of what `seal` gave.

        Raises:
            CorruptRecordError: It was stored in plain, with another key, or damaged.
        """
        if self.cipher is None:
            return sealed
        try:
            parts = unpack(sealed)
            if type(parts) is not list or [type(each) for each in parts] != [str, bytes]:
                raise ValueError("it is not sealed, but was stored by a buffer without serde=, or is damaged")
            kind, data = parts
            if isinstance(self.cipher, EncryptedSerializer) and "+" not in kind:
                raise ValueError("it is not encrypted")
            if self._by_langgraph and kind.partition("+")[0] != "bytes":
                # No seal covers the kind, by which LangGraph's serializer chooses a loader that may run what it reads.
                raise ValueError(f"it is sealed as {kind!r}, not as bytes")
            payload = self.cipher.loads_typed((kind, data))
        except Exception as error:
            why = str(error)
            if "serde=" not in why:
                why += "; another key may have sealed it: pass the serde= it was written with"
            raise CorruptRecordError(f"a record cannot be deciphered: {why}", tells_way_out=True) from error
        if not isinstance(payload, bytes):
            raise CorruptRecordError("a record cannot be deciphered: it holds no bytes")
        return payload

    # Messages

    def verified_message(self, message: BaseMessage, where: str) -> bytes:
        """The message as bytes that were read back and found to be the same.

        Raises:
            TypeNotAllowedError: Something in it would not come back as it is.
        """

        def encode(spell: Callable[[Any], Any] | None) -> bytes:
            return pack_message(message, self._extensions.default, spell)

        def decode(packed: bytes) -> Any:
            return self.message(packed, message.id)

        self._extensions.learn(message)
        return self._verified(message, encode, decode, where)

    def image_of(self, message: BaseMessage) -> bytes | None:
        """Everything this message holds, as bytes to compare; None if they would not show all of it."""
        image = image_of(message, self._extensions.default)
        if image is None:
            self._extensions.forget_failure()  # It is no error of whatever is read next.
        return image

    def packed_image(self, image: bytes, cls: type[BaseMessage]) -> bytes:
        """What `pack_plain` gave for the message whose image this is."""
        (message,) = messages_of(joined([image])[1], [cls], self._extensions.hook)
        return cast(bytes, pack_plain(message))

    def images(self, messages: Sequence[BaseMessage]) -> tuple[int, bytes]:
        """The images of these messages as one byte string, and the offset of the first; empty if one has no image."""
        begin, images = images_of(messages, self._extensions.default)
        if not images:
            self._extensions.forget_failure()
        return begin, images

    def messages_of(self, images: bytes, classes: Sequence[type[BaseMessage]]) -> list[BaseMessage]:
        """The messages of these classes whose images these are."""
        return messages_of(images, classes, self._extensions.hook)

    def messages(self, packed: Sequence[bytes], ids: Iterable[str | None]) -> list[BaseMessage]:
        """The messages that were packed, with these ids.

        Raises:
            CorruptRecordError: One is damaged or of a newer format.
            TypeNotAllowedError: It holds a type that is not allow-listed.
        """
        return self._extensions.messages(packed, ids)

    def message(self, packed: bytes, id: str | None) -> BaseMessage:
        """One message that was packed, with this id."""
        return self.messages([packed], [id])[0]

    # Values

    def plain(self, value: Any) -> bytes | None:
        """A channel's value as bytes that are certain to come back exactly; None if `dumps` has to try."""
        return _NONE if value is None else plainly(value)

    def dumps(self, value: Any, where: str) -> bytes:
        """A channel's value as bytes.

        Raises:
            TypeNotAllowedError: It would not come back as it is; `where` names the place.
        """
        packed = self.plain(value)
        if packed is not None:
            return packed

        def encode(spell: Callable[[Any], Any] | None) -> bytes:
            ready = value if spell is None else spell(value)
            return ormsgpack.packb(ready, self._extensions.default, OPTIONS)

        return self._verified(value, encode, self.loads, where)

    def loads(self, packed: bytes) -> Any:
        """The value that `dumps` packed.

        Raises:
            CorruptRecordError: The bytes are damaged or from a newer format.
            TypeNotAllowedError: It holds a type that is not allow-listed.
        """
        try:
            return unpack_marked([packed], self._extensions.hook)[0]
        except (ormsgpack.MsgpackDecodeError, ValueError) as error:
            raise self._extensions.unread("a value", error) from error

    @staticmethod
    def serialize(serde: SerializerProtocol, value: Any, where: str) -> bytes:
        """A channel's value as the program's own serializer writes it.

        Raises:
            TypeNotAllowedError: It refuses the value; `where` names the place.
        """
        try:
            return pack(list(serde.dumps_typed(value)))
        except Exception as error:
            raise TypeNotAllowedError(f"{where}: {refusal(type(value))} ({error})") from error

    def deserialize(self, packed: bytes) -> Any:
        """The value that `serialize` gave bytes for.

        Raises:
            CorruptRecordError: There is no serializer, or it does not read them.
        """
        if self.serde is None:
            raise CorruptRecordError(
                "a value was written by the serializer of a checkpointer; pass the same serde= to checkpointer()",
                tells_way_out=True,
            )
        try:
            kind, data = unpack(packed)
            return self.serde.loads_typed((kind, data))
        except Exception as error:
            raise CorruptRecordError(
                f"the checkpointer's serializer cannot read a value: {type(error).__name__}: {error}; "
                "pass the serde= that wrote it",
                tells_way_out=True,
            ) from error

    def _verified(
        self,
        value: Any,
        encode: Callable[[Callable[[Any], Any] | None], bytes],
        decode: Callable[[bytes], Any],
        where: str,
    ) -> bytes:
        """The value as bytes that were read back and found to be the same.

        Args:
            value: What is packed.
            encode: Packs it, each of its parts rewritten by a function if it is given one.
            decode: Reads it back.
            where: Names the place if it is refused.
        """
        problem: Exception | None = None
        culprit = value
        self._extensions.forget_failure()
        # A second attempt spells out what MessagePack refuses or silently changes.
        for spell in (None, spelled):
            try:
                packed = encode(spell)
                found = decode(packed)
                if same(value, found):
                    return packed
                culprit = changed(value, found)
            except Exception as error:  # noqa: BLE001  # a class's own code may raise anything
                problem = self._extensions.failure(error)
        cause: BaseException | None = problem
        while cause is not None:
            if isinstance(cause, TypeNotAllowedError):
                raise TypeNotAllowedError(f"{where}: {cause}") from problem
            cause = cause.__cause__ or cause.__context__
        if "recursion" in str(problem).lower() or "nested too deeply" in str(problem):
            why = (
                "a value holds itself, or is nested too deeply to be stored; "
                "large values within each other may take 256 MiB together"
            )
            raise TypeNotAllowedError(f"{where}: {why}") from problem
        kind = problem.kind if isinstance(problem, UnmadeError) else type(culprit)
        raise TypeNotAllowedError(f"{where}: {refusal(kind)}") from problem


def check_serde(serde: object) -> None:
    """Check that an argument is a serializer or None.

    Raises:
        ConfigurationError: It lacks the methods of a serializer.
    """
    if serde is not None and not (hasattr(serde, "dumps_typed") and hasattr(serde, "loads_typed")):
        raise ConfigurationError(
            f"serde must have dumps_typed and loads_typed, as JsonPlusSerializer has, not {brief(serde)}"
        )
