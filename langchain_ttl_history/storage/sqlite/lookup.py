"""The rows of a session in a SQLite file: looked up, created, and loaded into a mirror."""

from __future__ import annotations

import sqlite3
from operator import index
from typing import NamedTuple

from langchain_ttl_history.encoding.records import decoder, pack, unpack
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.storage.sqlite.mirror import Fence, Mirror
from langchain_ttl_history.storage.sqlite.names import name_of, tombstone_of_user, user_column
from langchain_ttl_history.storage.sqlite.overflow import body_of, content_of, written_in
from langchain_ttl_history.storage.sqlite.packs import size_of, unsealed
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.storage.sqlite.tail import Tail, room

__all__ = ["TO_READ", "TO_WRITE", "Found", "create", "find_session", "key_of", "large_payload", "load", "state"]

_FIND = """
    SELECT own.fence, own.until, users.fence, users.until, state.generation, state.unwiped, {},
        sessions.generation, created, renewed, deadline, idle, head
    FROM state LEFT JOIN sessions ON sessions.key = ?
        LEFT JOIN tombstones AS own ON own.key = ? LEFT JOIN tombstones AS users ON users.key = ?
"""
TO_READ = _FIND.format("0")
# Also whether there is anything to free.
TO_WRITE = _FIND.format(
    "EXISTS (SELECT 1 FROM sessions WHERE deadline <= ?) OR EXISTS (SELECT 1 FROM tombstones WHERE until <= ?)"
)
_CREATE = "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_KEY = "INSERT INTO segments VALUES (?, 0, ?)"
_TAIL = "SELECT tail FROM sessions WHERE generation = ?"
_SEGMENTS = "SELECT number, body FROM segments WHERE generation = ? AND number >= ?"
_LARGE = "SELECT body FROM segments WHERE generation = ? AND number = ?"


class Found(NamedTuple):
    """The answer to the first statement of each verb."""

    fence: Fence
    newest: int
    """The newest generation in the file."""
    unwiped: int
    """The deletion that is still to be wiped from the write-ahead log; 0 if there is none."""
    litter: bool
    """Whether anything has expired that is not freed yet."""
    row: Row | None
    """The session's row, if the session is live."""


@decoder("a session's row")
def find_session(connection: sqlite3.Connection, statement: str, key: SessionKey, now: float) -> Found:
    """Find a session with `TO_READ` or `TO_WRITE`.

    Raises:
        CorruptRecordError: The row is damaged, or that of the file's state.
    """
    times, name = () if statement is TO_READ else (now, now), name_of(key)
    own, own_until, users, users_until, newest, unwiped, litter, *found = connection.execute(
        statement, (*times, name, name, tombstone_of_user(key.user_id))
    ).fetchone()
    fence = Fence()
    for generation, until in ((own, own_until), (users, users_until)):
        if generation is not None and now < until:
            fence = Fence(max(fence.generation, index(generation)), max(fence.until, until))
    row = None if found[0] is None else Row.stored(*found)
    live = None if row is None or row.is_expired(now) else row
    return Found(fence, index(newest), index(unwiped), bool(litter), live)


@decoder("the state of the file")
def state(connection: sqlite3.Connection) -> tuple[int, int]:
    """The newest generation in the file, and the deletion that is still to be wiped or 0.

    Raises:
        CorruptRecordError: It is damaged.
    """
    newest, unwiped = connection.execute("SELECT generation, unwiped FROM state").fetchone()
    return index(newest), index(unwiped)


def create(connection: sqlite3.Connection, row: Row, key: SessionKey) -> None:
    """Store a new session's row."""
    times = (row.created, row.renewed, row.deadline, row.idle)
    connection.execute(
        _CREATE, (row.generation, name_of(key), user_column(key.user_id), *times, row.counts, Tail(1).body)
    )
    connection.execute(_KEY, (row.generation, body_of(pack(tuple(key)))))
    connection.execute("UPDATE state SET generation = ?", (row.generation,))


@decoder("a session's key")
def key_of(name: bytes, body: bytes) -> SessionKey:
    """The session key that is stored in a session's segment 0, and whose digest stands in its row.

    Raises:
        CorruptRecordError: One of the two is damaged, or gone.
    """
    key = SessionKey(*unpack(content_of(body)))
    if bytes.fromhex(key.digest) != name:
        raise CorruptRecordError(f"a session's key, perhaps of {label(key)}, is not what was written")
    return key


@decoder("a session")
def load(connection: sqlite3.Connection, row: Row, mirror: Mirror | None) -> Mirror:
    """A mirror of the session as it is now: the one given, with what was written since, or a new one.

    Raises:
        CorruptRecordError: Something stored is damaged.
    """
    contested = 0
    if mirror is not None:
        if (mirror.row.generation, mirror.row.epoch) != (row.generation, row.epoch):
            contested = mirror.contested
        elif mirror.counts == row.counts or (_is_before(mirror.row, row) and _catch_up(connection, mirror, row)):
            return mirror
    mirror = Mirror(row, contested=contested)
    if not _catch_up(connection, mirror, row) or mirror.counted_bytes != row.bytes:
        raise CorruptRecordError("a part of a session is gone")
    return mirror


def _is_before(known: Row, row: Row) -> bool:
    """Whether a row may come from a known one by appends alone.

    If not, another thread has seen more than this transaction, or a backup was brought back into the file. `_catch_up`
    would notice that as well, but not of large payloads: what it compares holds only their sizes.
    """
    return known.version < row.version and known.segment <= row.segment


def _catch_up(connection: sqlite3.Connection, mirror: Mirror, row: Row) -> bool:
    """Read into a mirror what was appended until this row; False if something else was done to the segments."""
    tail = mirror.tail
    if tail.number < row.segment:
        for number, body in connection.execute(_SEGMENTS, (row.generation, tail.number)):
            if not mirror.learn(number, content_of(body)):
                return False
    ((body,),) = connection.execute(_TAIL, (row.generation,))
    written = written_in(body, row.length)
    if not mirror.learn(row.segment, written):
        return False
    tail.body, tail.room = bytearray(body), room(size_of(written))
    mirror.catch_up_to(row)
    return True


@decoder("a large payload")
def large_payload(connection: sqlite3.Connection, mirror: Mirror, name: str) -> bytes:
    """The payload of a large blob."""
    place = mirror.large[name]
    found = connection.execute(_LARGE, (mirror.row.generation, -place.number)).fetchone()
    if found is None:
        raise CorruptRecordError("a large payload is gone")
    return unsealed(content_of(found[0]), place.size)
