"""Which messages are freed of a session that is over `max_bytes` without its old checkpoints, too: the oldest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    messages, kept = conversation.messages, trimmed.changes
    held = {name for name in (*messages, *(name for delta in kept for name in delta.added)) if name in snapshot.blobs}
    order = [name for name in _with_removed(conversation.names, messages) if name in held]
    weights = _weights(held, order, snapshot.blobs)
    sizes = [weights[key_of(name)] for name in order]
    removed = sum(weights.values()) - sum(weights[key] for key in set(map(key_of, order)))
    caps = Caps(bytes=max(1, sum(sizes) - max(0, over - removed)))
    stays = {key_of(order[each]) for each in visible([messages[name] for name in order], caps, sizes)}
    stays.update(map(key_of, conversation.needed))
    lost = {name for name in held if key_of(name) not in stays}
    # What removes something that stays is needed without what it added, which may be nothing to begin with.
    empty = {
        delta.position
        for delta in kept
        if delta.added and lost.issuperset(delta.added) and stays.isdisjoint(delta.removed)
    }
    left = [
        delta._replace(added=tuple(name for name in delta.added if name not in lost))
        for delta in kept
        if delta.position not in empty
    ]
    entries = entries_of(left, conversation.log)
    blobs = dict(change.blobs)
    # What frees its checkpoints writes the pointer to a head that stays as well.
    pointer = blobs.get(pointer_name(""))
    if pointer is not None:
        name = target_of(pointer)
        blobs[name] = without_messages(snapshot.blobs[name], lost, codec)
        left_of_head = [each for each in conversation.head if each not in lost]
        blobs[pointer_name("")] = pointer_hiding(pointer, left_of_head, conversation.visible(trimmed.hidden), codec)
    after = {**snapshot.blobs, **blobs}
    used = needed_by(replace(snapshot, blobs=after), change.drop, entries)
    drop = {*change.drop, *(each for each in after if each[0] in (BODY, VALUE) and each not in used)}
    return replace(
        change,
        blobs=blobs,
        drop=sorted(drop),
        place=[*(each for each in change.place if each[0] != LOG), *((LOG, entry) for entry in entries)],
        trim={**change.trim, LOG: change.trim.get(LOG, frozenset()) | empty},
    )


def _weights(held: Iterable[BodyName], order: Iterable[BodyName], blobs: Mapping[str, Blob]) -> dict[MessageKey, int]:
    """How many bytes go with each message, by key, if those before it are gone.

    An edited message stands where it stood before, so that it stays or goes with all that it was. Content that several
    share goes with the newest of them.
    """
    places = {key_of(name): at for at, name in enumerate(order)}
    weights: dict[MessageKey, int] = {}
    counted: set[str] = set()
    for name in sorted(held, key=lambda name: places.get(key_of(name), -1), reverse=True):
        content = (blobs[name].refs or (name,))[0]
        size = 0 if content in counted else len(blobs[content].payload)
        counted.add(content)
        weights[key_of(name)] = weights.get(key_of(name), 0) + size
    return weights


def _with_removed(names: Sequence[BodyName], messages: Iterable[BodyName]) -> list[BodyName]:
    """A conversation with what was removed of its head, where it stood: a run under way may have it still."""
    keys = set(map(key_of, names))
    before: dict[MessageKey, list[BodyName]] = {}
    removed: list[BodyName] = []
    for name in messages:
        key = key_of(name)
        if key not in keys:
            removed.append(name)
        elif key not in before:
            before[key], removed = removed, []
    order: list[BodyName] = []
    for name in names:
        order += before.pop(key_of(name), ())
        order.append(name)
    return order + removed
