"""A session's blobs and entries as rows of a SQLite table."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any

from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.records import decoder, pack, unpack
from langchain_ttl_history.storage import sqlite_schema
from langchain_ttl_history.storage.base import Blob, Change, Entry, Query
from langchain_ttl_history.storage.sqlite_mirror import Found

__all__ = [
    "chunked",
    "content",
    "digest",
    "entry_row",
    "insert",
    "key_of",
    "key_row",
    "name_of",
    "of_size",
    "outline",
    "references",
    "row_of",
]

Row = tuple[int, bytes, int, int, int, bytes]
"""Generation, digest of the name, position, weight, size, body."""

_ROWS = 8
_INSERT = [
    f"INSERT OR REPLACE INTO items VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * count)}" for count in range(_ROWS + 1)
]
_KEY = b""
"""The name of the row that tells whose session it is and which one."""
_NAME = len(sqlite_schema.FILL) + 2
"""Where the name begins in a body; its length is in the two bytes before."""

# So few sizes of statement make a query for any number of names, and all stay prepared.
_SIZES = (1, 4, 16, 64, 256)


def of_size(statement: str) -> dict[int, str]:
    """A statement that ends in "IN", for each number of values."""
    return {size: f"{statement} ({', '.join('?' * size)})" for size in _SIZES}


_SOME = of_size("SELECT name, position, weight, size, body FROM items WHERE generation = ? AND name IN")
_AFTER = (
    "SELECT name, position, weight, size, body FROM items WHERE generation = ? AND name = ? AND position > ? AND weight"
)
_ALL = "SELECT name, position, weight, size, body FROM items WHERE generation = ? AND name > x''"

digest = lru_cache(maxsize=8192)(sqlite_schema.digest)


def chunked(values: Collection[Any]) -> Iterator[list[Any]]:
    """The values in lists of the sizes there are statements for, the last one filled up with None."""
    rest = list(values)
    while rest:
        enough = next((each for each in _SIZES if each >= len(rest)), _SIZES[-1])
        # Rather one statement with gaps than several, unless most of it were gaps.
        size = enough if enough < 2 * len(rest) else max(each for each in _SIZES if each <= len(rest))
        chunk, rest = rest[:size], rest[size:]
        yield chunk + [None] * (size - len(chunk))


# Writing


def references(change: Change) -> Iterator[tuple[str, ...]]:
    """The references of a change."""
    for blob in change.blobs.values():
        yield blob.refs
    for _, _, refs in change.append:
        yield refs
    for _, entry in change.place:
        yield entry.refs


def insert(connection: sqlite3.Connection, rows: list[Row]) -> None:
    """Store rows, instead of those of the same name and position."""
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        connection.execute(_INSERT[len(some)], [value for row in some for value in row])


def row_of(generation: int, name: str, blob: Blob) -> Row:
    """The row of a blob."""
    payload, refs, mark, also = blob
    links = _packed((refs, mark, also)) if refs or mark or also else b""
    return generation, digest(name), 0, 0, len(payload), _body(name, payload, links)


def entry_row(generation: int, name: str, entry: Entry) -> Row:
    """The row of a list's entry."""
    position, payload, refs = entry
    links = _packed(refs) if refs else b""
    return generation, digest(name), position, 1 + len(refs), len(payload), _body(name, payload, links)


def key_row(generation: int, key: SessionKey) -> Row:
    """The row that tells a session's key."""
    return generation, _KEY, 0, 0, 0, _body("", b"", _packed(tuple(key)))


def _body(name: str, payload: bytes, links: bytes) -> bytes:
    named = name.encode("utf-8", "surrogatepass")
    return b"".join((sqlite_schema.FILL, len(named).to_bytes(2, "big"), named, payload, links))


def _packed(links: Any) -> bytes:
    try:
        return pack(links)
    except TypeError:  # A lone surrogate.
        return pack(_encoded(links))


def _encoded(links: Any) -> Any:
    if isinstance(links, tuple):
        return [_encoded(each) for each in links]
    return links.encode("utf-8", "surrogatepass") if isinstance(links, str) else links


# Reading


def _names(links: Iterable[str | bytes]) -> tuple[str, ...]:
    return tuple(each.decode("utf-8", "surrogatepass") if type(each) is bytes else each for each in links)  # type: ignore[misc]  # mypy does not follow `type(...) is`


@decoder("a session's key")
def key_of(body: bytes) -> SessionKey:
    """The key that a session's row of its key tells."""
    user_id, session_id = _names(unpack(body[_NAME:]))
    return SessionKey(user_id, session_id)


def name_of(body: bytes) -> str:
    """The name in a body."""
    return body[_NAME : _end(body)].decode("utf-8", "surrogatepass")


def _end(body: bytes) -> int:
    """Where the name ends and the payload begins."""
    return _NAME + body[_NAME - 2] * 256 + body[_NAME - 1]


@decoder("a stored row")
def _collect(rows: Iterable[tuple[bytes, int, int, int, bytes]], found: Found, names: dict[bytes, str]) -> set[str]:
    """Add rows to what was found. Returns the names they refer to."""
    wanted: set[str] = set()
    fresh: dict[str, list[Entry]] = {}
    for named, position, weight, size, body in rows:
        start = _end(body)
        end = start + size
        if end > len(body):
            raise CorruptRecordError("a stored row is cut off")
        name = names.get(named) or name_of(body)
        payload = body[start:end]
        if weight:
            refs = _names(unpack(body[end:])) if weight > 1 else ()
            fresh.setdefault(name, []).append(Entry(position, payload, refs))
            wanted.update(refs)
        elif end == len(body):
            found[0][name] = Blob(payload)
        else:
            links = unpack(body[end:])
            blob = found[0][name] = Blob(payload, _names(links[0]), links[1], _names(links[2]))
            wanted.update(blob.refs, blob.also)
    for name, entries in fresh.items():
        entries.sort()
        found[1][name] = entries
    return wanted


def _fetch(connection: sqlite3.Connection, generation: int, names: Collection[str], found: Found) -> set[str]:
    known = {digest(name): name for name in names}
    wanted: set[str] = set()
    for chunk in chunked(known):
        wanted |= _collect(connection.execute(_SOME[len(chunk)], (generation, *chunk)), found, known)
    return wanted


def outline(connection: sqlite3.Connection, generation: int) -> Found:
    """Every blob and entry of a session."""
    found: Found = ({}, {})
    _collect(connection.execute(_ALL, (generation,)), found, {})
    return found


def content(connection: sqlite3.Connection, generation: int, query: Query) -> tuple[Found, set[str], dict[str, int]]:
    """What a query asks of a session by name.

    Returns it, the names that are not stored, and the position after which a list was read in part.
    """
    found: Found = ({}, {})
    follow, names = set(query.follow), set(query.names)
    since: dict[str, int] = {}
    wanted = _fetch(connection, generation, names, found)
    if query.after_mark is not None:
        listed, marked = query.after_mark
        aside: Found = ({}, {})
        if marked not in names:
            _fetch(connection, generation, (marked,), aside)
        mark = found[0].get(marked) or aside[0].get(marked)
        if listed not in found[1]:
            since[listed] = mark.mark if mark else 0
            after = (generation, digest(listed), since[listed])
            found[1][listed] = []
            wanted |= _collect(connection.execute(_AFTER, after), found, {after[1]: listed})
    while wanted := {name for name in wanted if name not in names and name[:1] in follow}:
        names |= wanted
        wanted = _fetch(connection, generation, wanted, found)
        since = {name: position for name, position in since.items() if name not in names}
    return found, names.difference(*found), since
