"""What is freed of a session that is over its caps: pure plans over an outline of the whole session.

Reads never show more than the caps allow, so nobody sees when this runs; it frees in batches.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from langchain_core.messages import BaseMessage

from langchain_ttl_history.checkpoints import target_of, without_messages
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.conversation import deltas_of
from langchain_ttl_history.log_trimming import kept_entries
from langchain_ttl_history.pruning import Lines, keep_only, leaves, needed_by, shown_lines, waiting_roots
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.storage.base import Change, Entry, Lease, Snapshot
from langchain_ttl_history.stored.names import BODY, ID, INDEX, LOG, SUBS, VALUE, head_name, key_of
from langchain_ttl_history.window import Caps, visible

__all__ = ["hard_limits", "limits", "plan", "together"]

# How much further than `Storage.slack` a session may grow before a write frees it at once, and to which part of
# `max_bytes` it is then reduced, so that the next writes free nothing.
_MORE_SLACK = 0.25
_BYTES_GOAL = 0.9
# In what part of `max_bytes` removals are kept for runs under way.
_REMOVALS_SHARE = 0.125


def limits(retention: Retention, slack: float) -> dict[str, int]:
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
    return limits(retention, slack + _MORE_SLACK)


def together(change: Change, freed: Change) -> Change | None:
    """One change that makes both a write and what :func:`plan` frees; None if they are for different generations."""
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
    shown: AbstractSet[str],
    names: Sequence[str],
    messages: Mapping[str, BaseMessage],
    needed: AbstractSet[str],
) -> Change:
    """What to free of a session that is over its caps.

    Args:
        snapshot: The outline of the session.
        retention: The caps.
        lease: As for any write.
        codec: Reads the records.
        shown: Names of the messages that the history or a graph shows.
        names: Names of its conversation.
        messages: The messages of its conversation, and perhaps of its head, by name.
        needed: Names of the messages that stay even over `max_bytes`.
    """
    lines = Lines(snapshot)
    roots = lines.of(INDEX)
    subs = lines.of(SUBS)
    waiting = waiting_roots(leaves(roots), snapshot, codec)
    bound = retention.max_bytes
    room = math.inf if bound is None else bound * _REMOVALS_SHARE
    log = kept_entries(snapshot, shown, names, retention.max_messages, room, codec)

    def keeping(cap: int | None) -> Change:
        return keep_only(snapshot, shown_lines(roots, subs, cap, waiting), lease, log, lines)

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
    log = kept_entries(snapshot, shown, names, 0, room, codec)
    change = keep_only(snapshot, shown_lines(roots, subs, 1, waiting), lease, log, lines)
    over = _bytes_after(snapshot, change) - goal
    if over <= 0:
        return change
    return _with_fewer_messages(snapshot, change, over, log, names, messages, needed, codec)


def _bytes_after(snapshot: Snapshot, change: Change) -> int:
    """The payload bytes that a session will hold after what a change drops and trims."""
    left = snapshot.bytes
    for name in change.drop:
        if name in snapshot.blobs:
            left -= len(snapshot.blobs[name].payload)
        left -= sum(len(entry.payload) for entry in snapshot.lists.get(name, ()))
    for name, positions in change.trim.items():
        left -= sum(len(entry.payload) for entry in snapshot.lists.get(name, ()) if entry.position in positions)
    return left


def _with_fewer_messages(
    snapshot: Snapshot,
    change: Change,
    over: int,
    kept: Sequence[Entry],
    names: Sequence[str],
    messages: Mapping[str, BaseMessage],
    needed: AbstractSet[str],
    codec: Codec,
) -> Change:
    """The change, extended to cut the oldest messages from the head and the log, as many as free `over` bytes."""

    def size(name: str) -> int:
        blob = snapshot.blobs[name]
        content = snapshot.blobs[blob.refs[0]] if blob.refs else blob
        return len(content.payload)

    # An edited message stands where it stood before, so that it stays or goes with all that it was.
    held = {name for name in (*messages, *(ref for entry in kept for ref in entry.refs)) if name in snapshot.blobs}
    weights: dict[str, int] = {}
    for name in held:
        weights[key_of(name)] = weights.get(key_of(name), 0) + size(name)
    order = [name for name in _with_removed(names, messages) if name in held]
    sizes = [weights[key_of(name)] for name in order]
    removed = sum(weights.values()) - sum(weights[key] for key in set(map(key_of, order)))
    caps = Caps(bytes=max(1, sum(sizes) - max(0, over - removed)))
    stays = {key_of(order[each]) for each in visible([messages[name] for name in order], caps, sizes)}
    stays.update(map(key_of, needed))
    lost = {name for name in held if key_of(name) not in stays}
    # What removes something that stays is needed without what it added, which may be nothing to begin with.
    empty = {
        entry.position
        for entry, delta in zip(kept, deltas_of(kept), strict=True)
        if entry.refs and lost.issuperset(entry.refs) and stays.isdisjoint(delta.removed)
    }
    log = [
        entry._replace(refs=tuple(name for name in entry.refs if name not in lost))
        for entry in kept
        if entry.position not in empty
    ]
    blobs = dict(change.blobs)
    pointer = blobs.get(head_name("")) or snapshot.blobs.get(head_name(""))
    if pointer is not None:
        name = target_of(pointer)
        blobs[name] = without_messages(snapshot.blobs[name], lost, codec)
    after = {**snapshot.blobs, **blobs}
    used = needed_by(replace(snapshot, blobs=after), change.drop, log)
    drop = {*change.drop, *(each for each in after if each[0] in (BODY, VALUE) and each not in used)}
    return replace(
        change,
        blobs=blobs,
        drop=sorted(drop),
        place=[*(each for each in change.place if each[0] != LOG), *((LOG, entry) for entry in log)],
        trim={**change.trim, LOG: change.trim.get(LOG, frozenset()) | empty},
    )


def _with_removed(names: Sequence[str], messages: Iterable[str]) -> list[str]:
    """A conversation with what was removed of its head, where it stood: a run under way may have it still."""
    keys = set(map(key_of, names))
    before: dict[str, list[str]] = {}
    removed: list[str] = []
    for name in messages:
        key = key_of(name)
        if key not in keys:
            removed.append(name)
        elif key not in before:
            before[key], removed = removed, []
    order: list[str] = []
    for name in names:
        order += before.pop(key_of(name), ())
        order.append(name)
    return order + removed
