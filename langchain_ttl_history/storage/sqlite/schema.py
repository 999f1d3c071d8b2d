"""The tables of a SQLite file, and its format version.

Names, ids and what was said stand in bodies alone, of which `overflow` tells how they lie in
the file; in all other columns there are numbers and digests.
"""

from __future__ import annotations

import sqlite3

from langchain_ttl_history.errors import ConfigurationError, StorageError
from langchain_ttl_history.storage.sqlite.overflow import PAGE

__all__ = ["FORMAT", "make", "prepare"]

APPLICATION = 0x54544C48
"""Says that a file is one of ours: "TTLH"."""
FORMAT = 2
"""The version of the format this module writes: since 2, packs and large payloads have checksums."""

# A new file's settings; without effect on one that is there. Without them no page could be given back, and text
# would share pages with what `overflow` keeps it apart from.
_NEW = (f"PRAGMA page_size = {PAGE}", "PRAGMA auto_vacuum = INCREMENTAL")
# What SQLite calls `auto_vacuum = INCREMENTAL`.
_INCREMENTAL = 2
_SETTINGS = (
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA temp_store = MEMORY",
    # About 4 MB.
    "PRAGMA wal_autocheckpoint = 4000",
    f"PRAGMA journal_size_limit = {8 * 1024 * 1024}",
    # On macOS alone, where a disk may write what it was told to sync later, and in another order: without it a power
    # cut could leave a damaged file.
    "PRAGMA checkpoint_fullfsync = ON",
)

_TABLES = (
    # One row. The newest generation given out or fenced; the fence of the newest deletion that may still be seen in
    # the file beside the database, 0 if there is none.
    "CREATE TABLE state (generation INTEGER NOT NULL, unwiped INTEGER NOT NULL)",
    "INSERT INTO state VALUES (0, 0)",
    # `renewed` is when `deadline` was last set; `idle` is the session's own idle time, -1 where it
    # has none of its own, NULL where it is pinned. `head` is what every write changes (see `Row`),
    # `tail` the segment that is written to (see `Tail`).
    """CREATE TABLE sessions (
        generation INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        user BLOB NOT NULL,
        created REAL NOT NULL,
        renewed REAL NOT NULL,
        deadline REAL,
        idle REAL,
        head BLOB NOT NULL,
        tail BLOB NOT NULL
    )""",
    "CREATE INDEX sessions_of_user ON sessions (user, renewed)",
    "CREATE INDEX sessions_by_use ON sessions (renewed)",
    "CREATE INDEX sessions_by_deadline ON sessions (deadline) WHERE deadline IS NOT NULL",
    # Segments that are full, in the order of their numbers; at 0 the session's key, below it large
    # payloads. (See `body_of`.)
    """CREATE TABLE segments (
        generation INTEGER NOT NULL,
        number INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (generation, number)
    ) WITHOUT ROWID""",
    "CREATE TABLE tombstones (key BLOB PRIMARY KEY, fence INTEGER NOT NULL, until REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX tombstones_by_end ON tombstones (until)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
)


def _check(connection: sqlite3.Connection, where: str) -> bool:
    """Whether the file is one of ours; False if it is empty. Changes nothing.

    Raises:
        ConfigurationError: It is another program's, perhaps one without tables.
        StorageError: A newer version of this package wrote it.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == APPLICATION:
        if version > FORMAT:
            raise StorageError(
                f"{where} is of format {version}, newer than {FORMAT}, the newest this version of "
                "langchain-ttl-history can read; upgrade it, or name another file"
            )
        return True
    if application or version or tables or not _can_be_ours(connection):
        raise ConfigurationError(f"{where} is another program's SQLite file; name a different one")
    return False


def _can_be_ours(connection: sqlite3.Connection) -> bool:
    """Whether a file without tables has the settings of a new file, or can still get them.

    They stand fixed from the first page on, which may be there without any table: where another program only chose
    the journal or dropped its tables, or where one of ours was killed before it made them.
    """
    pages, size, vacuum = [
        connection.execute(f"PRAGMA {setting}").fetchone()[0] for setting in ("page_count", "page_size", "auto_vacuum")
    ]
    return not pages or (size == PAGE and vacuum == _INCREMENTAL)


def prepare(connection: sqlite3.Connection, *, durable: bool) -> None:
    """Set up any connection."""
    for pragma in _SETTINGS:
        connection.execute(pragma).fetchall()
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    if durable:
        connection.execute("PRAGMA fullfsync = ON")  # Likewise.


def make(connection: sqlite3.Connection, where: str) -> str:
    """Make the tables, unless they are there or another worker just made them.

    Returns how the file keeps its journal; "wal" unless the file system cannot do it.

    Raises:
        ConfigurationError: It is another program's file.
        StorageError: A newer version of this package wrote it.
    """
    # In one transaction, since others may be making the tables.
    connection.execute("BEGIN")
    try:
        there = _check(connection, where)
    finally:
        connection.execute("ROLLBACK")
    for pragma in () if there else _NEW:
        connection.execute(pragma).fetchall()
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < FORMAT:
        # An older file is read as it is, but what is written to it from now on an older version could not read.
        connection.execute("BEGIN IMMEDIATE")
        for statement in (f"PRAGMA user_version = {FORMAT}",) if _check(connection, where) else _TABLES:
            connection.execute(statement)
        connection.execute("COMMIT")
    return str(mode)
