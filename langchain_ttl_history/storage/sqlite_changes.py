"""Applying a change to a session's rows in SQLite, and telling whether it is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from langchain_ttl_history.storage.base import Change, Entry, Outcome, Status
from langchain_ttl_history.storage.sqlite_items import (
    chunked,
    digest,
    entry_row,
    insert,
    name_of,
    of_size,
    references,
    row_of,
)
from langchain_ttl_history.storage.sqlite_mirror import Mirror
from langchain_ttl_history.storage.sqlite_row import Row

__all__ = ["apply", "is_over", "refusal", "weights_of"]

_STORED = of_size("SELECT name, size FROM items WHERE generation = ? AND position = 0 AND weight = 0 AND name IN")
_SUM = of_size("SELECT ifnull(sum(size), 0) FROM items WHERE generation = ? AND name IN")
_DROP = of_size("DELETE FROM items WHERE generation = ? AND name IN")
_AT = of_size("SELECT position, size, weight FROM items WHERE generation = ? AND name = ? AND weight AND position IN")
_TRIM = of_size("DELETE FROM items WHERE generation = ? AND name = ? AND weight AND position IN")
_WEIGHTS = """
    SELECT name, sum(weight),
        (SELECT body FROM items first WHERE first.generation = ?1 AND first.name = items.name AND first.weight LIMIT 1)
    FROM items WHERE generation = ?1 AND weight GROUP BY name
"""
_WEIGHT = "SELECT ifnull(sum(weight), 0) FROM items WHERE generation = ? AND name = ?"


def weights_of(connection: sqlite3.Connection, generation: int) -> dict[str, int]:
    """The weights of a session's lists."""
    return {name_of(body): weight for _, weight, body in connection.execute(_WEIGHTS, (generation,))}


def is_over(connection: sqlite3.Connection, generation: int, bounds: Mapping[str, int]) -> bool:
    """Whether one of a session's lists weighs more than its bound."""
    return any(
        connection.execute(_WEIGHT, (generation, digest(name))).fetchone()[0] > most for name, most in bounds.items()
    )


def refusal(
    connection: sqlite3.Connection, row: Row | None, change: Change, fence: int, stored: set[str]
) -> Outcome | None:
    """Why a change is refused; None if it is not. `stored` are names that need not be looked up."""
    guard = change.guard
    if fence and guard.generation is not None and guard.generation <= fence:
        return Outcome(Status.DELETED)
    if fence and guard.needs is not None and _unstored(connection, row, {guard.needs}, stored):
        return Outcome(Status.DELETED)
    if row is None and change.upkeep:
        return Outcome(Status.ABSENT)
    if change.at_generation is not None and (row is None or row.generation != change.at_generation):
        return Outcome(Status.MOVED)
    if change.at_position is not None and (row is None or row.position != change.at_position):
        return Outcome(Status.MOVED)
    if change.new and row is not None:
        return Outcome(Status.MOVED)
    wanted: set[str] = set()
    for refs in references(change):
        wanted.update(refs)
    missing = _unstored(connection, row, wanted.difference(change.blobs), stored)
    return Outcome(Status.MISSING, frozenset(missing)) if missing else None


def _unstored(connection: sqlite3.Connection, row: Row | None, names: set[str], stored: set[str]) -> set[str]:
    """Those of these names that no blob is stored under; those found are added to `stored`."""
    if row is None:
        return names
    unsure = names - stored
    if unsure:
        by_digest = {digest(name): name for name in unsure}
        for chunk in chunked(by_digest):
            for name, _ in connection.execute(_STORED[len(chunk)], (row.generation, *chunk)):
                stored.add(by_digest[name])
    return names - stored


def apply(connection: sqlite3.Connection, row: Row, change: Change, weights: dict[str, int], mirror: Mirror) -> None:
    """Change the contents as a write says, and count in the row and the weights what it holds.

    Each step of a statement is a turn of the interpreter's lock, for which a busy program's other
    threads compete: so all rows go in at once, and what the mirror knows is not looked up.
    """
    generation = row.generation
    rows = [row_of(generation, name, blob) for name, blob in change.blobs.items()]
    row.bytes += sum(len(blob.payload) for blob in change.blobs.values()) - _replaced(connection, row, change, mirror)
    for name, payload, refs in change.append:
        row.position += 1
        row.bytes += len(payload)
        weights[name] = weights.get(name, 0) + 1 + len(refs)
        rows.append(entry_row(generation, name, Entry(row.position, payload, refs)))
    insert(connection, rows)
    for name, entry in change.place:
        _trim(connection, row, name, (entry.position,), weights)
        insert(connection, [entry_row(generation, name, entry)])
        row.bytes += len(entry.payload)
        row.position = max(row.position, entry.position)
        weights[name] = weights.get(name, 0) + 1 + len(entry.refs)
    for chunk in chunked([digest(name) for name in change.drop]):
        row.bytes -= connection.execute(_SUM[len(chunk)], (generation, *chunk)).fetchone()[0]
        connection.execute(_DROP[len(chunk)], (generation, *chunk))
    for name in change.drop:
        weights.pop(name, None)
    for name, positions in change.trim.items():
        _trim(connection, row, name, positions, weights)


def _replaced(connection: sqlite3.Connection, row: Row, change: Change, mirror: Mirror) -> int:
    """The bytes of the blobs that a change replaces."""
    sizes = {name: mirror.size_of(name) for name in change.blobs}
    unsure = [digest(name) for name, size in sizes.items() if size is None]
    replaced = sum(size for size in sizes.values() if size)
    for chunk in chunked(unsure):
        replaced += sum(size for _, size in connection.execute(_STORED[len(chunk)], (row.generation, *chunk)))
    return replaced


def _trim(
    connection: sqlite3.Connection, row: Row, name: str, positions: Iterable[int], weights: dict[str, int]
) -> None:
    if name not in weights:
        return
    named = digest(name)
    for chunk in chunked([*positions]):
        values = (row.generation, named, *chunk)
        for _, size, weight in connection.execute(_AT[len(chunk)], values):
            row.bytes -= size
            weights[name] -= weight
        connection.execute(_TRIM[len(chunk)], values)
    if not weights[name]:
        del weights[name]
