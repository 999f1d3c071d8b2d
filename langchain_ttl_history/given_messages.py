"""What programs give as messages: the forms that LangChain takes for them, and the one that removes all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages

__all__ = ["REMOVE_ALL_MESSAGES", "as_messages"]

REMOVE_ALL_MESSAGES = "__remove_all__"
"""The id LangGraph gives a `RemoveMessage` that removes everything."""


def as_messages(given: Sequence[Any]) -> list[BaseMessage] | None:
    """What LangChain takes for messages, `("human", text)` or a dict with a role for example; None if one is none."""
    try:
        return convert_to_messages(given)
    except (LookupError, TypeError, ValueError, NotImplementedError):
        # LangChain has no error of its own for what is no message: it raises one of these, by where it notices.
        return None
