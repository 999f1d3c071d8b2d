"""Messages as compact records: the fields of each class in a fixed order, no names, no id.

The id is left out so that two copies of one message, before and after it got its id, share one
record; it travels in the name of the body (see `stored.names`). The order of fields below is
part of the stored format: add at the end, never reorder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, cast

import ormsgpack
from langchain_core import messages as lc
from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from langchain_ttl_history.encoding.plain import OPTIONS, plainly
from langchain_ttl_history.encoding.records import KEYS, list_header, unread_form
from langchain_ttl_history.errors import CorruptRecordError, TypeNotAllowedError

__all__ = [
    "CORE",
    "image_of",
    "images_of",
    "is_core",
    "joined",
    "messages_of",
    "pack_message",
    "pack_plain",
    "unpack_messages",
]

Default = Callable[[Any], Any]
Hook = Callable[[int, bytes], Any]
Resolve = Callable[[str, str], Any]
Spell = Callable[[Any], Any]

_BASE = ("content", "additional_kwargs", "response_metadata", "name")
_AI = (*_BASE, "tool_calls", "invalid_tool_calls", "usage_metadata")
_TOOL = (*_BASE, "tool_call_id", "artifact", "status")
_CHAT = (*_BASE, "role")
_LAYOUTS: tuple[tuple[type[BaseMessage], tuple[str, ...]], ...] = (
    (lc.HumanMessage, _BASE),
    (lc.AIMessage, _AI),
    (lc.SystemMessage, _BASE),
    (lc.ToolMessage, _TOOL),
    (lc.FunctionMessage, _BASE),
    (lc.ChatMessage, _CHAT),
    (lc.RemoveMessage, _BASE),
    (lc.HumanMessageChunk, _BASE),
    (lc.AIMessageChunk, (*_AI, "tool_call_chunks", "chunk_position")),
    (lc.SystemMessageChunk, _BASE),
    (lc.ToolMessageChunk, _TOOL),
    (lc.FunctionMessageChunk, _BASE),
    (lc.ChatMessageChunk, _CHAT),
)


State = dict[str, Any]

# A message's state, from its record and id, in the order pydantic gives the fields, so that its
# image is that of the original. A literal takes half the time of `dict(zip(...))`.


def _base_state(record: list[Any], kind: str, id: str | None) -> State:
    _, content, kwargs, metadata, name = record
    return {
        "content": content, "additional_kwargs": kwargs, "response_metadata": metadata,
        "type": kind, "name": name, "id": id,
    }  # fmt: skip


def _ai_state(record: list[Any], kind: str, id: str | None) -> State:
    _, content, kwargs, metadata, name, calls, invalid, usage = record
    return {
        "content": content, "additional_kwargs": kwargs, "response_metadata": metadata,
        "type": kind, "name": name, "id": id,
        "tool_calls": calls, "invalid_tool_calls": invalid, "usage_metadata": usage,
    }  # fmt: skip


def _tool_state(record: list[Any], kind: str, id: str | None) -> State:
    _, content, kwargs, metadata, name, call, artifact, status = record
    return {
        "content": content, "additional_kwargs": kwargs, "response_metadata": metadata,
        "type": kind, "name": name, "id": id,
        "tool_call_id": call, "artifact": artifact, "status": status,
    }  # fmt: skip


def _longer(fields: tuple[str, ...]) -> Callable[[list[Any], str, str | None], State]:
    after = len(_BASE)
    names = fields[after:]

    def state(record: list[Any], kind: str, id: str | None) -> State:
        made = _base_state(record[: after + 1], kind, id)
        made.update(zip(names, record[after + 1 :], strict=True))
        return made

    return state


_STATES = {_BASE: _base_state, _AI: _ai_state, _TOOL: _tool_state}


class _Layout(NamedTuple):
    tag: int
    cls: type[BaseMessage]
    kind: str
    size: int
    """How many fields the state has; a record has one less: a tag, and neither type nor id."""
    values: Callable[[Any], tuple[Any, ...]]
    state: Callable[[list[Any], str, str | None], State]
    every: set[str]
    """All of its fields. Rebuilt messages share this one set, which pydantic only ever adds to: a set for each would
    take as much memory as the rest of a short message."""


def _layout(tag: int, cls: type[BaseMessage], fields: tuple[str, ...]) -> _Layout:
    kind: str = cls.model_fields["type"].default
    state = _STATES.get(fields) or _longer(fields)
    return _Layout(tag, cls, kind, len(fields) + 2, itemgetter(*fields), state, {*fields, "type", "id"})


_BY_TAG = [_layout(tag, cls, fields) for tag, (cls, fields) in enumerate(_LAYOUTS)]
_BY_CLASS = {layout.cls: layout for layout in _BY_TAG}
CORE: frozenset[type] = frozenset(_BY_CLASS)
"""LangChain's own classes of messages."""

