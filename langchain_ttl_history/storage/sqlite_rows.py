"""The row of a session in a SQLite file: looked at first by each verb, made, and changed."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.sqlite_items import insert, key_row
from langchain_ttl_history.storage.sqlite_row import Row
from langchain_ttl_history.storage.sqlite_schema import digest

__all__ = ["TO_READ", "TO_WRITE", "Look", "create", "look", "update"]

_LOOK = """
    SELECT (SELECT fence FROM tombstones WHERE key = ?1 AND until > ?2), state.generation, state.unwiped, {},
        sessions.generation, created, used, renewed, deadline, idle, position, bytes, version
    FROM state LEFT JOIN sessions ON sessions.key = ?1
"""
TO_READ = _LOOK.format("0")
# Also whether there is anything to free.
TO_WRITE = _LOOK.format(
    "EXISTS (SELECT 1 FROM sessions WHERE deadline <= ?2) OR EXISTS (SELECT 1 FROM tombstones WHERE until <= ?2)"
)
_CREATE = "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHANGE = "UPDATE sessions SET used = ?, position = ?, bytes = ?, version = ? WHERE generation = ?"
_RENEW = """
    UPDATE sessions SET used = ?, position = ?, bytes = ?, version = ?, renewed = ?, deadline = ?, idle = ?
    WHERE generation = ?
"""


class Look(NamedTuple):
    """What each verb looks at first."""

    fence: int
    newest: int
    """The newest generation."""
    unwiped: int
    """The deletion that is still to be wiped."""
    litter: bool
    """Whether something expired and was not freed yet."""
    row: Row | None
    """The session's, if it is live."""


def look(connection: sqlite3.Connection, statement: str, name: bytes, now: float) -> Look:
    """Look at a session by its key's digest, with `TO_READ` or `TO_WRITE`."""
    fence, newest, unwiped, litter, *found = connection.execute(statement, (name, now)).fetchone()
    row = None if found[0] is None else Row(*found)
    return Look(fence or 0, newest, unwiped, bool(litter), None if row is None or row.is_over(now) else row)


def create(connection: sqlite3.Connection, row: Row, name: bytes, key: SessionKey) -> None:
    """Store a new session's row."""
    times = (row.created, row.used, row.renewed, row.deadline, row.idle)
    counts = (row.position, row.bytes, row.version)
    connection.execute(_CREATE, (row.generation, name, digest(key.user_id), *times, *counts))
    insert(connection, [key_row(row.generation, key)])
    connection.execute("UPDATE state SET generation = ?", (row.generation,))


def update(connection: sqlite3.Connection, row: Row, *, renewed: bool) -> None:
    """Store a session's changed row; its deadline and idle time only where it was renewed."""
    changed = (row.used, row.position, row.bytes, row.version)
    if renewed:
        connection.execute(_RENEW, (*changed, row.renewed, row.deadline, row.idle, row.generation))
    else:
        connection.execute(_CHANGE, (*changed, row.generation))
