"""What is freed of a session that is over its caps: pure plans over an outline of the whole session.

Reads never show more than the caps allow, so nobody sees when this runs; it frees in batches.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TypeAlias

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.freeing.gaps import pointer_hiding
from langchain_ttl_history.freeing.log_trimming import Trimmed, trimmed
from langchain_ttl_history.freeing.message_cutting import Conversation, with_fewer_messages
from langchain_ttl_history.freeing.pruning import Lines, interrupted_roots, keep_only, leaves, within_cap
from langchain_ttl_history.log_entries import entries_of
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.storage.types import Change, Lease, Snapshot
from langchain_ttl_history.stored.names import ID, INDEX, LOG, SUBS, BodyName, key_of, pointer_name

__all__ = ["combined", "hard_limits", "plan", "soft_limits"]

_ShowsAsBefore: TypeAlias = Callable[[AbstractSet[BodyName]], bool]

# How much further than `Storage.slack` a session may grow before a write frees it at once, and to which part of
# `max_bytes` it is then reduced, so that the next writes free nothing.
_MORE_SLACK = 0.25
_BYTES_GOAL = 0.9
# In what part of `max_bytes` removals are kept for runs under way.
_REMOVALS_SHARE = 0.125


def soft_limits(retention: Retention, slack: float) -> dict[str, int]:
    """For each list the weight above which a read plans what to free; see `Storage.slack`."""
    found: dict[str, int] = {}
    if retention.max_checkpoints is not None:
        found[INDEX] = int(retention.max_checkpoints * slack) + 2
    if retention.max_messages is not None:
        # An entry of the log weighs one more than its messages.
        found[LOG] = int(2 * retention.max_messages * slack) + 16
    return found


def hard_limits(retention: Retention, slack: float) -> dict[str, int]:
    """For each list the weight above which a write frees at once."""
    return soft_limits(retention, slack + _MORE_SLACK)


def combined(change: Change, freed: Change) -> Change | None:
    """One change that makes both a write and what `plan` frees; None if they are for different generations.

    The write is one that only sets blobs and appends, as every write of a turn does.
    """
    if change.at_generation not in (None, freed.at_generation):
        return None
    used = {ref for blob in change.blobs.values() for ref in blob.refs}
    used.update(ref for _, _, refs in change.append for ref in refs)
    # A body may need the content it shares, which its own name begins with.
    used.update([ref[:ID] for ref in used], change.blobs)
    return replace(
        change,
        blobs={**freed.blobs, **change.blobs},
        place=freed.place,
        drop=[name for name in freed.drop if name not in used],
        trim=freed.trim,
        at_position=freed.at_position,
        at_generation=freed.at_generation,
    )


def plan(
    snapshot: Snapshot,
    retention: Retention,
    lease: Lease,
    codec: Codec,
    conversation: Conversation,
    shown: AbstractSet[BodyName],
    shows_as_before: _ShowsAsBefore,
) -> Change:
    """What to free of a session that is over its caps.

    Args:
        snapshot: The outline of the session.
        retention: The caps.
        lease: As for any write.
        codec: Reads the records.
        conversation: The session's.
        shown: Names of the messages that the history or a graph shows.
        shows_as_before: Whether both show the same as before if only the messages of these names are left.
    """
    lines = Lines(snapshot, codec)
    roots = lines.of(INDEX)
    subs = lines.of(SUBS)
    waiting = interrupted_roots(leaves(roots), snapshot, codec)
    bound = retention.max_bytes
    room = math.inf if bound is None else bound * _REMOVALS_SHARE
    left = _trimmed_unnoticed(conversation, shown, retention.max_messages, room, shows_as_before)
    entries = entries_of(left.changes, conversation.log)

    def keeping(cap: int | None) -> Change:
        change = keep_only(snapshot, within_cap(roots, subs, cap, waiting), lease, lines, entries)
        return _hiding(change, left, conversation, codec)

    change = keeping(retention.max_checkpoints)
    if bound is None or snapshot.bytes <= bound or _bytes_after(snapshot, change) <= bound:
        return change
    goal = int(bound * _BYTES_GOAL)
    most = len(roots) if retention.max_checkpoints is None else retention.max_checkpoints
    # More checkpoints never take fewer bytes, so the largest number that fits is found by bisection.
    fitting = bisect_right(range(1, most + 1), goal, key=lambda cap: _bytes_after(snapshot, keeping(cap)))
    change = keeping(max(1, fitting))
    if _bytes_after(snapshot, change) <= goal:
        return change
    # Checkpoints alone do not free enough: keep only the part of the log that is shown, then cut the oldest messages.
    left = trimmed(conversation.log, shown, conversation.needed, conversation.names, 0, room)
    entries = entries_of(left.changes, conversation.log)
    change = keeping(1)
    over = _bytes_after(snapshot, change) - goal
    if over <= 0:
        return change
    return with_fewer_messages(snapshot, change, over, left, conversation, codec)


def _hiding(change: Change, left: Trimmed, conversation: Conversation, codec: Codec) -> Change:
    """The change, with a pointer to the head that hides what is older than the part of the log that it frees."""
    if not left.hidden:
        return change
    name = pointer_name("")
    pointer = pointer_hiding(change.blobs[name], conversation.head, conversation.visible(left.hidden), codec)
    return replace(change, blobs={**change.blobs, name: pointer})


def _trimmed_unnoticed(
    conversation: Conversation,
    shown: AbstractSet[BodyName],
    spare: int | None,
    room: float,
    shows_as_before: _ShowsAsBefore,
) -> Trimmed:
    """What stays of the log, by `trimmed`, so that nobody is shown anything else than before.

    What is left of the conversation may fit the caps as a whole, although it begins within a turn. It would be shown
    from there on, so then more is kept, of which the window cuts what it cut before.
    """
    log, needed, names = conversation.log, conversation.needed, conversation.names
    left = trimmed(log, shown, needed, names, spare, room)
    if spare is None:
        return left
    step, most = 1, sum(len(delta.added) for delta in log.deltas)
    while spare < most:
        added = {name for delta in left.changes for name in delta.added if key_of(name) not in left.hidden}
        if shows_as_before(conversation.visible(left.hidden) | added):
            break
        spare, step = spare + step, 2 * step
        left = trimmed(log, shown, needed, names, spare, room)
    return left


def _bytes_after(snapshot: Snapshot, change: Change) -> int:
    """The payload bytes that a session will hold after what a change sets, places, drops and trims."""
    left = snapshot.bytes
    for name, blob in change.blobs.items():
        old = snapshot.blobs.get(name)
        left += len(blob.payload) - (0 if old is None else len(old.payload))
    for name in change.drop:
        if name in snapshot.blobs:
            left -= len(snapshot.blobs[name].payload)
        left -= sum(len(entry.payload) for entry in snapshot.lists.get(name, ()))
    for name, positions in change.trim.items():
        left -= sum(len(entry.payload) for entry in snapshot.lists.get(name, ()) if entry.position in positions)
    placed = {(name, entry.position): len(entry.payload) for name, entry in change.place}
    for name in {name for name, _ in placed}:
        left -= sum(len(entry.payload) for entry in snapshot.lists.get(name, ()) if (name, entry.position) in placed)
    return left + sum(placed.values())
