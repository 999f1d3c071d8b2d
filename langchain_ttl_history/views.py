"""A session's conversation as one read found it, and what a chain's turn was shown of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from langchain_core.messages import BaseMessage

from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.log_entries import Log, Seen
from langchain_ttl_history.storage.base import Snapshot

__all__ = ["Turn", "View"]


class Turn(NamedTuple):
    """What a chain's turn was shown at its start."""

    messages: Sequence[BaseMessage]
    generation: int | None
    """The session's generation; None if there was no session."""
    cut: Collection[BaseMessage] = ()
    """What it was not shown, since the window had cut it."""
    images: bytes = b""
    """The messages' images, to tell later whether one of them was changed in place; empty if they have none."""

    def as_shown(self, codec: Codec) -> Sequence[BaseMessage]:
        """The messages as they were when it was shown them."""
        if not self.images or codec.images(self.messages)[1] == self.images:
            return self.messages
        return codec.messages_of(self.images, [*map(type, self.messages)])


class View(NamedTuple):
    """A session's conversation as one read found it."""

    snapshot: Snapshot
    record: Record | None
    """The head."""
    names: Sequence[str]
    """The whole conversation, before the window."""
    graph: Sequence[str]
    """What a graph is shown, before the window: the head alone while that ends in an open tool call, and all of it."""
    history: Sequence[str]
    """What the history shows, before the window: everything but the open tool call and its results so far."""
    seen: Seen
    """What a run has seen that starts from what the graph is shown."""
    messages: Mapping[str, BaseMessage]
    """By name."""
    log: Log
    """The log, as far as it was read."""
    waiting: Sequence[str] = ()
    """The message that opened the turn of the open tool call, then that call and its results so far; else empty."""

    @property
    def generation(self) -> int | None:
        """The session's generation; None if there is no such session."""
        return self.snapshot.generation or None
