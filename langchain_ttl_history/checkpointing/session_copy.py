"""Copies a whole session to a new key, as a flow."""

from __future__ import annotations

from langchain_ttl_history.errors import ConfigurationError
from langchain_ttl_history.flow import Flow, Read, Write
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Change, Outcome, Query, Snapshot, Status

__all__ = ["copy_session"]


def copy_session(sessions: Sessions, source: SessionKey, target: SessionKey) -> Flow[None]:
    """Copy everything of a session to another that is not there yet.

    Raises:
        ConfigurationError: The target is there already; it was not touched.
    """
    snapshot: Snapshot = yield Read(source, Query(outline=True))
    if not snapshot.generation:
        return
    change = Change(
        sessions.lease,
        blobs=snapshot.blobs,
        place=[(name, entry) for name, entries in snapshot.lists.items() for entry in entries],
        new=True,
    )
    outcome: Outcome = yield Write(target, change)
    if outcome.status is Status.MOVED:
        raise ConfigurationError(f"{label(target)} exists already; delete it first, or copy to another thread")
    again: Snapshot = yield Read(source, Query())
    if again.fence >= snapshot.generation:
        # It was deleted in between. Where that was all of the user's, the copy has brought it back; where not, a turn
        # may have been taken on the copy, which is then one that was made before the deletion.
        copied: Snapshot = yield Read(target, Query())
        is_untouched = copied.position == outcome.position
        if copied.generation == outcome.generation and (is_untouched or copied.fence >= again.fence):
            yield from sessions.delete(*target)
