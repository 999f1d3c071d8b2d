"""Pages of the sessions in a SQLite file, by the time of their last recorded use, and how much they are."""

from __future__ import annotations

import sqlite3

from langchain_ttl_history.encoding.records import decoder
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.sqlite.lookup import key_of
from langchain_ttl_history.storage.sqlite.names import user_column
from langchain_ttl_history.storage.sqlite.row import bytes_of
from langchain_ttl_history.storage.types import Usage

__all__ = ["page", "usage"]

# Sessions on a page.
_PAGE = 500

_LIST = """
    SELECT sessions.renewed, sessions.generation, sessions.key, body FROM sessions
    LEFT JOIN segments ON segments.generation = sessions.generation AND number = 0
    WHERE {} (deadline IS NULL OR deadline > ?) AND (renewed, sessions.generation) > (?, ?)
    ORDER BY renewed, sessions.generation LIMIT ?
"""
_LIST_ALL = _LIST.format("")
_LIST_USER = _LIST.format("user = ? AND")


def page(
    connection: sqlite3.Connection, user_id: str | None, after: str | None, now: float
) -> tuple[list[SessionKey], str | None]:
    """A page of a user's live sessions, or of everyone's, and where the next begins.

    Raises:
        CorruptRecordError: A session's key is damaged.
    """
    renewed, _, generation = (after or "-inf 0").partition(" ")
    since = (now, float(renewed), int(generation), _PAGE)
    if user_id is None:
        rows = connection.execute(_LIST_ALL, since).fetchall()
    else:
        rows = connection.execute(_LIST_USER, (user_column(user_id), *since)).fetchall()
    more = f"{rows[-1][0]!r} {rows[-1][1]}" if len(rows) == _PAGE else None
    return [key_of(name, body) for _, _, name, body in rows], more


@decoder("a session's row")
def usage(connection: sqlite3.Connection) -> Usage:
    """How much is held, expired sessions that were not freed yet included.

    Raises:
        CorruptRecordError: A session's row is damaged.
    """
    rows = connection.execute("SELECT head FROM sessions").fetchall()
    return Usage(len(rows), sum(bytes_of(counts) for (counts,) in rows))
