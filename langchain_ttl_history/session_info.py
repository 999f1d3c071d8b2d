"""A session looked at without using it: its metadata, and its conversation for display."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from langchain_ttl_history.display import Portrait, info_card
from langchain_ttl_history.flow import Flow, Read
from langchain_ttl_history.index import lines_of
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.listed_checkpoints import listed_lines
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Query, Snapshot
from langchain_ttl_history.stored.names import BODY, CHECKPOINT, INDEX, LOG, pointer_name
from langchain_ttl_history.stored.packed_conversation import EMPTY
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.views import View, view_of

__all__ = ["SessionInfo", "info", "portrait"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Later than any clock's time zone can tell is as good as never.
_LATEST = datetime(9999, 1, 1, tzinfo=timezone.utc).timestamp()


@dataclass(frozen=True)
class SessionInfo:
    """A live session's metadata; the times are aware, in UTC."""

    user_id: str
    """Whose it is."""
    session_id: str
    """Which of the user's sessions it is."""
    messages: int
    """How many messages its history shows."""
    checkpoints: int
    """How many root checkpoints are listed and stored; 0 where only a chain has written."""
    bytes: int
    """Every payload byte it holds."""
    created_at: datetime
    """When it was first written to."""
    last_used_at: datetime
    """When it was last read or written to; on SQLite and Redis the last use that was recorded."""
    expires_at: datetime | None
    """When it ends if it is not used again. On SQLite and Redis that may be up to a tenth later than the idle time
    says. None if it never ends: it is pinned, or its retention has no `idle_ttl`, and there is no `max_age`."""
    read_at: datetime | None = field(default=None, repr=False, compare=False)
    """When this was read, by the storage's clock."""

    def _repr_html_(self) -> str:
        return info_card(self)


def info(sessions: Sessions, key: SessionKey) -> Flow[SessionInfo | None]:
    """The session's metadata; None if there is no such session. Not a use."""
    view = yield from _glance(sessions, key)
    return None if view is None else (yield from _info(sessions, key, view))


def portrait(sessions: Sessions, key: SessionKey) -> Flow[Portrait | None]:
    """The session for display, messages cut by the window included; None if there is none. Not a use."""
    view = yield from _glance(sessions, key)
    if view is None:
        return None
    shown = {*sessions.window.names(view.history, view.messages)}
    waiting = {*view.names}.difference(view.history)
    return Portrait(
        (yield from _info(sessions, key, view)),
        sessions.retention,
        [view.messages[name] for name in view.names],
        frozenset(place for place, name in enumerate(view.names) if name in shown),
        frozenset(place for place, name in enumerate(view.names) if name in waiting),
    )


def _glance(sessions: Sessions, key: SessionKey) -> Flow[View | None]:
    """The conversation as it is now, with the index in its snapshot, read without a lease."""
    pointer = pointer_name("")
    snapshot: Snapshot = yield Read(key, Query((pointer, INDEX), (CHECKPOINT, BODY), (LOG, pointer)))
    if not snapshot.generation or sessions.lease.is_past_max_age(snapshot.created_at, snapshot.now):
        return None  # One that is too old now, whatever it was given before, ends at its next use.
    return view_of(snapshot, Recall(EMPTY, sessions.codec), sessions.codec)


def _info(sessions: Sessions, key: SessionKey, view: View) -> Flow[SessionInfo]:
    snapshot = view.snapshot
    roots = lines_of(snapshot.lists.get(INDEX, ()))
    listed = yield from listed_lines(sessions, key, roots, ())
    return SessionInfo(
        key.user_id,
        key.session_id,
        len(sessions.window.names(view.history, view.messages)),
        len(listed),
        snapshot.bytes,
        _time(snapshot.created_at),
        _time(snapshot.last_used_at),
        None if snapshot.expires_at is None else _time(snapshot.expires_at),
        _time(snapshot.now),
    )


def _time(seconds: float) -> datetime:
    # By `datetime.fromtimestamp`, Windows knows no time after the year 3000.
    return _EPOCH + timedelta(seconds=min(seconds, _LATEST))
