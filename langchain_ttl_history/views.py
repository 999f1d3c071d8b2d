"""A session's conversation as one read found it, and what a chain's turn was shown of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from langchain_core.messages import BaseMessage

from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.log_entries import Log, Seen, unseen
from langchain_ttl_history.storage.base import Snapshot
from langchain_ttl_history.stored.names import key_of
from langchain_ttl_history.window import callers, calls_of, without_open_group

__all__ = ["Turn", "View", "open_beside"]


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


def open_beside(log: Log, names: Sequence[str], messages: Mapping[str, BaseMessage]) -> set[str]:
    """The keys of open calls, and their results so far, of runs of a graph beside that of the head.

    Such a run is in its tools, or waits for an answer. What a chain says waits for nothing but the chain.

    Args:
        log: The log and the head.
        names: Names of the conversation.
        messages: Its messages by name.
    """
    said: dict[str, list[str]] = {}
    for delta in unseen(log.deltas, log.seen):
        if delta.is_of_graph:
            said.setdefault(delta.run, []).extend(name for name in delta.added if name in messages)
    groups = [own[without_open_group([messages[name] for name in own]) :] for own in said.values()]
    if not any(groups):
        return set()
    # The results may be of another run: one that goes on with this turn.
    answered = Counter(names[caller] for caller in callers([messages[name] for name in names]).values())
    still_open = [group for group in groups if group and answered[group[0]] < len(calls_of(messages[group[0]]))]
    return {key_of(name) for group in still_open for name in group}
