"""Applying a change to a session's rows in SQLite, and telling whether it is refused."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from langchain_ttl_history.storage.base import Change, Entry, Outcome, Status
from langchain_ttl_history.storage.sqlite_items import (
    INSERT,
    chunked,
    digest,
    entry_row,
    name_of,
    of_size,
    row_of,
)
from langchain_ttl_history.storage.sqlite_row import Row

__all__ = ["Known", "KnownSessions", "apply", "refusal"]

_STORED = of_size("SELECT name, size FROM items WHERE generation = ? AND position = 0 AND weight = 0 AND name IN")
_SUMS = of_size("SELECT name, sum(size) FROM items WHERE generation = ? AND name IN")
_SUMS = {size: statement + " GROUP BY name" for size, statement in _SUMS.items()}
_DROP = of_size("DELETE FROM items WHERE generation = ? AND name IN")
_AT = of_size("SELECT position, size, weight FROM items WHERE generation = ? AND name = ? AND weight AND position IN")
_TRIM = of_size("DELETE FROM items WHERE generation = ? AND name = ? AND weight AND position IN")
_WEIGHTS = """
    SELECT name, sum(weight),
        (SELECT body FROM items first WHERE first.generation = ?1 AND first.name = items.name AND first.weight LIMIT 1)
    FROM items WHERE generation = ?1 AND weight GROUP BY name
"""
_WEIGHT = "SELECT ifnull(sum(weight), 0) FROM items WHERE generation = ? AND name = ?"

# How many sessions are known at a time.
_KNOWN = 128


@dataclass
class Known:
    """What this process knows of a session's rows, true as long as the session's version is the same."""

    version: int = -1
    weights: dict[str, int] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)
    """Names of some of the blobs that are stored."""


class KnownSessions:
    """What this process knows of the sessions it wrote to last; its storage's write lock guards what changes them."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Known] = OrderedDict()

    def take(self, connection: sqlite3.Connection, row: Row) -> Known:
        """What is known of a session, read anew where others wrote to it; forgotten until it is `put`."""
        known = self._known.pop(row.generation, None)
        if known is None or known.version != row.version:
            rows = connection.execute(_WEIGHTS, (row.generation,))
            return Known(row.version, {name_of(body): weight for _, weight, body in rows})
        return Known(row.version, dict(known.weights), known.blobs)

    def is_over(self, connection: sqlite3.Connection, row: Row, bounds: Mapping[str, int]) -> bool:
        """Whether one of a session's lists weighs more than its bound."""
        known = self._known.get(row.generation)
        if known is None or known.version != row.version:
            weights = {
                name: connection.execute(_WEIGHT, (row.generation, digest(name))).fetchone()[0] for name in bounds
            }
        else:
            weights = known.weights
        return any(weights.get(name, 0) > most for name, most in bounds.items())

    def put(self, row: Row, known: Known) -> None:
        """Remember what is true of a session now that a write is through."""
        known.version = row.version
        self._known[row.generation] = known
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def drop(self, generations: Iterable[int]) -> None:
        """Forget sessions that are gone."""
        for generation in generations:
            self._known.pop(generation, None)


def refusal(
    connection: sqlite3.Connection, row: Row | None, change: Change, fence: int, known: Known
) -> Outcome | None:
    """Why a change is refused; None if it is not."""
    guard = change.guard
    if fence and guard.generation is not None and guard.generation <= fence:
        return Outcome(Status.DELETED)
    if fence and guard.needs is not None and _unstored(connection, row, {guard.needs}, known):
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
    for refs in _references(change):
        wanted.update(refs)
    missing = _unstored(connection, row, wanted.difference(change.blobs), known)
    return Outcome(Status.MISSING, frozenset(missing)) if missing else None


def _references(change: Change) -> Iterable[tuple[str, ...]]:
    for blob in change.blobs.values():
        yield blob.refs
    for _, _, refs in change.append:
        yield refs
    for _, entry in change.place:
        yield entry.refs


def _unstored(connection: sqlite3.Connection, row: Row | None, names: set[str], known: Known) -> set[str]:
    """Those of these names that no blob is stored under; the others are known from now on."""
    if row is None:
        return names
    unsure = names - known.blobs
    if unsure:
        by_digest = {digest(name): name for name in unsure}
        for chunk in chunked(by_digest):
            for stored, _ in connection.execute(_STORED[len(chunk)], (row.generation, *chunk)):
                known.blobs.add(by_digest[stored])
    return names - known.blobs


def apply(connection: sqlite3.Connection, row: Row, change: Change, known: Known) -> None:
    """Change the contents as a write says, and count in the row what it holds."""
    generation, weights = row.generation, known.weights
    if change.blobs:
        before = 0
        for chunk in chunked([digest(name) for name in change.blobs]) if row.version else ():
            before += sum(size for _, size in connection.execute(_STORED[len(chunk)], (generation, *chunk)))
        connection.executemany(INSERT, [row_of(generation, name, blob) for name, blob in change.blobs.items()])
        row.bytes += sum(len(blob.payload) for blob in change.blobs.values()) - before
        known.blobs.update(change.blobs)
    if change.append:
        rows = []
        for name, payload, refs in change.append:
            row.position += 1
            row.bytes += len(payload)
            weights[name] = weights.get(name, 0) + 1 + len(refs)
            rows.append(entry_row(generation, name, Entry(row.position, payload, refs)))
        connection.executemany(INSERT, rows)
    for name, entry in change.place:
        _trim(connection, row, name, (entry.position,), weights)
        connection.execute(INSERT, entry_row(generation, name, entry))
        row.bytes += len(entry.payload)
        row.position = max(row.position, entry.position)
        weights[name] = weights.get(name, 0) + 1 + len(entry.refs)
    for chunk in chunked([digest(name) for name in change.drop]):
        row.bytes -= sum(size for _, size in connection.execute(_SUMS[len(chunk)], (generation, *chunk)))
        connection.execute(_DROP[len(chunk)], (generation, *chunk))
    for name in change.drop:
        weights.pop(name, None)
    known.blobs.difference_update(change.drop)
    for name, positions in change.trim.items():
        _trim(connection, row, name, positions, weights)


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