# Assigning through the slots themselves is what `object.__setattr__` does, at half its cost;
# a pydantic model's own `__setattr__` would validate.
_SLOTS: Any = BaseModel.__dict__
_set_state = _SLOTS["__dict__"].__set__
_set_present = _SLOTS["__pydantic_fields_set__"].__set__
_set_extra = _SLOTS["__pydantic_extra__"].__set__
_set_private = _SLOTS["__pydantic_private__"].__set__
# Twice as fast as a comprehension.
_state_of, _extra_of = attrgetter("__dict__"), attrgetter("__pydantic_extra__")
_new = cast("Callable[[type[BaseMessage]], BaseMessage]", object.__new__)


def pack_message(message: BaseMessage, default: Default, spell: Spell | None = None) -> bytes:
    """The message without its id, as bytes.

    Args:
        message: Any message; its class may be a custom one.
        default: What to do with a value that is not plain data; see `ormsgpack.packb`.
        spell: Rewrites each field first, where plain packing would refuse or change it.
    """
    layout = _BY_CLASS.get(type(message))
    state = message.__dict__
    if (
        layout is not None
        and spell is None
        and len(state) == layout.size
        and not message.__pydantic_extra__
        and state["type"] == layout.kind
    ):
        return ormsgpack.packb([layout.tag, *layout.values(state)], default, OPTIONS)
    cls = type(message)
    # The general form: a class by name or tag, every field by name, and what else it carries.
    rewrite = spell or _unchanged
    record = [
        None,
        -1 if layout is None else layout.tag,
        [cls.__module__, cls.__qualname__] if layout is None else None,
        {name: rewrite(value) for name, value in state.items() if name != "id"},
        rewrite(message.__pydantic_extra__ or None),
        rewrite(message.__pydantic_private__ or None),
    ]
    return ormsgpack.packb(record, default, OPTIONS)


def pack_plain(message: BaseMessage) -> bytes | None:
    """As :func:`pack_message`, for a message of LangChain's own classes that holds only plain data; else None."""
    layout = _BY_CLASS.get(type(message))
    state = message.__dict__
    if layout is None or len(state) != layout.size or message.__pydantic_extra__ or state["type"] != layout.kind:
        return None
    return plainly([layout.tag, *layout.values(state)])


def is_core(message: BaseMessage) -> bool:
    """Whether it is of LangChain's own classes and holds their fields only."""
    return type(message) in _BY_CLASS and not message.__pydantic_extra__


def image_of(message: BaseMessage, default: Default) -> bytes | None:
    """Everything a message holds, its id included, as bytes to compare; None if they would not show all of it."""
    if type(message) not in _BY_CLASS or message.__pydantic_extra__:
        return None
    try:
        return ormsgpack.packb(message.__dict__, default, OPTIONS)
    except TypeError:
        return None


