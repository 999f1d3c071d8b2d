"""A session's conversation as one read found it, and what a chain's turn was shown of it.

`view_of` reads head and log out of a snapshot and folds them. Mostly the history and a graph are then shown the same,
all of the conversation. They differ while a tool call is open:

```text
 head     q1 call            a tool runs, or somebody is asked
 log      a chain adds q2 a2
 names    q1 call q2 a2
 graph    q1 call            the graph goes on with its own state
 history  q1 q2 a2           a chain's model would be confused by a call without its results
 waiting  q1 call            must not be cut
```

The history also leaves out open calls of runs beside the head's. The window is not applied yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_ttl_history.amendments import with_calls_kept, with_removals_named
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.conversation import fold, keyed
from langchain_ttl_history.encoding.layouts import CORE
from langchain_ttl_history.log_entries import Log, Seen, deltas_of
from langchain_ttl_history.pointers import hidden_places, pointed_at
from langchain_ttl_history.storage.types import Blob, Snapshot
from langchain_ttl_history.stored.names import LOG, NO_KEYS, BodyName, MessageKey, key_of, pointer_name
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.window import callers, calls_of, ends_open, without_open_group

__all__ = ["Turn", "View", "view_of"]


class Turn(NamedTuple):
    """What a chain's turn was shown at its start."""

    messages: Sequence[BaseMessage]
    generation: int | None
    """The session's generation; None if there was no session."""
    cut: Collection[BaseMessage] = ()
    """What it was not shown, since the window had cut it."""
    images: bytes = b""
    """The messages' images, to tell later whether one of them was changed in place; empty if they have none."""

    def noted(self, codec: Codec) -> Turn:
        """The turn with the images of its messages, if all are of LangChain's own classes, which can be rebuilt."""
        are_core = CORE.issuperset(map(type, self.messages))
        return self._replace(images=codec.images(self.messages)[1]) if are_core else self

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
    names: Sequence[BodyName]
    """The whole conversation, before the window."""
    graph: Sequence[BodyName]
    """What a graph is shown, before the window: all of the head while that ends in an open tool call, otherwise the
    whole conversation."""
    history: Sequence[BodyName]
    """What the history shows, before the window: everything but the open tool call and its results so far."""
    seen: Seen
    """What a run has seen that starts from what the graph is shown."""
    messages: Mapping[BodyName, BaseMessage]
    """By name."""
    log: Log
    """The log, as far as it was read."""
    waiting: Sequence[BodyName] = ()
    """The message that opened the turn of the open tool call, then that call and its results so far; else empty."""

    @property
    def generation(self) -> int | None:
        """The session's generation; None if there is no such session."""
        return self.snapshot.generation or None


def view_of(snapshot: Snapshot, recall: Recall, codec: Codec) -> View:
    """The conversation in a snapshot.

    Args:
        snapshot: Has the root's pointer and the log after its mark; gets the blobs that the read left out.
        recall: What this process remembers, and the read therefore left out.
        codec: Reads the head.

    Raises:
        CorruptRecordError: A record is gone, damaged or of a newer format.
        TypeNotAllowedError: It holds a type that is not allow-listed.
    """
    snapshot.blobs = recall.completed(snapshot.blobs)
    pointer = snapshot.blobs.get(pointer_name(""))
    entries = snapshot.lists.get(LOG, ())
    deltas = deltas_of(entries)
    if pointer is None:
        names = fold((), with_removals_named(deltas, (), Seen()), Seen())
        messages = dict(zip(names, recall.decode(names, snapshot.blobs), strict=True))
        return _all_shown(snapshot, None, names, messages, Log(entries, deltas))
    record = pointed_at(pointer, snapshot.blobs, codec)
    whole = recall.decode(record.names, snapshot.blobs)
    head = _visible(record.names, whole, hidden_places(pointer, codec))
    log = Log(entries, deltas, head.names, record.seen, head.hidden)
    names, messages = _folded(log, dict(zip(record.names, whole, strict=True)), recall, snapshot.blobs)
    view = _all_shown(snapshot, record, names, messages, log)
    beside = _open_beside(log, names, messages)
    closed = _without_open_group(head, whole)
    if closed == len(head.names):
        return view._replace(history=[name for name in names if key_of(name) not in beside]) if beside else view
    return _waiting(view, record, head, closed, beside)


