"""Cuts the oldest messages of a session that is over `max_bytes` though its old checkpoints and its old log are freed.

A message goes as a whole: from the head's record, from the changes of the log that add it, and its body. What is left
is the newest part, cut as a window is: no tool call is separated from its results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from langchain_ttl_history.checkpoints import without_messages
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.freeing.gaps import pointer_hiding
from langchain_ttl_history.freeing.inputs import Conversation
from langchain_ttl_history.freeing.log_trimming import Trimmed
from langchain_ttl_history.freeing.pruning import needed_by
from langchain_ttl_history.log_entries import entries_of
from langchain_ttl_history.pointers import target_of
from langchain_ttl_history.storage.types import Blob, Change, Snapshot
from langchain_ttl_history.stored.names import BODY, LOG, VALUE, BodyName, MessageKey, key_of, pointer_name
from langchain_ttl_history.window import Caps, visible

__all__ = ["with_fewer_messages"]


def with_fewer_messages(
    snapshot: Snapshot, change: Change, over: int, trimmed: Trimmed, conversation: Conversation, codec: Codec
) -> Change:
    """The change, extended to cut the oldest messages from the head and the log.

    Args:
        snapshot: The outline of the session.
        change: What frees its checkpoints and its log.
        over: How many more bytes are to be freed.
        trimmed: What it keeps of the log.
        conversation: The session's.
        codec: Reads and writes the head's record.
    """
    stored = {
        name
        for name in (*conversation.messages, *(name for delta in trimmed.changes for name in delta.added))
        if name in snapshot.blobs
    }
    stays = _staying(stored, over, conversation, snapshot.blobs)
    lost = {name for name in stored if key_of(name) not in stays}
    # A change that removes something that stays is needed without what it added, which may be nothing to begin with.
    emptied = {
        delta.position
        for delta in trimmed.changes
        if delta.added and lost.issuperset(delta.added) and stays.isdisjoint(delta.removed)
    }
    left = [
        delta._replace(added=tuple(name for name in delta.added if name not in lost))
        for delta in trimmed.changes
        if delta.position not in emptied
    ]
    entries = entries_of(left, conversation.log)
    blobs = {**change.blobs, **_head_without(lost, snapshot, change, trimmed, conversation, codec)}
    after = {**snapshot.blobs, **blobs}
    used = needed_by(replace(snapshot, blobs=after), change.drop, entries)
    unused = {name for name in after if name[0] in (BODY, VALUE) and name not in used}
    return replace(
        change,
        blobs=blobs,
        drop=sorted(unused.union(change.drop)),
        place=[*(each for each in change.place if each[0] != LOG), *((LOG, entry) for entry in entries)],
        trim={**change.trim, LOG: change.trim.get(LOG, frozenset()) | emptied},
    )


def _staying(
    stored: AbstractSet[BodyName], over: int, conversation: Conversation, blobs: Mapping[str, Blob]
) -> set[MessageKey]:
    """The keys of the messages that stay: the newest that fit, as a window of what is to be left, and those needed.

    Args:
        stored: Names of all bodies that may go.
        over: How many bytes are to be freed.
        conversation: The session's.
        blobs: Has the bodies.
    """
    order = [name for name in _with_removed(conversation.names, conversation.messages) if name in stored]
    weights = _weights(stored, order, blobs)
    sizes = [weights[key_of(name)] for name in order]
    # What has no place in the conversation goes in any case.
    others = sum(weights.values()) - sum(weights[key] for key in {*map(key_of, order)})
    caps = Caps(bytes=max(1, sum(sizes) - max(0, over - others)))
    fitting = visible([conversation.messages[name] for name in order], caps, sizes)
    return {key_of(order[place]) for place in fitting}.union(map(key_of, conversation.needed))


def _head_without(
    lost: AbstractSet[BodyName],
    snapshot: Snapshot,
    change: Change,
    trimmed: Trimmed,
    conversation: Conversation,
    codec: Codec,
) -> dict[str, Blob]:
    """The head without the messages that are cut, and the pointer to it, by name; empty if there is no head.

    Args:
        lost: Names of these messages.
        snapshot: The outline of the session.
        change: What frees its checkpoints, which writes the pointer to a head that stays as well.
        trimmed: What is kept of the log.
        conversation: The session's.
        codec: Reads and writes the head's record.
    """
    pointer = change.blobs.get(pointer_name(""))
    if pointer is None:
        return {}
    name = target_of(pointer)
    left = [each for each in conversation.head if each not in lost]
    return {
        name: without_messages(snapshot.blobs[name], lost, codec),
        pointer_name(""): pointer_hiding(pointer, left, conversation.visible(trimmed.hidden), codec),
    }


def _weights(stored: Iterable[BodyName], order: Iterable[BodyName], blobs: Mapping[str, Blob]) -> dict[MessageKey, int]:
    """How many bytes go with each message, by key, if those before it are gone.

    An edited message stands where it stood before, so that it stays or goes with all that it was. Content that several
    share goes with the newest of them.

    Args:
        stored: Names of all bodies.
        order: Names of those that have a place in the conversation, in its order; all others count as before these.
        blobs: Has the bodies.
    """
    places = {key_of(name): at for at, name in enumerate(order)}
    weights: dict[MessageKey, int] = {}
    counted: set[str] = set()
    for name in sorted(stored, key=lambda name: places.get(key_of(name), -1), reverse=True):
        content = (blobs[name].refs or (name,))[0]
        size = 0 if content in counted else len(blobs[content].payload)
        counted.add(content)
        weights[key_of(name)] = weights.get(key_of(name), 0) + size
    return weights


def _with_removed(names: Sequence[BodyName], messages: Iterable[BodyName]) -> list[BodyName]:
    """A conversation with what was removed of its head, where it stood: a run under way may have it still.

    For `a c` of a head that was `a b c d` that is `a b c d`.

    Args:
        names: Names of the conversation.
        messages: Names of the head's messages and of the conversation's, in this order.
    """
    keys = set(map(key_of, names))
    # What was removed goes in front of the next message that is still there, or to the end.
    in_front_of: dict[MessageKey, list[BodyName]] = {}
    removed: list[BodyName] = []
    for name in messages:
        key = key_of(name)
        if key not in keys:
            removed.append(name)
        elif key not in in_front_of:
            in_front_of[key], removed = removed, []
    order: list[BodyName] = []
    for name in names:
        order += [*in_front_of.pop(key_of(name), ()), name]
    return order + removed