def images_of(messages: Sequence[BaseMessage], default: Default) -> tuple[int, bytes]:
    """The images of these messages as one byte string, and the offset of the first; empty if one has no image.

    MessagePack packs a list as a header followed by its elements, so one call makes all images, at a third of the
    cost of a call for each.
    """
    if any(map(_extra_of, messages)):
        return 0, b""
    try:
        together = ormsgpack.packb([*map(_state_of, messages)], default, OPTIONS)
    except TypeError:
        return 0, b""
    return len(list_header(len(messages))), together


def joined(images: Sequence[bytes], count: int | None = None) -> tuple[int, bytes]:
    """These images as `images_of` returns them; `count` is how many they are, where one byte string holds several."""
    header = list_header(len(images) if count is None else count)
    return len(header), b"".join((header, *images))


def messages_of(images: bytes, classes: Sequence[type[BaseMessage]], hook: Hook) -> list[BaseMessage]:
    """The messages with these images, which are of LangChain's own classes; further bytes after them are ignored."""
    messages: list[BaseMessage] = []
    for state, cls in zip(ormsgpack.unpackb(images, ext_hook=hook, option=KEYS), classes, strict=True):
        message = _new(cls)
        _set_state(message, state)
        _set_present(message, _BY_CLASS[cls].every)
        _set_extra(message, {})
        _set_private(message, None)
        messages.append(message)
    return messages


def _unchanged(value: Any) -> Any:
    return value


def unpack_messages(
    packed: Sequence[bytes], ids: Iterable[str | None], hook: Hook, resolve: Resolve
) -> list[BaseMessage]:
    """The messages that `pack_message` packed.

    The objects are rebuilt as they were, without validation: what was packed had been validated.

    Args:
        packed: For each message what `pack_message` gave.
        ids: For each message the id it gets.
        hook: What to do with an extension; see `ormsgpack.unpackb`.
        resolve: Gives an allowed class for its module and name, or raises.

    Raises:
        CorruptRecordError: The bytes are not such a message.
    """
    messages: list[BaseMessage] = []
    layouts, known = _BY_TAG, len(_BY_TAG)
    # MessagePack ignores what follows the last record, so a mark is put there, to notice a record that is too long.
    together = b"".join([list_header(len(packed) + 1), *packed, b"\xc3"])
    try:
        records = ormsgpack.unpackb(together, ext_hook=hook, option=KEYS)
    except (ormsgpack.MsgpackDecodeError, TypeError) as error:
        raise CorruptRecordError(f"its bytes are damaged: {error}") from error
    if records.pop() is not True:
        raise CorruptRecordError("a message is longer than it was")
    for record, id in zip(records, ids, strict=True):
        tag = record[0] if type(record) is list and record else -1
        if type(tag) is not int or not 0 <= tag < known:
            if tag is not None:
                raise unread_form(f"message {id!r}", tag, known - 1)
            messages.append(_unpack_general(record, id, resolve))
            continue
        _, cls, kind, size, _, state, every = layouts[tag]
        if len(record) != size - 1:
            raise CorruptRecordError(f"message {id!r} of kind {tag} has {len(record) - 1} fields")
        message = _new(cls)
        _set_state(message, state(record, kind, id))
        _set_present(message, every)
        _set_extra(message, {})
        _set_private(message, None)
        messages.append(message)
    return messages


def _unpack_general(record: list[Any], id: str | None, resolve: Resolve) -> BaseMessage:
    try:
        _, tag, name, fields, extra, private = record
        cls = resolve(*name) if tag == -1 else _BY_TAG[tag].cls
        state = {**fields, "id": id}
    except TypeNotAllowedError:
        raise
    except (ValueError, TypeError, IndexError) as error:
        raise CorruptRecordError(f"its bytes are damaged: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, BaseMessage)):
        raise TypeNotAllowedError(f"type {'.'.join(name)} is no class of messages any more; restore it")
    message = cls.__new__(cls)
    _set_state(message, state)
    _set_present(message, set(state))
    _set_extra(message, extra or {})
    _set_private(message, private)
    return message
