"""What any change of a session writes to a SQLite file: planned on its mirror, without I/O.

The session in the mirror is changed as one in memory is; `segments` plans how that gets into the file. (See `appends`
for changes that only append.)
"""

from __future__ import annotations

from langchain_ttl_history.storage.sqlite.mirror import Mirror
from langchain_ttl_history.storage.sqlite.packs import ListedEntry
from langchain_ttl_history.storage.sqlite.segments import Segments
from langchain_ttl_history.storage.sqlite.updates import Statement, update
from langchain_ttl_history.storage.types import Blob, Change, Entry, Keep, Lease, Outcome, Status

__all__ = ["plan_change", "renewal"]


def plan_change(mirror: Mirror, change: Change, now: float, *, force: bool = False) -> tuple[Outcome, list[Statement]]:
    """Apply a change to a mirror; returns the outcome and the statements that do the same in the file.

    Args:
        mirror: The session's mirror. Throw it away if the first statement changes no row: then it was outdated.
        change: A change that is not refused.
        now: Seconds since the epoch.
        force: Write even while a deletion is still to be wiped.
    """
    row, session = mirror.row, mirror.session
    segments = Segments(mirror)
    _apply(change, mirror, segments, row.least_position(now))
    row.segment, row.length = mirror.tail.number, mirror.tail.length
    row.position, row.bytes = session.position, session.bytes
    renewed = False
    if not isinstance(change.idle_ttl, Keep):
        row.set_idle_ttl(change.idle_ttl, now, change.lease)
        renewed = True
    if not change.upkeep:
        renewed = row.use(now, change.lease) or renewed
    weights = session.weights_of(change)
    outcome = Outcome(Status.STORED, frozenset(), row.generation, row.position, row.bytes, weights)
    return outcome, [update(mirror, renewed=renewed, force=force), *segments.statements]


def renewal(mirror: Mirror, lease: Lease, now: float) -> Statement:
    """Record a read as a use in a mirror; returns the statement that does the same in the file."""
    mirror.row.use(now, lease)
    return update(mirror, renewed=True, force=True)


def _apply(change: Change, mirror: Mirror, segments: Segments, least: int) -> None:
    """Change the session in a mirror and its segments; nothing is appended before position `least`."""
    session = mirror.session
    blobs = _replacing(change, mirror, segments)
    if change.place or change.drop or change.trim:
        _remove(change, mirror, segments)
        entries = _brought(change, session.position, least)
        session.apply(change, least)
        blobs = [(name, blob) for name, blob in blobs if name in session.blobs]
    else:
        session.set(blobs)
        entries = []
        for name, payload, refs in change.append:
            session.append(name, payload, refs, least)
            entries.append((name, session.lists[name][-1]))
    segments.add(blobs, entries)


def _replacing(change: Change, mirror: Mirror, segments: Segments) -> list[tuple[str, Blob]]:
    """The blobs of a change that are not stored like this already, with the old ones of their names out of the way."""
    new: list[tuple[str, Blob]] = []
    for name, blob in change.blobs.items():
        old = mirror.session.blobs.get(name)
        if name in mirror.large:
            segments.remove_blob(name)  # Its payload may not be at hand to be compared.
        elif old == blob:
            continue
        elif old is not None and old.payload:
            segments.remove_blob(name)
        elif old is not None:
            # A blob without a payload reveals nothing, so it may stay until its segment is rewritten.
            mirror.outdate(name)
        new.append((name, blob))
    return new


def _remove(change: Change, mirror: Mirror, segments: Segments) -> None:
    """Remove from the segments what a change replaces by entries that it places, drops, and trims."""
    session = mirror.session
    for name, entry in change.place:
        segments.remove_entry(name, entry.position)
    for name in change.drop:
        if name in session.blobs:
            segments.remove_blob(name)
        for entry in session.lists.get(name, ()):
            segments.remove_entry(name, entry.position)
    for name, positions in change.trim.items():
        for position in positions:
            segments.remove_entry(name, position)


def _brought(change: Change, position: int, least: int) -> list[ListedEntry]:
    """The entries that a change adds to a session at this position, without those that it drops or trims itself.

    Args:
        change: The change.
        position: The newest position given out before it.
        least: The least position of an entry that it appends.
    """
    entries: dict[tuple[str, int], Entry] = {}
    for name, payload, refs in change.append:
        position = max(position + 1, least)
        entries[name, position] = Entry(position, payload, refs)
    for name, entry in change.place:
        entries[name, entry.position] = entry
    return [
        (name, entry)
        for (name, at), entry in entries.items()
        if name not in change.drop and at not in change.trim.get(name, ())
    ]
