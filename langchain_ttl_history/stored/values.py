"""How the channel values of a record are stored, side by side and sharing its tuple of references.

Here those of one record, `question` and `answer` being messages:

```text
                                   stored as                                         references that it adds
 0 HERE      7                     [0, 07]
 1 BLOB      "x" * 100             [1, 0]                                            v65ddedd22fff...
 2 LIST      [question, answer]    [2, 1, 3]                                         m250a...m1, m59d1...a1
 3 MESSAGE   answer                [3, 3, 4]                                         m59d1...a1
 4 SNAPSHOT  [question, answer]    [4, 4, 6]                                         m250a...m1, m59d1...a1
 5 MAP       {"n": 1, "q": [question]}
                                   [5, [["n", [0, 01]], ["q", [2, 6, 7]]]]           m250a...m1
```

The numbers after the kind are places in the tuple: of the one reference, or where several start and end. Messages are
references to their bodies; a mapping that contains lists of messages is stored value by value, any other value in the
record itself or, if it is large, as a reference to a blob named after its content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from langchain_core.messages import BaseMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot, is_snapshot
from langchain_ttl_history.encoding.layouts import CORE
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.bodies import decode_bodies, encode_bodies, encode_conversation
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import BodyName, value_name

__all__ = ["LIST", "SNAPSHOT", "ValueEncoder", "decode_value", "is_conversation", "shifted"]

# Part of the stored format: add at the end, never reorder.
HERE, BLOB, LIST, MESSAGE, SNAPSHOT, MAP, SERIALIZED, SERIALIZED_BLOB = range(8)
"""How a value is stored; the last two are as the first two, by a serializer of the program's own."""

# A value of up to so many bytes stands in its record.
_INLINE = 96


class ValueEncoder:
    """Encodes values side by side, sharing one tuple of references.

    The messages of the `conversation` channel are bodies even where a serializer of the
    program's own is for all others.
    """

    def __init__(self, codec: Codec, where: str, known: KnownBodies, conversation: str | None = None) -> None:
        self.codec: Codec = codec
        self.where: str = where
        self.known: KnownBodies = known
        self.conversation: str | None = conversation
        self.refs: list[str] = []
        self.blobs: dict[str, Blob] = {}

    def messages(self, value: Sequence[BaseMessage], channel: str, *, whole: bool = False) -> list[int]:
        """Refer to these messages' bodies; the references' start and end. `whole`: they are a whole conversation."""
        start = len(self.refs)
        encode = encode_conversation if whole else encode_bodies
        self.refs += encode(value, self.known, self.codec, f"{self.where}, channel {channel!r}", self.blobs)
        return [start, len(self.refs)]

    def encode(self, value: Any, channel: str) -> list[Any]:
        """A channel's value as it is stored."""
        if value is not None and (self.codec.serde is None or channel == self.conversation):
            kind = type(value)
            if kind is list and value and is_conversation(value):
                return [LIST, *self.messages(value, channel)]
            if kind is dict and _holds_conversation(value):
                return [MAP, [[key, self.encode(each, channel)] for key, each in value.items()]]
            if is_snapshot(value) and is_conversation(value.value):
                return [SNAPSHOT, *self.messages(value.value, channel)]
            if isinstance(value, BaseMessage):
                return [MESSAGE, *self.messages([value], channel)]
        where = f"{self.where}, channel {channel!r}"
        if self.codec.serde is None:
            here, apart, data = HERE, BLOB, self.codec.dumps(value, where)
        else:
            here, apart, data = SERIALIZED, SERIALIZED_BLOB, self.codec.serialize(self.codec.serde, value, where)
        if len(data) <= _INLINE:
            return [here, data]
        name = value_name(data)
        self.blobs[name] = Blob(self.codec.seal(data))
        self.refs.append(name)
        return [apart, len(self.refs) - 1]

    def share(self, stored: Sequence[Any], refs: Sequence[str]) -> list[Any]:
        """Take over a value that another record stored, with that record's references."""
        if stored[0] in (HERE, SERIALIZED):
            return list(stored)
        if stored[0] == MAP:
            return [MAP, [[key, self.share(each, refs)] for key, each in stored[1]]]
        start = len(self.refs)
        if stored[0] in (BLOB, SERIALIZED_BLOB):
            self.refs.append(refs[stored[1]])
            return [stored[0], start]
        self.refs += refs[stored[1] : stored[2]]
        return [stored[0], start, len(self.refs)]


def shifted(stored: Sequence[Any], by: int) -> list[Any]:
    """A stored value after its references have moved `by` places towards the start."""
    if stored[0] in (HERE, SERIALIZED):
        return list(stored)
    if stored[0] == MAP:
        return [MAP, [[key, shifted(each, by)] for key, each in stored[1]]]
    return [stored[0], *(place - by for place in stored[1:])]


def decode_value(stored: Sequence[Any], refs: Sequence[str], blobs: Mapping[str, Blob], codec: Codec) -> Any:
    """The value that was stored so.

    Raises:
        CorruptRecordError: It is gone, damaged or of a newer format.
        TypeNotAllowedError: It is of a type that is not allow-listed.
    """
    kind = stored[0]
    if kind == HERE:
        return codec.loads(stored[1])
    if kind == SERIALIZED:
        return codec.deserialize(stored[1])
    if kind in (BLOB, SERIALIZED_BLOB):
        name = refs[stored[1]]
        if name not in blobs:
            raise CorruptRecordError("a channel's value is gone")
        data = codec.unseal(blobs[name].payload)
        if value_name(data) != name:
            raise CorruptRecordError("a channel's value is damaged")
        return codec.loads(data) if kind == BLOB else codec.deserialize(data)
    if kind == MAP:
        return {key: decode_value(each, refs, blobs, codec) for key, each in stored[1]}
    if kind not in (LIST, MESSAGE, SNAPSHOT):
        raise CorruptRecordError(f"a channel's value is of kind {kind!r}, of a newer format")
    messages = decode_bodies(cast("Sequence[BodyName]", refs[stored[1] : stored[2]]), blobs, codec)
    if kind == LIST:
        return messages
    return messages[0] if kind == MESSAGE else delta_snapshot(messages)


def _holds_conversation(value: dict[Any, Any]) -> bool:
    """Whether it is a mapping with string keys that contains a list of messages, such as a graph's input."""
    return any(type(each) is list and each and is_conversation(each) for each in value.values()) and all(
        type(key) is str and key.isascii() for key in value
    )


def is_conversation(value: Any) -> bool:
    """Whether a channel's value is a list of messages."""
    if type(value) is not list:
        return False
    kinds = set(map(type, value))
    return kinds <= CORE or all(map(_is_message, kinds))


@lru_cache(maxsize=1024)
def _is_message(cls: type[Any]) -> bool:
    return issubclass(cls, BaseMessage)
