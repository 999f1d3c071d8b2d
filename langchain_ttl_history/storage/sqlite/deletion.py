"""Deleting sessions of a SQLite file for good: their tombstones, and what is left of them beside the file.

What was deleted may still stand in the write-ahead log. Until that is wiped, the file's state names the deletion.
"""

from __future__ import annotations

import sqlite3

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.sqlite import freeing
from langchain_ttl_history.storage.sqlite.lookup import state
from langchain_ttl_history.storage.sqlite.names import name_of, tombstone_of_user, user_column
from langchain_ttl_history.storage.types import generation_at

__all__ = ["delete", "note_unwiped", "note_wiped"]

_FENCE = "UPDATE state SET generation = ?"
_TOMBSTONE = "INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)"
_UNWIPED = "UPDATE state SET unwiped = ?"
_WIPED = "UPDATE state SET unwiped = 0 WHERE unwiped = ?"


def delete(
    connection: sqlite3.Connection, user_id: str, session_id: str | None, tombstone_ttl: float, now: float
) -> tuple[int, int]:
    """Delete a session, or all of a user's, leaving tombstones. Returns how many were live, and the fence."""
    newest, _ = state(connection)
    # A turn that outlived its session must not bring it back either, so whatever could
    # have been created until now is behind the fence, found or not.
    fence = max(newest, generation_at(now))
    connection.execute(_FENCE, (fence,))
    if session_id is None:
        live, gone = freeing.free_matching(connection, "user", user_column(user_id), now)
        # Turns may still run of the user's sessions that have expired and are already freed.
        keys = [*gone, tombstone_of_user(user_id)]
    else:
        keys = [name_of(SessionKey(user_id, session_id))]
        live, _ = freeing.free_matching(connection, "key", keys[0], now)
    connection.executemany(_TOMBSTONE, [(key, fence, now + tombstone_ttl) for key in keys])
    freeing.free_some(connection, now)
    return live, fence


def note_unwiped(connection: sqlite3.Connection, fence: int) -> None:
    """Leave it to the next write of any process to wipe this deletion from the write-ahead log."""
    connection.execute(_UNWIPED, (fence,))


def note_wiped(connection: sqlite3.Connection, fence: int) -> None:
    """Note that this deletion is wiped, unless another one came meanwhile."""
    connection.execute(_WIPED, (fence,))
