"""Sessions in one SQLite file, shared by the processes of one host.

Each verb is one short transaction: reads see one state of the file, writes take turns, and
neither waits for the other. The async twins run in a few threads of the storage's own.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from langchain_ttl_history.errors import ConfigurationError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import sqlite_freeing as freeing
from langchain_ttl_history.storage import sqlite_listing as listing
from langchain_ttl_history.storage.base import KEEP, Change, Outcome, Query, Snapshot, Status, Usage
from langchain_ttl_history.storage.sqlite_changes import apply, is_over, refusal, weights_of
from langchain_ttl_history.storage.sqlite_connections import MEMORY, Connections
from langchain_ttl_history.storage.sqlite_items import content, outline
from langchain_ttl_history.storage.sqlite_mirror import Found, Mirror, Mirrors
from langchain_ttl_history.storage.sqlite_row import Row
from langchain_ttl_history.storage.sqlite_rows import TO_READ, TO_WRITE, create, look, update
from langchain_ttl_history.storage.sqlite_schema import digest
from langchain_ttl_history.storage.sqlite_threads import Threads

__all__ = ["SQLiteStorage"]

_UNWIPED = "SELECT unwiped FROM state"


class SQLiteStorage:
    """Keeps sessions in one SQLite file.

    Args:
        path: The file, made for its owner alone if it is not there; ":memory:" keeps everything
            in this process.
        durable: Whether a write waits until it is on the disk. Without it, no write is lost when a
            process is killed, but the last ones before a power cut may be.
        timeout: How long, in seconds, a verb waits for other processes before it raises.
        clock: Gives the time in seconds since the epoch; the same for all who share the file.

    Raises:
        ConfigurationError: The path is no such file's, or its folder is not there.
        StorageError: The file cannot be opened, or a newer version wrote it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool = False,
        timeout: float = 30.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._path = _valid(path)
        if type(timeout) not in (int, float) or not 0 < timeout < 86_400:
            raise ConfigurationError(f"timeout must be seconds between 0 and a day, not {timeout!r}")
        self.private = self._path == MEMORY
        self._clock = clock or time.time
        self._mirrors = Mirrors()
        self._threads = Threads()
        self._connections = Connections(self._path, durable=bool(durable), timeout=timeout)
        # What a process that was killed in the middle of a deletion left.
        self._connections.truncate(wait=False)

    def __repr__(self) -> str:
        return f"SQLiteStorage({self._path!r})"

    # Verbs

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session."""
        name = bytes.fromhex(key.digest)

        def work(
            connection: sqlite3.Connection, *, writing: bool = False
        ) -> tuple[Snapshot, Row, Row] | Snapshot | None:
            now = self._clock()
            seen = look(connection, TO_READ, name, now)
            row = seen.row
            if row is None:
                return Snapshot(now, seen.fence)
            due = query.lease is not None and row.is_due(now, query.lease)
            if due and not writing:
                return None
            found, whole = self._found(connection, name, row, query)
            if query.lease is None or not due:
                return _snapshot(row, now, seen.fence, found, outline=whole)
            after = replace(row, version=row.version + 1)
            after.use(now, query.lease)
            update(connection, after, renewed=True)
            return _snapshot(after, now, seen.fence, found, outline=whole), row, after

        def settle(done: tuple[Snapshot, Row, Row] | Snapshot | None) -> None:
            if isinstance(done, tuple):
                self._mirrors.renew(name, *done[1:])

        # A use that must be recorded is the same again, as a write.
        done = self._connections.read(work) or self._connections.write(partial(work, writing=True), settle)
        snapshot = done[0] if isinstance(done, tuple) else done
        assert snapshot is not None  # noqa: S101  # only a read that may not write is
        return snapshot

    def _found(self, connection: sqlite3.Connection, name: bytes, row: Row, query: Query) -> tuple[Found, bool]:
        """What a query asks of a session, and whether that is all of it; from memory where that is as new."""
        whole = query.outline
        if query.outline_over and not whole:
            over = self._mirrors.ask(name, row, lambda mirror: mirror.is_over(query.outline_over))
            whole = is_over(connection, row.generation, query.outline_over) if over is None else over
        if whole:
            found = self._mirrors.ask(name, row, lambda mirror: mirror.outline())
            if found is None:
                found = read = outline(connection, row.generation)
                self._mirrors.ask(name, row, lambda mirror: mirror.learn_whole(read))
            return found, True
        found = self._mirrors.ask(name, row, lambda mirror: mirror.content(query))
        if found is None:
            found, absent, since = content(connection, row.generation, query)
            learned = found
            self._mirrors.ask(name, row, lambda mirror: mirror.learn(learned, absent, since))
        return found, False

    def write(self, key: SessionKey, change: Change) -> Outcome:
        """Change one session."""
        name = bytes.fromhex(key.digest)

        def work(connection: sqlite3.Connection) -> tuple[Outcome, int, Row | None, Mirror | None]:
            now = self._clock()
            seen = look(connection, TO_WRITE, name, now)
            row = seen.row
            mirror = self._mirrors.take(name)
            if row is None:
                mirror = None
            elif mirror is None or mirror.row.generation != row.generation or mirror.row.version != row.version:
                mirror = Mirror(replace(row), weights_of(connection, row.generation))
            refused = refusal(connection, row, change, seen.fence, set() if mirror is None else mirror.stored)
            if refused is not None:
                return refused, seen.unwiped, row, mirror
            if seen.litter:
                freeing.some(connection, now)
            created = row is None or mirror is None
            if row is None or mirror is None:
                if seen.litter:
                    freeing.by_key(connection, name)
                row = Row.new(max(seen.newest + 1, int(now * 1_000_000)), now)
                mirror = Mirror(replace(row), {}, whole=True)
            weights = dict(mirror.weights)
            apply(connection, row, change, weights, mirror)
            row.version += 1
            row.give(change.idle_ttl, now, change.lease)
            renewed = change.idle_ttl is not KEEP
            if not change.upkeep:
                renewed = row.use(now, change.lease) or renewed
            if created:
                create(connection, row, name, key)
            else:
                update(connection, row, renewed=renewed)
            return _stored(row, weights), seen.unwiped, row, mirror

        def settle(done: tuple[Outcome, int, Row | None, Mirror | None]) -> None:
            outcome, _, row, mirror = done
            if row is None or mirror is None:
                return
            if outcome.status is Status.STORED:
                mirror.follow(change, row, dict(outcome.weights))
            self._mirrors.put(name, mirror)

        outcome, unwiped, _, _ = self._connections.write(work, settle)
        if unwiped:
            self._wipe(unwiped)
        return outcome

    def delete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Delete a session, or all of a user's, leaving tombstones."""

        def work(connection: sqlite3.Connection) -> tuple[int, int, list[bytes]]:
            now = self._clock()
            (newest,) = connection.execute("SELECT generation FROM state").fetchone()
            # A turn that outlived its session must not bring it back either, so whatever could
            # have been created until now is behind the fence, found or not.
            fence = max(newest, int(now * 1_000_000))
            connection.execute("UPDATE state SET generation = ?", (fence,))
            if session_id is None:
                chosen = "user", digest(user_id)
            else:
                chosen = "key", bytes.fromhex(SessionKey(user_id, session_id).digest)
            live, gone = freeing.chosen(connection, *chosen, now)
            keys = [chosen[1]] if session_id is not None else [key for _, key in gone]
            tombstones = [(key, fence, now + tombstone_ttl) for key in keys]
            connection.executemany("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", tombstones)
            freeing.some(connection, now)
            return live, fence, [key for _, key in gone]

        live, fence, _ = self._connections.write(work, lambda done: self._mirrors.drop(done[2]))
        if not self._connections.truncate(wait=True):
            # A reader is in the way: the next write does it, in whichever process.
            self._connections.write(lambda connection: connection.execute("UPDATE state SET unwiped = ?", (fence,)))
        return live

    def _wipe(self, unwiped: int) -> None:
        """Finish what a deletion could not: take what was deleted out of the file beside the database."""
        if self._connections.truncate(wait=False):
            done = "UPDATE state SET unwiped = 0 WHERE unwiped = ?"
            self._connections.write(lambda connection: connection.execute(done, (unwiped,)))

    def sessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """A page of a user's live sessions, or of everyone's, least recently used first.

        The order is that of the uses recorded. A session that is used while the pages are read may
        be on two of them.
        """
        now = self._clock()
        return self._connections.read(lambda connection: listing.page(connection, user_id, after, now))

    def usage(self) -> Usage:
        """How much is held, expired sessions that were not freed yet included."""
        total = "SELECT count(*), ifnull(sum(bytes), 0) FROM sessions"
        return Usage(*self._connections.read(lambda connection: connection.execute(total).fetchone()))

    def sweep(self) -> int:
        """Free everything that expired, and give back the file's free pages. Returns how many sessions that were."""
        now = self._clock()
        freed = 0
        while True:
            done, more = self._connections.write(lambda connection: freeing.batch(connection, now))
            freed += done
            if not more:
                break
        while self._connections.write(freeing.vacuum):
            pass
        (unwiped,) = self._connections.read(lambda connection: connection.execute(_UNWIPED).fetchone())
        if unwiped:
            self._wipe(unwiped)
        else:
            self._connections.truncate(wait=True)
        return freed

    def close(self) -> None:
        """Close the file; what is kept in memory is gone."""
        self._threads.close()
        self._connections.close()

    # Async twins

    async def aread(self, key: SessionKey, query: Query) -> Snapshot:
        """Async :meth:`read`."""
        return await self._threads.run(self.read, key, query)

    async def awrite(self, key: SessionKey, change: Change) -> Outcome:
        """Async :meth:`write`."""
        return await self._threads.run(self.write, key, change)

    async def adelete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Async :meth:`delete`."""
        return await self._threads.run(self.delete, user_id, session_id, tombstone_ttl)

    async def asessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """Async :meth:`sessions`."""
        return await self._threads.run(self.sessions, user_id, after)

    async def ausage(self) -> Usage:
        """Async :meth:`usage`."""
        return await self._threads.run(self.usage)

    async def asweep(self) -> int:
        """Async :meth:`sweep`."""
        return await self._threads.run(self.sweep)

    async def aclose(self) -> None:
        """Async :meth:`close`."""
        await self._threads.run(self._connections.close)
        self.close()


def _stored(row: Row, weights: dict[str, int]) -> Outcome:
    return Outcome(Status.STORED, frozenset(), row.generation, row.position, row.bytes, weights)


def _snapshot(row: Row, now: float, fence: int, found: Found, *, outline: bool) -> Snapshot:
    return Snapshot(
        now=now,
        fence=fence,
        generation=row.generation,
        position=row.position,
        bytes=row.bytes,
        created_at=row.created,
        last_used_at=row.used,
        expires_at=row.deadline,
        blobs=found[0],
        lists=found[1],
        outline=outline,
    )


def _valid(path: object) -> str:
    """A path as a string."""
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"path must be a string or a path, not {path!r}")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"path must name a file, not {path!r}")
    # A change of the working directory must not lead to another file.
    return text if text == MEMORY else str(Path(text).absolute())
