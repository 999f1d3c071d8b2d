"""Messages as short texts, and what every chat and every turn must be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ToolMessage,
)


def text_of(message: BaseMessage) -> str:
    """A message in one short string: its text, or its calls."""
    if isinstance(message, AIMessage) and message.tool_calls:
        return "call " + ", ".join(str(call["args"].get("thing")) for call in message.tool_calls)
    return str(message.content)


def texts(messages: Iterable[BaseMessage]) -> list[str]:
    return [text_of(message) for message in messages]


def dumps(messages: Iterable[BaseMessage]) -> list[tuple[type[BaseMessage], dict[str, Any]]]:
    """Messages in full, for comparison: class and every field."""
    return [(type(message), message.model_dump()) for message in messages]


def assert_valid_chat(messages: Sequence[BaseMessage]) -> None:
    """A provider would take this: every result right after its call, every call answered."""
    waiting: list[str | None] = []
    for position, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in waiting, f"the result at {position} answers no open call: {texts(messages)}"
            waiting.remove(message.tool_call_id)
            continue
        assert not waiting, f"unanswered calls {waiting} before {position}: {texts(messages)}"
        if isinstance(message, AIMessage):
            waiting = [call["id"] for call in message.tool_calls]
    assert not waiting, f"unanswered calls {waiting} at the end: {texts(messages)}"


def assert_contiguous(conversation: Sequence[str], turn: Sequence[str]) -> None:
    """The turn's messages stand side by side, in order, once."""
    size = len(turn)
    places = [
        start for start in range(len(conversation) - size + 1) if list(conversation[start : start + size]) == list(turn)
    ]
    assert len(places) == 1, f"{list(turn)} not exactly once, side by side, in {list(conversation)}"
    for text in turn:
        assert list(conversation).count(text) == list(turn).count(text), (
            f"{text!r} said more than once in {list(conversation)}"
        )
