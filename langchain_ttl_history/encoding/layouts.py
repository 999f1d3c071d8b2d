"""The fields of LangChain's own classes of messages, and how a message is made of them without validation.

What was stored had been validated.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeAlias, cast

from langchain_core import messages as lc
from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from langchain_ttl_history.encoding.added_fields import fill_model

__all__ = [
    "BY_CLASS",
    "BY_TAG",
    "CORE",
    "extra_of",
    "is_core",
    "layout",
    "new_message",
    "set_extra",
    "set_present",
    "set_private",
    "set_state",
    "state_of",
]

# The order of the classes and of their fields is part of the stored format: add at the end, never reorder.
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


State: TypeAlias = dict[str, Any]

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


def _filled(
    state: Callable[[list[Any], str, str | None], State], cls: type[BaseMessage]
) -> Callable[[list[Any], str, str | None], State]:
    def filled(record: list[Any], kind: str, id: str | None) -> State:
        made = state(record, kind, id)
        fill_model(cls, made, None, None)
        return made

    return filled


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


def layout(tag: int, cls: type[BaseMessage], fields: tuple[str, ...]) -> _Layout:
    """The layout of a class whose messages are stored as these fields in this order."""
    kind: str = cls.model_fields["type"].default
    state = _STATES.get(fields) or _longer(fields)
    every = {*fields, "type", "id"}
    if not cls.model_fields.keys() <= every:
        state = _filled(state, cls)  # A newer langchain-core than this was written for.
    return _Layout(tag, cls, kind, len(every), itemgetter(*fields), state, every)


BY_TAG = [layout(tag, cls, fields) for tag, (cls, fields) in enumerate(_LAYOUTS)]
BY_CLASS = {each.cls: each for each in BY_TAG}
CORE: frozenset[type] = frozenset(BY_CLASS)
"""LangChain's own classes of messages."""

# Assigning through the slots themselves is what `object.__setattr__` does, at half its cost;
# a pydantic model's own `__setattr__` would validate.
_SLOTS: Any = BaseModel.__dict__
set_state = _SLOTS["__dict__"].__set__
set_present = _SLOTS["__pydantic_fields_set__"].__set__
set_extra = _SLOTS["__pydantic_extra__"].__set__
set_private = _SLOTS["__pydantic_private__"].__set__
# Twice as fast as a comprehension.
state_of: attrgetter[Any] = attrgetter("__dict__")
extra_of: attrgetter[Any] = attrgetter("__pydantic_extra__")
new_message: Callable[[type[BaseMessage]], BaseMessage] = cast(Any, object.__new__)


def is_core(message: BaseMessage) -> bool:
    """Whether it is of LangChain's own classes and holds their fields only."""
    return type(message) in BY_CLASS and not message.__pydantic_extra__
