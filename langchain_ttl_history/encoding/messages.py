"""Messages as compact records: the fields of each class in a fixed order, no names, no id.

A message of a class of the program's own, or with more than its class's fields, is a record of names and values:

```text
 HumanMessage("Hi", id="m1")             [0, "Hi", {}, {}, None]
   its class (see `layouts`), and its fields
 Mine("Hi", id="m2"), a HumanMessage     [None, -1, ["app", "Mine"], {"content": "Hi", ..., "mood": "good"}, None, None]
   -1, its class, its fields, extra fields, private attributes; then the names of fields that were deleted, if any
 HumanMessage("Hi", id="m3", tone="dry") [None, 0, None, {"content": "Hi", ...}, {"tone": "dry"}, None]
   the number of LangChain's class in place of its name
```

The id is left out so that two copies of one message, before and after it got its id, share one record; it travels in
the name of the body (see `stored.names`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import ormsgpack
from langchain_core.messages import BaseMessage

from langchain_ttl_history.encoding.added_fields import absent_from, fill_model
from langchain_ttl_history.encoding.class_names import module_of
from langchain_ttl_history.encoding.layouts import (
    BY_CLASS,
    BY_TAG,
    new_message,
    set_extra,
    set_present,
    set_private,
    set_state,
)
from langchain_ttl_history.encoding.plain import OPTIONS, plainly
from langchain_ttl_history.encoding.records import Default, Hook, unpack_marked, unread_form
from langchain_ttl_history.errors import CorruptRecordError, TypeNotAllowedError, printable

__all__ = ["pack_message", "pack_plain", "unpack_messages"]

Resolve: TypeAlias = Callable[[str, str], Any]
Spell: TypeAlias = Callable[[Any], Any]


def pack_message(message: BaseMessage, default: Default, spell: Spell | None = None) -> bytes:
    """The message without its id, as bytes.

    Args:
        message: Any message; its class may be a custom one.
        default: What to do with a value that is not plain data; see `ormsgpack.packb`.
        spell: Rewrites each field first, where plain packing would refuse or change it.
    """
    record = _compact(message) if spell is None else None
    if record is not None:
        return ormsgpack.packb(record, default, OPTIONS)
    # The general form.
    cls, state = type(message), message.__dict__
    layout = BY_CLASS.get(cls)
    rewrite = spell or _unchanged
    record = [
        None,
        -1 if layout is None else layout.tag,
        [module_of(cls), cls.__qualname__] if layout is None else None,
        {name: rewrite(value) for name, value in state.items() if name != "id"},
        rewrite(message.__pydantic_extra__ or None),
        rewrite(message.__pydantic_private__ or None),
    ]
    if absent := absent_from(message):
        record.append(absent)
    return ormsgpack.packb(record, default, OPTIONS)


def pack_plain(message: BaseMessage) -> bytes | None:
    """As `pack_message`, for a message of LangChain's own classes that holds only plain data; else None."""
    record = _compact(message)
    return None if record is None else plainly(record)


def _compact(message: BaseMessage) -> list[Any] | None:
    """The record of a message that holds the fields of its class, one of LangChain's own, and no more; else None."""
    layout = BY_CLASS.get(type(message))
    state = message.__dict__
    if layout is None or len(state) != layout.size or message.__pydantic_extra__ or state["type"] != layout.kind:
        return None
    return [layout.tag, *layout.values(state)]


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
        TypeNotAllowedError: It is of a type that is not allow-listed.
    """
    messages: list[BaseMessage] = []
    layouts, known = BY_TAG, len(BY_TAG)
    try:
        records = unpack_marked(packed, hook)
    except (ormsgpack.MsgpackDecodeError, TypeError) as error:
        raise CorruptRecordError(f"its bytes are damaged: {error}") from error
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
        message = new_message(cls)
        set_state(message, state(record, kind, id))
        set_present(message, every)
        set_extra(message, {})
        set_private(message, None)
        messages.append(message)
    return messages


def _unpack_general(record: list[Any], id: str | None, resolve: Resolve) -> BaseMessage:
    try:
        _, tag, name, fields, extra, private, *absent = record
        if tag != -1 and not 0 <= tag < len(BY_TAG):
            raise unread_form(f"message {id!r}", tag, len(BY_TAG) - 1)
        cls = resolve(*map(str, name)) if tag == -1 else BY_TAG[tag].cls
        state = {**fields, "id": id}
        extra = {} if extra is None else {**extra}
        private = None if private is None else {**private}
    except (CorruptRecordError, TypeNotAllowedError):
        raise
    except (ValueError, TypeError) as error:
        raise CorruptRecordError(f"its bytes are damaged: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, BaseMessage)):
        raise TypeNotAllowedError(printable(f"type {'.'.join(name)} is not a message class any more; restore it"))
    message = cls.__new__(cls)
    present = set(state)
    private = fill_model(cls, state, extra, private, *absent)
    set_state(message, state)
    set_present(message, present)
    set_extra(message, extra)
    set_private(message, private)
    return message
