"""The statements that change a session in a SQLite file, as values."""

from __future__ import annotations

from typing import Any, TypeAlias

from langchain_ttl_history.storage.sqlite.mirror import Mirror
from langchain_ttl_history.storage.sqlite.row import OVER
from langchain_ttl_history.storage.sqlite.tail import SEGMENT

__all__ = ["DELETE", "INSERT", "LARGE", "OUTDATED", "REPLACE", "Statement", "update"]

Statement: TypeAlias = tuple[str, tuple[Any, ...]]
"""What to execute, and the values in it."""

LARGE = SEGMENT // 3
"""From so many bytes on a payload has a row of its own."""
OUTDATED = 50
"""A segment in which more blobs than these were replaced is written anew when it is full."""

# The row of a session changes only if it is still what a process remembers, no part of the session is freed, and
# nobody's deletion waits to be wiped, which the next write has to see to.
_WHERE = f"""
    WHERE generation = ? AND head = ? AND deadline IS NOT {OVER} AND NOT EXISTS (SELECT 1 FROM state WHERE unwiped > ?)
"""
CHANGE = f"UPDATE sessions SET head = ?, tail = ? {_WHERE}"
RENEW = f"UPDATE sessions SET head = ?, tail = ?, renewed = ?, deadline = ?, idle = ? {_WHERE}"
INSERT = "INSERT INTO segments VALUES (?, ?, ?)"
REPLACE = "UPDATE segments SET body = ? WHERE generation = ? AND number = ?"
DELETE = "DELETE FROM segments WHERE generation = ? AND number = ?"
# More than any deletion that is still to be wiped.
_ANY = 1 << 62


def update(mirror: Mirror, *, renewed: bool, force: bool = False) -> Statement:
    """Store a session's row with another version; its deadline and idle time only where it was renewed.

    Args:
        mirror: The session's, with all changes made except that of the version.
        renewed: Whether the deadline or the idle time are others.
        force: Write even while a deletion is still to be wiped.
    """
    row, before = mirror.row, mirror.counts
    row.version += 1
    counts = mirror.counts = row.counts
    where = (row.generation, before, _ANY if force else 0)
    if renewed:
        return RENEW, (counts, mirror.tail.body, row.renewed, row.deadline, row.idle, *where)
    return CHANGE, (counts, mirror.tail.body, *where)
