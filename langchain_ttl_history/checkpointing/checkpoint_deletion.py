"""Deletes checkpoints of a session: all but the latest, or those that some runs put; as flows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from langchain_ttl_history.checkpoints import decode_record
from langchain_ttl_history.errors import StorageError
from langchain_ttl_history.flow import Flow, Read, Write, every_key
from langchain_ttl_history.freeing.pruning import Lines, keep_only, latest_of_each_namespace
from langchain_ttl_history.freeing.remnants import without_orphaned_edits
from langchain_ttl_history.index import Line
from langchain_ttl_history.keys import SessionKey, label, valid_id
from langchain_ttl_history.log_entries import Log, deltas_of, entries_of
from langchain_ttl_history.pointers import listed_checkpoint
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Change, Outcome, Query, Snapshot, Status
from langchain_ttl_history.stored.names import INDEX, LOG, SUBS, checkpoint_name

__all__ = ["delete_for_runs", "keep_latest"]

# How often a change is planned anew when somebody else wrote in between.
_ATTEMPTS = 10


def keep_latest(sessions: Sessions, key: SessionKey) -> Flow[None]:
    """Keep the newest checkpoint of each namespace only.

    Raises:
        StorageError: Others kept writing to the session.
    """

    def plan(snapshot: Snapshot) -> Change:
        lines = Lines(snapshot, sessions.codec)
        latest = latest_of_each_namespace(_listed(lines))
        return keep_only(snapshot, latest, sessions.lease, lines, snapshot.lists.get(LOG, ()))

    yield from _change(key, plan)


def delete_for_runs(sessions: Sessions, user_id: str, run_ids: Iterable[object]) -> Flow[None]:
    """Drop the checkpoints of these runs in a user's sessions, what ran under them, and what they said.

    Raises:
        ConfigurationError: One is no id.
        StorageError: Others kept writing to one of the sessions.
    """
    wanted = {valid_id("run_id", run_id) for run_id in run_ids}
    keys = yield from every_key(user_id)
    for key in keys:
        yield from _change(key, lambda snapshot: _without_runs(sessions, snapshot, wanted))


def _change(key: SessionKey, plan: Callable[[Snapshot], Change | None]) -> Flow[None]:
    """Change a session as planned from its outline, if it is there and there is anything to change."""
    for _ in range(_ATTEMPTS):
        snapshot: Snapshot = yield Read(key, Query(outline=True))
        change = plan(snapshot) if snapshot.generation else None
        if change is None:
            return
        outcome: Outcome = yield Write(key, change)
        if outcome.status not in (Status.MOVED, Status.MISSING):
            return
    raise StorageError(f"{label(key)}: others kept writing to it, and nothing was dropped; try again")


def _without_runs(sessions: Sessions, snapshot: Snapshot, run_ids: Collection[str]) -> Change | None:
    """What drops the checkpoints of these runs, and what they said; None if there are none of them."""
    lines = Lines(snapshot, sessions.codec)
    listed = _listed(lines)
    gone = {line.id for line in listed if line.run_id in run_ids}
    if not gone:
        return None
    keep = [line for line in listed if line.id not in gone and line.root not in gone]
    runs = {
        decode_record(blob, sessions.codec).run
        for line in listed
        if line.id in gone and (blob := snapshot.blobs.get(checkpoint_name(line.ns, line.id))) is not None
    }
    entries = snapshot.lists.get(LOG, ())
    log = Log(entries, deltas_of(entries))
    newest = next((line for line in reversed(keep) if not line.ns), None)
    if newest is not None:
        head = decode_record(listed_checkpoint("", newest.id, snapshot.blobs), sessions.codec)
        log = replace(log, head=head.names, seen=head.seen)
    others = without_orphaned_edits([delta for delta in log.deltas if delta.run not in runs], log)
    return keep_only(snapshot, keep, sessions.lease, lines, entries_of(others, log))


def _listed(lines: Lines) -> list[Line]:
    return sorted([*lines.of(INDEX), *lines.of(SUBS)], key=lambda line: line.position)
