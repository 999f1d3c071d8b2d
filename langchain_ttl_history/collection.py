"""What is kept when a session is over its caps: pure plans over a whole session's outline.

Reads never show more than the caps; these plans only decide what is freed, in batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from langchain_core.messages import BaseMessage

from langchain_ttl_history.checkpoints import (
    INDEX,
    SUBS,
    Line,
    checkpoint_name,
    decode_record,
    head_name,
    lines_of,
    waits_for_answer,
    without_messages,
    writes_name,
)
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.conversation import LOG, delta_of, unseen
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.storage.base import Blob, Change, Entry, Lease, Outcome, Snapshot
from langchain_ttl_history.window import Caps, visible

__all__ = ["excess", "keep_only", "latest_lines", "plan", "shown_lines"]

# How far over a cap a session may grow before it is freed, and how far under the bound on bytes
# it then goes, so that most writes free nothing.
_SLACK = 1.25
_BYTES_GOAL = 0.9


def excess(outcome: Outcome, retention: Retention) -> bool:
    """Whether a write left the session so far over a cap that it is worth freeing."""
    if retention.max_bytes is not None and outcome.bytes > retention.max_bytes:
        return True
    checkpoints, messages = retention.max_checkpoints, retention.max_messages
    if checkpoints is not None and outcome.weights.get(INDEX, 0) > checkpoints * _SLACK + 2:
        return True
    # An entry of the log weighs one more than its messages.
    return messages is not None and outcome.weights.get(LOG, 0) > 2 * messages * _SLACK + 16


def shown_lines(
    lines: Iterable[Line],
    subs: Iterable[Line],
    cap: int | None,
    waiting: Collection[str],
) -> list[Line]:
    """The checkpoints a session shows, oldest first.

    Args:
        lines: The root's, oldest first.
        subs: The subgraphs', oldest first.
        cap: How many root checkpoints are shown; None for all.
        waiting: Ids of root checkpoints with an unanswered interrupt; one that nothing was built
            on is shown beyond the cap.
    """
    roots = list(lines)
    built_on = {line.parent for line in roots}
    newest = roots if cap is None else roots[-cap:]
    kept = {line.id for line in newest}
    kept |= {line.id for line in roots if line.id in waiting and line.id not in built_on}
    shown = [line for line in roots if line.id in kept]
    known = {line.id for line in roots}
    start = newest[0].position if newest and len(newest) < len(roots) else 0
    latest: dict[str, Line] = {}
    for line in subs:
        # A namespace without a task's id belongs to a subgraph that remembers across turns: its
        # newest checkpoint is needed however long ago it ran.
        if ":" not in line.ns:
            latest[line.ns] = line
        if line.root in kept or (line.root not in known and line.position >= start):
            shown.append(line)
    shown += [line for line in latest.values() if line not in shown]
    return sorted(shown, key=lambda line: line.position)


def latest_lines(lines: Iterable[Line]) -> list[Line]:
    """The newest checkpoint of each namespace."""
    return list({line.ns: line for line in lines}.values())


def plan(
    snapshot: Snapshot,
    shown: Collection[str],
    bodies: Mapping[str, BaseMessage],
    retention: Retention,
    lease: Lease,
    codec: Codec,
) -> Change:
    """What to free of a session that is over its caps.

    Args:
        snapshot: The outline of the session.
        shown: Names of the messages that either door shows.
        bodies: The messages of its conversation.
        retention: The caps.
        lease: As for any write.
        codec: Reads the records.
    """
    roots = lines_of(snapshot.lists.get(INDEX, ()))
    subs = lines_of(snapshot.lists.get(SUBS, ()))
    waiting = waiting_roots(roots, snapshot, codec)
    log = _kept_log(snapshot, shown, retention, codec)

    def keeping(cap: int | None) -> Change:
        keep = shown_lines(roots, subs, cap, waiting)
        return keep_only(snapshot, keep, lease, log)

    change = keeping(retention.max_checkpoints)
    bound = retention.max_bytes
    if bound is None or snapshot.bytes - _freed(snapshot, change) <= bound:
        return change
    goal = int(bound * _BYTES_GOAL)
    low, high = 1, len(roots) if retention.max_checkpoints is None else retention.max_checkpoints
    while low < high:
        middle = (low + high + 1) // 2
        if snapshot.bytes - _freed(snapshot, keeping(middle)) <= goal:
            low = middle
        else:
            high = middle - 1
    change = keeping(low)
    over = snapshot.bytes - _freed(snapshot, change) - goal
    return change if over <= 0 else _with_fewer_messages(snapshot, change, over, bodies, codec)


def waiting_roots(roots: Iterable[Line], snapshot: Snapshot, codec: Codec) -> set[str]:
    """Ids of the root checkpoints with an unanswered interrupt."""
    return {
        line.id
        for line in roots
        if waits_for_answer(snapshot.lists.get(writes_name("", line.id), ()), codec)
    }


def keep_only(
    snapshot: Snapshot, keep: Iterable[Line], lease: Lease, log: Iterable[Entry] | None = None
) -> Change:
    """Drop every checkpoint but these, and everything that only the others needed.

    A kept checkpoint whose channels are spread over its ancestors' writes keeps those ancestors,
    down to the nearest that holds each channel's value.
    """
    every = [
        *lines_of(snapshot.lists.get(INDEX, ())),
        *lines_of(snapshot.lists.get(SUBS, ())),
    ]
    by_id = {(line.ns, line.id): line for line in every}
    kept = {(line.ns, line.id) for line in keep}
    for line in [by_id[each] for each in kept if each in by_id]:
        wanted = set(line.deltas or ()) - set(line.valued or ())
        while wanted and line.parent is not None and (line.ns, line.parent) in by_id:
            line = by_id[line.ns, line.parent]
            kept.add((line.ns, line.id))
            wanted -= wanted if line.valued is None else set(line.valued)
    gone = [line for line in every if (line.ns, line.id) not in kept]
    drop = {checkpoint_name(line.ns, line.id) for line in gone}
    drop |= {writes_name(line.ns, line.id) for line in gone}
    blobs: dict[str, Blob] = {}
    heads = {line.ns: line for line in every if (line.ns, line.id) in kept}
    for ns in {line.ns for line in gone}:
        pointer = snapshot.blobs.get(head_name(ns))
        if ns not in heads:
            drop.add(head_name(ns))
        elif pointer is not None and pointer.refs[0] in drop:
            name = checkpoint_name(ns, heads[ns].id)
            mark = snapshot.blobs[name].mark
            also = (writes_name(ns, heads[ns].id),)
            blobs[head_name(ns)] = Blob(b"", (name,), mark, also)
    positions = {
        index: frozenset(
            entry.position
            for entry, line in _with_lines(snapshot, index)
            if (line.ns, line.id) not in kept
        )
        for index in (INDEX, SUBS)
    }
    entries = list(snapshot.lists.get(LOG, ()) if log is None else log)
    stays = {entry.position for entry in entries}
    positions[LOG] = frozenset(
        entry.position
        for entry in snapshot.lists.get(LOG, ())
        if entry.position not in stays
    )
    needed = _needed(snapshot, drop, entries)
    drop |= {name for name in snapshot.blobs if name[0] in "mv" and name not in needed}
    return Change(
        lease,
        blobs=blobs,
        drop=sorted(drop),
        trim={name: gone_at for name, gone_at in positions.items() if gone_at},
        upkeep=True,
        at_position=snapshot.position,
    )


def _with_lines(snapshot: Snapshot, index: str) -> Iterable[tuple[Entry, Line]]:
    entries = snapshot.lists.get(index, ())
    return ((entry, lines_of([entry])[0]) for entry in entries)


def _needed(snapshot: Snapshot, drop: Collection[str], log: Iterable[Entry]) -> set[str]:
    """Names of the bodies and values that what is kept refers to."""
    needed: set[str] = set()
    for name, blob in snapshot.blobs.items():
        if name[0] == "c" and name not in drop:
            needed.update(blob.refs)
    for name, entries in snapshot.lists.items():
        if name[0] == "w" and name not in drop:
            for entry in entries:
                needed.update(entry.refs)
    for entry in log:
        needed.update(entry.refs)
    for name in [name for name in needed if name in snapshot.blobs]:
        needed.update(snapshot.blobs[name].refs)
    return needed


def _kept_log(
    snapshot: Snapshot, shown: Collection[str], retention: Retention, codec: Codec
) -> list[Entry]:
    """The newest of the log: what is still shown by it, or may be unseen by a run under way."""
    entries = list(snapshot.lists.get(LOG, ()))
    if retention.max_messages is None:
        return entries
    pointer = snapshot.blobs.get(head_name(""))
    deltas = [delta_of(entry) for entry in entries]
    new = {delta.position for delta in deltas}
    if pointer is not None:
        record = decode_record(snapshot.blobs[pointer.refs[0]], codec)
        new = {delta.position for delta in unseen(deltas, record.seen)}
    start, later = len(entries), 0
    for place in range(len(entries) - 1, -1, -1):
        needed = entries[place].position in new and any(
            name in shown for name in entries[place].refs
        )
        if needed or later < retention.max_messages:
            start = place
        later += len(entries[place].refs)
    return entries[start:]


def _freed(snapshot: Snapshot, change: Change) -> int:
    freed = 0
    for name in change.drop:
        if name in snapshot.blobs:
            freed += len(snapshot.blobs[name].payload)
        freed += sum(len(entry.payload) for entry in snapshot.lists.get(name, ()))
    for name, positions in change.trim.items():
        freed += sum(
            len(entry.payload)
            for entry in snapshot.lists.get(name, ())
            if entry.position in positions
        )
    return freed


def _with_fewer_messages(
    snapshot: Snapshot,
    change: Change,
    over: int,
    bodies: Mapping[str, BaseMessage],
    codec: Codec,
) -> Change:
    """Cut the oldest messages as well, from the head and from the log."""

    def size(name: str) -> int:
        blob = snapshot.blobs[name]
        content = snapshot.blobs[blob.refs[0]] if blob.refs else blob
        return len(content.payload)

    names = [name for name in bodies if name in snapshot.blobs]
    sizes = [size(name) for name in names]
    caps = Caps(bytes=max(1, sum(sizes) - over))
    fits = {names[each] for each in visible([bodies[name] for name in names], caps, sizes)}
    lost = set(names) - fits
    log = [
        entry._replace(refs=tuple(name for name in entry.refs if name not in lost))
        for entry in snapshot.lists.get(LOG, ())
        if entry.position not in change.trim.get(LOG, ())
    ]
    blobs = dict(change.blobs)
    pointer = blobs.get(head_name("")) or snapshot.blobs.get(head_name(""))
    if pointer is not None:
        name = pointer.refs[0]
        blobs[name] = without_messages(snapshot.blobs[name], lost, codec)
    after = {**snapshot.blobs, **blobs}
    needed = _needed(replace(snapshot, blobs=after), change.drop, log)
    drop = {*change.drop, *(each for each in after if each[0] in "mv" and each not in needed)}
    return replace(
        change, blobs=blobs, drop=sorted(drop), place=[(LOG, entry) for entry in log]
    )