def _all_shown(
    snapshot: Snapshot,
    record: Record | None,
    names: Sequence[BodyName],
    messages: Mapping[BodyName, BaseMessage],
    log: Log,
) -> View:
    """A view in which nothing waits, so that a graph and the history are shown all of the conversation."""
    return View(snapshot, record, names, names, names, Seen(snapshot.position), messages, log)


class _Head(NamedTuple):
    """Those of the head's messages that are visible."""

    names: Sequence[BodyName]
    messages: Sequence[BaseMessage]
    hidden: frozenset[MessageKey]
    """The keys of the others."""


def _visible(names: Sequence[BodyName], messages: Sequence[BaseMessage], hidden: AbstractSet[int]) -> _Head:
    """The head without what is hidden.

    Args:
        names: The names of all its messages.
        messages: All of them.
        hidden: The places of those that are not visible.
    """
    if not hidden:
        return _Head(names, messages, frozenset())
    places = [place for place in range(len(names)) if place not in hidden]
    visible = tuple([names[place] for place in places])
    keys = frozenset(map(key_of, names)).difference(map(key_of, visible))
    return _Head(visible, [messages[place] for place in places], keys)


def _without_open_group(head: _Head, whole: Sequence[BaseMessage]) -> int:
    """How many of the head's visible messages come before the open tool call that it ends in; all if it ends in none.

    Args:
        head: What is visible.
        whole: All of the head's messages: a group of which a part is hidden, or removed, does not wait.
    """
    if head.hidden and not ends_open(whole):
        return len(head.messages)
    return without_open_group(head.messages)


def _waiting(view: View, record: Record, head: _Head, closed: int, beside: frozenset[MessageKey]) -> View:
    """The view of a conversation whose head waits for a tool.

    What others said waits for the graph, which is shown its own state; the history shows it, without the open call.

    Args:
        view: The same, as if nothing waited.
        record: The head.
        head: What of it is visible.
        closed: How many of that come before the open tool call.
        beside: Keys of what is open of other runs.
    """
    open_keys = beside.union(keyed(head.names)[closed:])
    opening = closed
    while opening and not isinstance(head.messages[opening], HumanMessage):
        opening -= 1
    return view._replace(
        graph=record.names,
        history=[name for name, key in zip(view.names, keyed(view.names), strict=True) if key not in open_keys],
        seen=record.seen.until(view.snapshot.position),
        waiting=(head.names[opening], *head.names[closed:]),
    )


def _folded(
    log: Log, messages: dict[BodyName, BaseMessage], recall: Recall, blobs: Mapping[str, Blob]
) -> tuple[Sequence[BodyName], dict[BodyName, BaseMessage]]:
    """The names of the conversation that has a head, and its messages by name.

    Args:
        log: The log and the head.
        messages: The head's messages by name; the others are added.
        recall: Decodes these.
        blobs: Has their bodies.
    """

    def is_result(name: BodyName) -> bool:
        return isinstance(messages.get(name) or recall.decode([name], blobs)[0], ToolMessage)

    deltas = with_calls_kept(with_removals_named(log.deltas, log.head, log.seen), is_result)
    names = fold(log.head, deltas, log.seen)
    if names is not log.head:
        new = [name for name in names if name not in messages]
        messages.update(zip(new, recall.decode(new, blobs), strict=True))
    return names, messages


def _open_beside(
    log: Log, names: Sequence[BodyName], messages: Mapping[BodyName, BaseMessage]
) -> frozenset[MessageKey]:
    """The keys of open calls, and their results so far, of runs of a graph beside that of the head.

    Such a run is in its tools, or waits for an answer. What a chain says waits for nothing but the chain.

    Args:
        log: The log and the head.
        names: Names of the conversation.
        messages: Its messages by name.
    """
    said_by: dict[str, list[BodyName]] = {}
    for delta in log.new:
        if delta.is_of_graph:
            said_by.setdefault(delta.run, []).extend(name for name in delta.added if name in messages)
    # Of each run what it ends in; nothing of a run that ends in no open call.
    groups = [said[without_open_group([messages[name] for name in said]) :] for said in said_by.values()]
    if not any(groups):
        return NO_KEYS
    # The results may be of another run: one that goes on with this turn.
    answered = Counter(names[caller] for caller in callers([messages[name] for name in names]).values())
    still_open = [group for group in groups if group and answered[group[0]] < len(calls_of(messages[group[0]]))]
    return frozenset(key_of(name) for group in still_open for name in group)
