"""What programs give as messages: the forms that LangChain accepts, and the message that removes all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages

__all__ = ["REMOVE_ALL_MESSAGES", "as_messages"]

REMOVE_ALL_MESSAGES = "__remove_all__"
"""The id LangGraph gives a `RemoveMessage` that removes everything."""


def as_messages(given: Sequence[Any]) -> list[BaseMessage] | None:
    """What LangChain accepts as messages, such as `("human", text)` or a dict with a role; None if one is not."""
    try:
        return convert_to_messages(given)
    except (LookupError, TypeError, ValueError, NotImplementedError):  # What LangChain raises for what is no message.
        return None
