"""What freeing is told of a session's conversation, beside the outline of what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langchain_core.messages import BaseMessage

from langchain_ttl_history.log_entries import Log
from langchain_ttl_history.stored.names import BodyName, MessageKey, key_of

__all__ = ["Conversation", "Shown"]


class Conversation(NamedTuple):
    """A conversation as a read found it, before the window."""

    names: Sequence[BodyName]
    """Names of its messages, in order."""
    messages: Mapping[BodyName, BaseMessage]
    """Its messages, and perhaps those of the head, by name."""
    needed: AbstractSet[BodyName]
    """Names of the messages that stay even over `max_bytes`: a pending interrupt needs them."""
    log: Log
    head: Sequence[BodyName]
    """Names of all messages that the head holds; those that are hidden are not among the log's."""

    def visible(self, hidden: AbstractSet[MessageKey]) -> set[BodyName]:
        """Names of the head's messages that are visible if those of these keys are hidden as well."""
        return {name for name in self.log.head if key_of(name) not in hidden}


class Shown(NamedTuple):
    """What the history and a graph show of a conversation, which freeing must not change."""

    names: AbstractSet[BodyName]
    """Names of the messages that either shows."""
    is_same_with: Callable[[AbstractSet[BodyName]], bool]
    """Whether both show the same as now if only the messages of these names are left."""
