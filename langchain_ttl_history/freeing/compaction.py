"""What is freed of a session that is over its caps: pure plans over an outline of the whole session.

`plan` says what to drop. It takes the first of these steps that brings the session under `max_bytes`:

1. Drop the checkpoints over `max_checkpoints`, and of the log whatever nobody is shown and no run under way may need.
2. Keep as few checkpoints as it takes.
3. Keep the latest checkpoint, those that wait for an answer, and only the part of the log that is shown.
4. Cut the oldest messages.

What is dropped takes along everything that nothing else refers to. Reads never show more than the caps allow, so nobody
sees when this runs; it frees in batches. `soft_limits` and `hard_limits` say when, and `combined` lets a write do it
along the way.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace
from typing import NamedTuple

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.freeing.gaps import pointer_hiding
from langchain_ttl_history.freeing.inputs import Conversation, Shown
from langchain_ttl_history.freeing.log_trimming import Trimmed, trimmed
from langchain_ttl_history.freeing.message_cutting import with_fewer_messages
from langchain_ttl_history.freeing.pruning import Lines, interrupted_roots, keep_only, leaves, within_cap
from langchain_ttl_history.index import Line
from langchain_ttl_history.log_entries import entries_of
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.storage.types import Change, Lease, Snapshot
from langchain_ttl_history.stored.names import ID, INDEX, LOG, SUBS, BodyName, key_of, pointer_name

__all__ = ["combined", "hard_limits", "plan", "soft_limits"]

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
    snapshot: Snapshot, conversation: Conversation, shown: Shown, retention: Retention, lease: Lease, codec: Codec
) -> Change:
    """What to free of a session that is over its caps.

    Args:
        snapshot: The outline of the session.
        conversation: The session's.
        shown: What stays as it is, unless the session is over `max_bytes` without all else.
        retention: The caps.
        lease: As for any write.
        codec: Reads and writes the records.
    """
    session = _Session.of(snapshot, conversation, lease, codec)
    bound = math.inf if retention.max_bytes is None else retention.max_bytes
    room = bound * _REMOVALS_SHARE
    left = _trimmed_unnoticed(conversation, shown, retention.max_messages, room)
    change = session.keeping(retention.max_checkpoints, left)
    if snapshot.bytes <= bound or _bytes_after(snapshot, change) <= bound:
        return change
    # Step 2. More checkpoints never take fewer bytes, so the largest number that fits is found by bisection.
    goal = int(bound * _BYTES_GOAL)
    most = len(session.roots) if retention.max_checkpoints is None else retention.max_checkpoints
    fitting = bisect_right(range(1, most + 1), goal, key=lambda cap: _bytes_after(snapshot, session.keeping(cap, left)))
    if fitting:  # Then the bisection has tried just this number, and it fits.
        return session.keeping(fitting, left)
    # Steps 3 and 4.
    left = trimmed(conversation, shown.names, 0, room)
    change = session.keeping(1, left)
    over = _bytes_after(snapshot, change) - goal
    if over <= 0:
        return change
    return with_fewer_messages(snapshot, change, over, left, conversation, codec)


class _Session(NamedTuple):
    """A session whose checkpoints and log are freed, as `keeping` needs it."""

    snapshot: Snapshot
    conversation: Conversation
    lease: Lease
    codec: Codec
    lines: Lines
    roots: list[Line]
    subs: list[Line]
    waiting: set[str]
    """Ids of root checkpoints with an unanswered interrupt."""

    @classmethod
    def of(cls, snapshot: Snapshot, conversation: Conversation, lease: Lease, codec: Codec) -> _Session:
        """The session of this outline and conversation."""
        lines = Lines(snapshot, codec)
        roots = lines.of(INDEX)
        waiting = interrupted_roots(leaves(roots), snapshot, codec)
        return cls(snapshot, conversation, lease, codec, lines, roots, lines.of(SUBS), waiting)

    def keeping(self, cap: int | None, left: Trimmed) -> Change:
        """What keeps only so many root checkpoints, what belongs to them, and this of the log."""
        kept = within_cap(self.roots, self.subs, cap, self.waiting)
        entries = entries_of(left.changes, self.conversation.log)
        change = keep_only(self.snapshot, kept, self.lease, self.lines, entries)
        if not left.hidden:
            return change
        name, visible = pointer_name(""), self.conversation.visible(left.hidden)
        pointer = pointer_hiding(change.blobs[name], self.conversation.head, visible, self.codec)
        return replace(change, blobs={**change.blobs, name: pointer})


def _trimmed_unnoticed(conversation: Conversation, shown: Shown, spare: int | None, room: float) -> Trimmed:
    """What stays of the log, by `trimmed`, so that nobody is shown anything else than before.

    What is left of the conversation may fit the caps as a whole, although it begins within a turn. It would be shown
    from there on, so then more is kept, of which the window cuts what it cut before.
    """
    left = trimmed(conversation, shown.names, spare, room)
    if spare is None:
        return left
    step, most = 1, sum(len(delta.added) for delta in conversation.log.deltas)
    while spare < most and not shown.is_same_with(_visible(conversation, left)):
        spare, step = spare + step, 2 * step
        left = trimmed(conversation, shown.names, spare, room)
    return left


def _visible(conversation: Conversation, left: Trimmed) -> set[BodyName]:
    """Names of the messages that are not hidden if this is left of the log."""
    added = {name for delta in left.changes for name in delta.added if key_of(name) not in left.hidden}
    return conversation.visible(left.hidden) | added


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
