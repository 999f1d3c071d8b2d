"""What most changes write to a SQLite file: they only append to the session. Without I/O."""

from __future__ import annotations

from collections.abc import Mapping

from langchain_ttl_history.storage.memory_session import MemorySession
from langchain_ttl_history.storage.refusals import is_fenced
from langchain_ttl_history.storage.sqlite.mirror import Mirror
from langchain_ttl_history.storage.sqlite.overflow import body_of
from langchain_ttl_history.storage.sqlite.packs import ListedEntry, NamedBlob, encode
from langchain_ttl_history.storage.sqlite.updates import INSERT, LARGE, OUTDATED, Statement, update
from langchain_ttl_history.storage.types import KEEP, Blob, Change, Entry, Outcome, Status

__all__ = ["plan_append"]


def plan_append(mirror: Mirror, change: Change, now: float) -> tuple[Outcome, list[Statement]] | None:
    """Apply to a mirror a change that only appends; returns the outcome, and the statements that do so in the file.

    Returns None, with the mirror unchanged, if the change does more than append or is refused. The result is the same
    as that of `plan_change`, which handles any change but takes longer.
    """
    found = _appends_of(mirror, change, now)
    if found is None:
        return None
    named, listed = found
    row, session, tail, homes = mirror.row, mirror.session, mirror.tail, mirror.homes
    statements: list[Statement] = []
    if named or listed:
        known = len(tail.names)
        pack = encode(tail.names, named, listed)
        if tail.length and tail.length + len(pack) > tail.room:
            if tail.outdated > OUTDATED:
                tail.forget(known)
                return None
            statements.append((INSERT, (row.generation, tail.number, body_of(tail.content))))
            tail.restart(tail.number + 1)
            pack = encode(tail.names, named, listed)
        tail.add(pack)
    number, held, stored = tail.number, row.bytes, session.blobs
    for name, blob, _ in named:
        if name in homes:
            mirror.outdate(name)
            session.references -= len(stored[name].refs)
        homes[name] = number
        stored[name] = blob
        session.references += len(blob.refs)
        held += len(blob.payload)
    for name, entry in listed:
        homes[name, entry.position] = number
        session.add(name, entry)
        held += len(entry.payload)
    touched = {name: session.weights[name] for name, _ in listed}
    row.segment, row.length = number, tail.length
    if listed:
        row.position = session.position = listed[-1][1].position
    row.bytes = session.bytes = held
    renewed = not change.upkeep and row.use(now, change.lease)
    outcome = Outcome(Status.STORED, frozenset(), row.generation, row.position, held, touched)
    return outcome, [update(mirror, renewed=renewed), *statements]


def _appends_of(mirror: Mirror, change: Change, now: float) -> tuple[list[NamedBlob], list[ListedEntry]] | None:
    """The blobs and entries that a change appends; None if it does more than that, or is refused."""
    row, stored, blobs, fence = mirror.row, mirror.session.blobs, change.blobs, mirror.fence.at(now)
    if (
        change.drop or change.trim or change.place or change.new or change.idle_ttl is not KEEP
        or (change.at_generation is not None and change.at_generation != row.generation)
        or (change.at_position is not None and change.at_position != row.position)
        or (fence and is_fenced(mirror.session, change.guard, fence))
    ):  # fmt: skip
        return None
    named: list[NamedBlob] = []
    for name, blob in blobs.items():
        old, refs = stored.get(name), blob.refs
        if len(blob.payload) >= LARGE or (refs and not _are_there(refs, mirror.session, blobs)):
            return None
        if old is not None:
            if name in mirror.large:
                return None
            if old == blob:
                continue
            if old.payload:
                return None
        named.append((name, blob, None))
    position, least = row.position, row.least_position(now)
    listed: list[ListedEntry] = []
    for name, payload, refs in change.append:
        if refs and not _are_there(refs, mirror.session, blobs):
            return None
        position = max(position + 1, least)
        listed.append((name, Entry(position, payload, refs)))
    return named, listed


def _are_there(refs: tuple[str, ...], session: MemorySession, given: Mapping[str, Blob]) -> bool:
    missing = session.missing(refs)
    return not missing or all(map(given.__contains__, missing))
