"""How tests open a SQLite file, write to it, look for text in its bytes, and look into a storage on it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite.mirror import Mirror
from langchain_ttl_history.storage.types import Blob, Change, Query
from tests.shared.one_session import KEY, LEASE

Opens = Callable[..., SQLiteStorage]
"""Opens the same file once more, as another worker does."""


def open_sqlite(clock: Callable[[], float]) -> SQLiteStorage:
    """A file in a folder of its own, in memory where the system has such a place."""
    shared = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="ttl-history-", dir=shared if shared.is_dir() else None)
    return SQLiteStorage(Path(folder) / "sessions.db", clock=clock)


def close_sqlite(storage: SQLiteStorage) -> None:
    """Close it and remove its folder."""
    storage.close()
    shutil.rmtree(path_of(storage).parent)


def bytes_of_sqlite(storage: SQLiteStorage) -> list[bytes]:
    """What the files hold, without the first page, where the tables are described, and without zeros."""
    path = path_of(storage)
    found = [path.read_bytes()[1024:], path.with_name(path.name + "-wal").read_bytes()]
    return [part for each in found for part in each.split(b"\0") if part]


def saying(text: str, **change: Any) -> Change:
    """A change that stores a text, and says so in the log."""
    return Change(
        LEASE, blobs={f"m{text}": Blob(text.encode())}, append=[("log", text.encode(), (f"m{text}",))], **change
    )


def said(storage: SQLiteStorage, key: SessionKey = KEY) -> list[str]:
    """The texts in the log."""
    found = storage.read(key, Query(("log",), ("m",)))
    assert {name[1:] for name in found.blobs} == {entry.payload.decode() for entry in found.lists.get("log", ())}
    return [entry.payload.decode() for entry in found.lists.get("log", ())]


def traces(folder: Path, *words: bytes) -> dict[bytes, int]:
    """How often each word is in any of the files."""
    held = b"".join(path.read_bytes() for path in folder.iterdir())
    return {word: count for word in words if (count := held.count(word))}


# What no user sees of a storage: here alone, so that it can change.


def path_of(storage: SQLiteStorage) -> Path:
    """Its file."""
    return Path(storage._path)


@contextmanager
def lent(storage: SQLiteStorage) -> Iterator[sqlite3.Connection]:
    """A connection of its own, which it would lend to the next call."""
    connections = storage._transactions._connections
    connection = connections.take()
    try:
        yield connection
    finally:
        connections.give(connection)


@contextmanager
def turn_to_write(storage: SQLiteStorage) -> Iterator[None]:
    """This thread's turn to write, during which no other has one."""
    try:
        storage._transactions.line_up()
        yield
    finally:
        storage._transactions.leave()


def idle(storage: SQLiteStorage) -> list[sqlite3.Connection]:
    """Its connections that no call uses."""
    return [*storage._transactions._connections._idle]


def is_unread(storage: SQLiteStorage) -> bool:
    """Whether nobody reads the file, so that its write-ahead log can be emptied; this empties it."""
    return storage._transactions.truncate(wait=False)


def close_connections_as_for_a_fork(storage: SQLiteStorage) -> None:
    """Close all connections, so that the next call opens one."""
    storage._transactions.before_fork()
    storage._transactions.after_fork()


def remembered(storage: SQLiteStorage) -> dict[SessionKey, Mirror]:
    """What it remembers of sessions, but for those that a call is changing."""
    return {key: place.mirror for key, place in [*storage._mirrors._mirrors.items()] if not place.taken}


def bytes_remembered(storage: SQLiteStorage) -> int:
    """How many bytes it takes for what it remembers, as it counts them itself."""
    return storage._mirrors._bytes
