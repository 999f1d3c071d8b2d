"""Which checkpoints a session lists and keeps, and what is dropped with the others: pure plans over its outline.

A checkpoint is in one of three states. It is *listed*, as `within_cap` says. Or it is in the *chain*: it is listed no
longer, but the value of a `DeltaChannel` at a listed one begins with the writes pending on it. Or it is dropped, with
these writes and every body and value that only it referred to (`keep_only`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

from langchain_ttl_history.checkpoints import decode_record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.index import Line, every_line
from langchain_ttl_history.pointers import listed_checkpoint, target_of
from langchain_ttl_history.storage.types import Blob, Change, Entry, Lease, Snapshot
from langchain_ttl_history.stored.names import (
    BODY,
    CHAIN,
    CHECKPOINT,
    INDEX,
    LOG,
    POINTER,
    SUBS,
    VALUE,
    WRITES,
    checkpoint_name,
    writes_name,
)
from langchain_ttl_history.stored.pending import has_open_interrupt

__all__ = ["Lines", "interrupted_roots", "keep_only", "latest_of_each_namespace", "leaves", "needed_by", "within_cap"]


# How many checkpoints that are not there writes may be pending on.
_AWAITED = 16


def within_cap(
    lines: Iterable[Line],
    subs: Iterable[Line],
    cap: int | None,
    waiting: Collection[str],
) -> list[Line]:
    """The checkpoints a session lists, oldest first.

    Args:
        lines: The root's, oldest first.
        subs: The subgraphs', oldest first.
        cap: How many root checkpoints are listed; None for all.
        waiting: Ids of root checkpoints with an unanswered interrupt; one that nothing was built
            on is listed beyond the cap.
    """
    roots = list(lines)
    newest = roots if cap is None else roots[-cap:]
    within = {line.id for line in newest}.union(line.id for line in leaves(roots) if line.id in waiting)
    listed = [line for line in roots if line.id in within]
    start = newest[0].position if len(newest) < len(roots) else 0
    return sorted([*listed, *_subs_of(list(subs), roots, within, start)], key=lambda line: line.position)


def _subs_of(subs: Sequence[Line], roots: Sequence[Line], listed: Collection[str], start: int) -> list[Line]:
    """The subgraphs' checkpoints that go with the root ones that are listed.

    Of a subgraph that remembers across turns the newest checkpoint is needed however long ago it ran, and others for
    time travel.

    Args:
        subs: All of the subgraphs', oldest first.
        roots: All of the root's, oldest first.
        listed: The ids of those that are listed.
        start: The position of the first one within the cap; 0 if that leaves none out.
    """
    latest = {line.ns: line for line in subs if _lasts(line)}
    there = {line.id for line in roots}
    # By the id of each root checkpoint: where another was first built on it.
    built_on: dict[str | None, int] = {
        line.parent: line.position for line in reversed(roots) if line.parent is not None
    }
    found: list[Line] = []
    for line in subs:
        # Of a root that is not there a subgraph may still run, but what it put before that was built on is done.
        is_done = line.position <= built_on.get(line.root, 0) and not _lasts(line)
        may_still_run = line.root not in there and line.position >= start and not is_done
        if line.root in listed or may_still_run or latest.get(line.ns) is line:
            found.append(line)
    return found


def _lasts(line: Line) -> bool:
    """Whether a subgraph remembers across turns, and not only for the task that its namespace names."""
    return ":" not in line.ns


def latest_of_each_namespace(lines: Iterable[Line]) -> list[Line]:
    """The newest checkpoint of each namespace."""
    return list({line.ns: line for line in lines}.values())


class Lines:
    """The index lines in an outline, decoded once."""

    def __init__(self, snapshot: Snapshot, codec: Codec) -> None:
        self.indexed: dict[str, list[Line]] = {
            index: every_line(snapshot.lists.get(index, ())) for index in (CHAIN, INDEX, SUBS)
        }
        # A checkpoint that was put twice has two lines; the newer one counts.
        self.by_id: dict[tuple[str, str], Line] = {
            (line.ns, line.id): line for lines in self.indexed.values() for line in lines
        }
        self._blobs, self._codec = snapshot.blobs, codec

    def of(self, index: str) -> list[Line]:
        """The lines of one list, each checkpoint once."""
        return [line for line in self.indexed[index] if self.by_id[line.ns, line.id] is line]

    def chain_above(self, listed: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """The checkpoints above these that hold a part of the value of a `DeltaChannel` of theirs.

        The channel may be another graph's, which had its turn on the session before.
        """
        channels = {channel for line in self.by_id.values() for channel in line.deltas or ()}
        # For which channels each ancestor was visited already, so that a shared one is not walked once per descendant.
        needed: dict[tuple[str, str], AbstractSet[str]] = {}
        for line in filter(None, map(self.by_id.get, listed if channels else ())):
            at, wanted = line, self._made_above(line, channels)
            while wanted and at.parent is not None and (at.ns, at.parent) in self.by_id:
                at = self.by_id[at.ns, at.parent]
                before = needed.get((at.ns, at.id), frozenset())
                if wanted <= before:
                    break
                needed[at.ns, at.id] = wanted | before
                wanted = self._made_above(at, wanted)
        return {*needed}

    def _made_above(self, line: Line, channels: AbstractSet[str]) -> AbstractSet[str]:
        """Which of these channels have a value at a checkpoint that it does not store."""
        left = channels - {*(line.valued or ())}
        tells_of_all = left <= {*(line.deltas or ())}
        blob = self._blobs.get(checkpoint_name(line.ns, line.id)) if left else None
        if blob is None:
            return left if tells_of_all else frozenset()
        # Of the channels of other graphs its line says nothing, nor of a snapshot that it got when messages were cut.
        record = decode_record(blob, self._codec)
        if tells_of_all:
            return left - {*record.values}
        return {each for each in left if each in record.checkpoint["channel_versions"] and each not in record.values}


def leaves(lines: Iterable[Line]) -> list[Line]:
    """The checkpoints that no other builds on."""
    every = list(lines)
    parents = {line.parent for line in every}
    return [line for line in every if line.id not in parents]


def interrupted_roots(roots: Iterable[Line], snapshot: Snapshot, codec: Codec) -> set[str]:
    """Ids of the root checkpoints with an unanswered interrupt."""
    return {line.id for line in roots if has_open_interrupt(snapshot.lists.get(writes_name("", line.id), ()), codec)}


def keep_only(
    snapshot: Snapshot,
    keep: Iterable[Line],
    lease: Lease,
    lines: Lines,
    entries: Collection[Entry],
) -> Change:
    """Drop every checkpoint but these, and everything that only the others needed.

    A kept checkpoint whose channels are spread over its ancestors' writes keeps those ancestors,
    down to the nearest that holds each channel's value; they are no longer listed.

    Args:
        snapshot: The outline of the session.
        keep: The lines of the checkpoints to keep.
        lease: As for any write.
        lines: All lines of the session.
        entries: Those that are left of the log.
    """
    by_id = lines.by_id
    listed = {(line.ns, line.id) for line in keep}
    chain = lines.chain_above(listed) - listed
    gone = by_id.keys() - listed - chain
    drop = {checkpoint_name(ns, id) for ns, id in gone}
    drop |= {writes_name(ns, id) for ns, id in gone}
    drop |= _orphans(snapshot)
    # The lists: lines of what is listed stay where they are, those of the chain move to a list of their own.
    trim: dict[str, frozenset[int]] = {}
    for index, found in lines.indexed.items():
        stays = {by_id[each].position for each in (chain if index == CHAIN else listed)}
        trim[index] = frozenset([line.position for line in found if line.position not in stays])
    chained = {line.position for line in lines.indexed[CHAIN]}
    newly_chained = [line for each in chain if (line := by_id[each]).position not in chained]
    place = [(CHAIN, Entry(line.position, line.payload())) for line in newly_chained]
    logged = {entry.position: entry for entry in snapshot.lists.get(LOG, ())}
    trim[LOG] = frozenset(logged).difference([entry.position for entry in entries])
    place += [(LOG, entry) for entry in entries if entry != logged[entry.position]]
    # Last, since it depends on all of these: the bodies and values that nothing refers to any more.
    needed = needed_by(snapshot, drop, entries)
    unneeded = {name for name in snapshot.blobs if name[0] in (BODY, VALUE) and name not in needed}
    return Change(
        lease,
        blobs=_pointers_left(snapshot, lines, listed, drop),
        place=place,
        drop=sorted(drop | unneeded),
        trim={name: gone_at for name, gone_at in trim.items() if gone_at},
        upkeep=True,
        at_position=snapshot.position,
        at_generation=snapshot.generation,
    )


def _orphans(snapshot: Snapshot) -> set[str]:
    """Names of the writes pending on checkpoints that are not there, without the newest.

    Writes may come before their checkpoint, and may be needed though it was freed before they came. All others are of
    checkpoints that were refused, or of runs that are over.
    """
    found = {
        name: entries[-1].position
        for name, entries in snapshot.lists.items()
        if name[0] == WRITES and CHECKPOINT + name[1:] not in snapshot.blobs
    }
    return {*sorted(found, key=found.__getitem__)[:-_AWAITED]}


def _pointers_left(
    snapshot: Snapshot, lines: Lines, listed: Collection[tuple[str, str]], drop: set[str]
) -> dict[str, Blob]:
    """The pointers to each namespace's latest checkpoint, moved to the newest one left where the latest is dropped.

    The pointer of a namespace without any checkpoint left is added to `drop`. Pointers that stay as they are get
    written as well: their references make the storage refuse this change if a checkpoint was dropped meanwhile.
    """
    pointers = {name: pointer for name, pointer in snapshot.blobs.items() if name[0] == POINTER}
    gone = [name for name, pointer in pointers.items() if target_of(pointer) in drop]
    if not gone:
        return pointers
    left: dict[str, Line] = {}
    for each in listed:
        line = lines.by_id[each]
        if line.ns not in left or left[line.ns].position < line.position:
            left[line.ns] = line
    for name in gone:
        newest = left.get(name[1:])
        if newest is None:
            drop.add(name)
            del pointers[name]
        else:
            mark = listed_checkpoint(newest.ns, newest.id, snapshot.blobs).mark
            target, also = checkpoint_name(newest.ns, newest.id), writes_name(newest.ns, newest.id)
            pointers[name] = Blob(b"", (target,), mark, (also,))
    return pointers


def needed_by(snapshot: Snapshot, drop: Collection[str], entries: Iterable[Entry]) -> set[str]:
    """Names of the bodies and values that what is kept refers to, of the log these entries."""
    blobs, needed = snapshot.blobs, set[str]()
    before: tuple[str, ...] = ()
    for name, blob in blobs.items():
        if name[0] == CHECKPOINT and name not in drop:
            # Usually a checkpoint has the references of the previous one and a few more.
            continues = blob.refs[: len(before)] == before
            needed.update(blob.refs[len(before) :] if continues else blob.refs)
            before = blob.refs
    lists = [entries, *(pending for name, pending in snapshot.lists.items() if name[0] == WRITES and name not in drop)]
    needed.update(*[entry.refs for kept in lists for entry in kept])
    return needed.union(*[blob.refs for blob in map(blobs.get, needed) if blob is not None and blob.refs])
