"""Frees the rows of sessions that expired or are deleted in a SQLite file, and gives free pages back.

A session that expires is not touched at that moment. Its rows are freed later: a few with each write (`free_some`),
many with each transaction of a sweep (`free_batch`), and all before another session of its key begins (`free_session`).
What is deleted is freed at once (`free_matching`).

What a living session has over its caps is none of this: see `langchain_ttl_history.freeing`.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from langchain_ttl_history.storage.sqlite.row import OVER

__all__ = ["free_batch", "free_matching", "free_session", "free_some", "vacuum"]

# What one write frees along the way, so that freeing keeps up with creating and no write takes long.
_SESSIONS, _ROWS, _TOMBSTONES = 2, 24, 16
# What one transaction of a sweep frees.
_SWEPT_SESSIONS, _SWEPT_ROWS = 200, 2_000
# Free pages are kept for what comes next until they are so many, and a quarter of the file.
_SPARE = 2_000
_VACUUMED, _SWEPT_PAGES = 64, 2_000

_EXPIRED = "SELECT generation FROM sessions WHERE deadline <= ? ORDER BY deadline LIMIT ?"
_DELETE_ROWS = """
    DELETE FROM segments WHERE generation = :generation AND number IN (
        SELECT number FROM segments WHERE generation = :generation LIMIT :rows
    )
"""
_DELETE_TOMBSTONES = "DELETE FROM tombstones WHERE key IN (SELECT key FROM tombstones WHERE until <= ? LIMIT ?)"
_END = "UPDATE sessions SET deadline = ? WHERE generation = ?"
_DELETE_SEGMENTS = "DELETE FROM segments WHERE generation = ?"
_DELETE_SESSION = "DELETE FROM sessions WHERE generation = ?"


class Freed(NamedTuple):
    """What was freed of expired sessions."""

    sessions: int
    """How many are freed whole."""
    more: bool
    """Whether there may be more to free."""


def _free_expired(connection: sqlite3.Connection, now: float, sessions: int, rows: int) -> Freed:
    """Free at most so many expired sessions, and of their segments at most so many rows."""
    found = connection.execute(_EXPIRED, (now, sessions)).fetchall()
    freed = 0
    for (generation,) in found:
        rows -= connection.execute(_DELETE_ROWS, {"generation": generation, "rows": rows}).rowcount
        if rows <= 0:
            # The rest comes another time. A clock that is set back must not show half a session, nor a write continue
            # it that was planned in time.
            connection.execute(_END, (OVER, generation))
            return Freed(freed, more=True)
        connection.execute(_DELETE_SESSION, (generation,))
        freed += 1
    return Freed(freed, more=len(found) == sessions)


def free_some(connection: sqlite3.Connection, now: float) -> None:
    """Free a little of what expired, as a part of a write."""
    freed = _free_expired(connection, now, _SESSIONS, _ROWS)
    connection.execute(_DELETE_TOMBSTONES, (now, _TOMBSTONES))
    if freed.sessions or freed.more:
        free = _free_pages(connection)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        if free > max(_SPARE, pages // 4):
            _give_back(connection, min(free, _VACUUMED))


def free_batch(connection: sqlite3.Connection, now: float) -> Freed:
    """Free much of what expired, as a transaction of a sweep."""
    connection.execute(_DELETE_TOMBSTONES, (now, -1))
    return _free_expired(connection, now, _SWEPT_SESSIONS, _SWEPT_ROWS)


def vacuum(connection: sqlite3.Connection) -> bool:
    """Give back some of the free pages. Returns whether there are more that can be given back."""
    before = _free_pages(connection)
    _give_back(connection, min(before, _SWEPT_PAGES))
    # A file that an operator rebuilt with other settings cannot give back any.
    return 0 < _free_pages(connection) < before


def _free_pages(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(count)


def _give_back(connection: sqlite3.Connection, pages: int) -> None:
    # One by one: Python 3.11 ends a statement without columns after its first step, which gives one page back.
    for _ in range(pages):
        connection.execute("PRAGMA incremental_vacuum(1)").fetchall()


def free_session(connection: sqlite3.Connection, name: bytes) -> None:
    """Free an expired session, found by what stands for its key, so that another of that key can begin."""
    for (generation,) in connection.execute("SELECT generation FROM sessions WHERE key = ?", (name,)).fetchall():
        _free_whole(connection, generation)


def free_matching(connection: sqlite3.Connection, column: str, value: bytes, now: float) -> tuple[int, list[bytes]]:
    """Free the session of a key, or those of a user. Returns how many of them were live, and the keys of all."""
    found = connection.execute(
        f"SELECT generation, key, deadline IS NULL OR deadline > ? FROM sessions WHERE {column} = ?",  # "key" or "user"
        (now, value),
    ).fetchall()
    for generation, _, _ in found:
        _free_whole(connection, generation)
    return sum(live for _, _, live in found), [key for _, key, _ in found]


def _free_whole(connection: sqlite3.Connection, generation: int) -> None:
    connection.execute(_DELETE_SEGMENTS, (generation,))
    connection.execute(_DELETE_SESSION, (generation,))
