"""Sessions in one SQLite file, shared by the processes of one host.

Each verb is one short transaction: reads see one state of the file, writes take turns, and
neither waits for the other in the file. Where one thread changes what is remembered of a session,
others wait for it a little. The async twins run in a few threads of the storage's own.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress

from langchain_ttl_history.errors import ConfigurationError, StorageError, brief
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Change, Lease, Outcome, Query, Snapshot, Usage
from langchain_ttl_history.storage.clocks import Clock, checked_clock
from langchain_ttl_history.storage.memory_session import refusal
from langchain_ttl_history.storage.own_process import OfThisProcess
from langchain_ttl_history.storage.sqlite import deletion, freeing, listing
from langchain_ttl_history.storage.sqlite.appends import plan_append
from langchain_ttl_history.storage.sqlite.changes import plan_change, renewal
from langchain_ttl_history.storage.sqlite.executor import Executor
from langchain_ttl_history.storage.sqlite.lookup import (
    TO_READ,
    TO_WRITE,
    Found,
    create,
    find_session,
    large,
    load,
    state,
)
from langchain_ttl_history.storage.sqlite.mirror import Mirror, Mirrors
from langchain_ttl_history.storage.sqlite.names import name_of
from langchain_ttl_history.storage.sqlite.opening import MEMORY, valid_path
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.storage.sqlite.transactions import Transactions

__all__ = ["SQLiteStorage"]

# Of so many writes of a process, one does not use what is remembered, and so notices whether there is anything to free.
_LOOKS = 64
# Threads for event loops. Of the writers only one is at work at a time; the other waits in line.
_READERS, _WRITERS = 4, 2
# After another process wrote to a session, so many writes to it do not use what is remembered.
_CONTESTED = 32
# How long, in seconds, a call waits for a mirror that another thread changes, before it reads the whole session: longer
# than a write takes on a busy machine, and far less than that thread may have to wait for another process. And which
# part of a shorter timeout, so that those who queue behind it are not kept for theirs.
_PATIENCE, _SHARE = 0.25, 0.25


class SQLiteStorage(OfThisProcess):
    """Keeps sessions in one SQLite file.

    Args:
        path: The file, created for its owner only if it does not exist; ":memory:" keeps everything
            in this process.
        durable: Whether a write waits until it is on the disk. Without it, no write is lost when a
            process is killed, but the last ones before a power cut may be.
        timeout: How long, in seconds, a verb waits for other processes before it raises.
        clock: Gives the time in seconds since the epoch; the same for all who share the file.

    Raises:
        ConfigurationError: An argument is not valid, the folder does not exist, or the file is another program's.
        StorageError: The file cannot be opened, or a newer version wrote it.
    """

    slack: float = 1.5

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool = False,
        timeout: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self._path = valid_path(path)
        if type(timeout) not in (int, float) or not 0 < timeout < 86_400:
            raise ConfigurationError(f"timeout must be more than 0 seconds and less than a day, not {brief(timeout)}")
        if type(durable) is not bool:
            raise ConfigurationError(f"durable must be True or False, not {brief(durable)}")
        self.private: bool = self._path == MEMORY
        self._clock = checked_clock(clock) or time.time
        self._mirrors = Mirrors()
        self._patience = min(_PATIENCE, _SHARE * timeout)
        self._writes = 0
        # Separate, so that reads do not queue behind writes that wait for other processes.
        self._readers, self._writers = Executor(_READERS, timeout), Executor(_WRITERS, timeout)
        self._transactions = Transactions(self._path, durable=durable, timeout=timeout)
        # Finish the deletion of a process that was killed in the middle of it. Where the disk is full it has to wait:
        # what is stored can still be read.
        with suppress(StorageError):
            self._transactions.truncate(wait=False)

    def __repr__(self) -> str:
        return f"SQLiteStorage({self._path!r})"

    # Verbs

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session."""
        found = self._read_only(key, query)
        return self._read_as_use(key, query) if found is None else found

    def _read_only(self, key: SessionKey, query: Query) -> Snapshot | None:
        """What a read that has nothing to record answers; None if its use has to be recorded."""
        began = looked = self._mirrors.moment()
        until = time.monotonic() + self._patience
        while True:
            now = self._clock()
            found = self._find(key, now)
            row = found.row
            if row is None:
                return Snapshot(now, found.fence)
            if query.lease is not None and row.is_due(now, query.lease):
                return None
            known = self._mirrors.answer(key, row, query, now, found.fence, began, until)
            if known is not None:
                return known
            if time.monotonic() >= until or not self._mirrors.is_changing(key, looked):
                break
            looked = self._mirrors.moment()
        try:
            snapshot, mirror = self._transactions.read(lambda connection: self._read(connection, key, query))
            if mirror is not None:
                self._mirrors.put(key, mirror, began)
        except BaseException:
            self._mirrors.drop(*key)  # As in `write`.
            raise
        return snapshot

    def _find(self, key: SessionKey, now: float) -> Found:
        """Find a session, outside of any transaction."""
        return self._transactions.outside(lambda connection: find_session(connection, TO_READ, key, now))

    def _read_as_use(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session, and record the use; waits like a write."""
        began = self._mirrors.moment()
        try:
            snapshot, mirror = self._transactions.write(
                lambda connection: self._read(connection, key, query, query.lease)
            )
            if mirror is not None:
                self._mirrors.put(key, mirror, began)
        except BaseException:
            self._mirrors.drop(*key)  # As in `write`.
            raise
        return snapshot

    def _read(
        self, connection: sqlite3.Connection, key: SessionKey, query: Query, used: Lease | None = None
    ) -> tuple[Snapshot, Mirror | None]:
        """Read parts of one session in a transaction, record the use under a lease, and bring its mirror up to date."""
        now = self._clock()
        found = find_session(connection, TO_READ, key, now)
        if found.row is None:
            return Snapshot(now, found.fence), None
        if used is not None and used.is_past_max_age(found.row.created, now):
            freeing.free_session(connection, name_of(key))
            return Snapshot(now, found.fence), None
        mirror = load(connection, found.row, self._mirrors.take(key))
        mirror.fence, mirror.until = found.fence, found.until
        if used is not None:
            connection.execute(*renewal(mirror, used, now))
        snapshot = mirror.answer(query, now, found.fence)
        for each in mirror.unloaded.intersection(snapshot.blobs):
            blob = snapshot.blobs[each]._replace(payload=large(connection, mirror, each))
            snapshot.blobs = {**snapshot.blobs, each: blob}
            mirror.load(each, blob)
        return snapshot, mirror

    def write(self, key: SessionKey, change: Change) -> Outcome:
        """Change one session."""
        try:
            self._transactions.line_up()
            began = self._mirrors.moment()
            outcome = self._swapped(key, change, began)
            if outcome is not None:
                return outcome
            outcome, unwiped, mirror = self._transactions.transact(
                lambda connection: self._write(connection, key, change)
            )
            if mirror is not None:
                self._mirrors.put(key, mirror, began)
        except BaseException:
            self._mirrors.drop(*key)  # It may have been taken, and nobody shall wait for it.
            raise
        finally:
            self._transactions.leave()
        if unwiped:
            # Whoever made this write must not repeat it because that fails, which is left to the next one.
            with suppress(StorageError):
                self._wipe(unwiped)
        return outcome

    def _swapped(self, key: SessionKey, change: Change, began: int) -> Outcome | None:
        """Change one session as planned on its mirror; None if that is absent or outdated, or the change is refused."""
        now = self._clock()
        self._writes += 1
        if not self._writes % _LOOKS:
            return None
        mirror = self._mirrors.take(key, time.monotonic() + self._patience)
        if mirror is None:
            return None
        mirror.contested -= mirror.contested > 0
        if mirror.contested or mirror.row.is_expired(now) or change.lease.is_past_max_age(mirror.row.created, now):
            self._mirrors.put(key, mirror)
            return None
        done = plan_append(mirror, change, now)
        if done is None:
            if refusal(mirror.session, change, mirror.fence if now < mirror.until else 0) is not None:
                self._mirrors.put(key, mirror)
                return None
            done = plan_change(mirror, change, now)
        outcome, statements = done
        if not self._transactions.swap(statements):
            # Another process wrote meanwhile: the next writes look at the row first.
            self._mirrors.put(key, Mirror(Row.new(0, now), contested=_CONTESTED))
            return None
        self._mirrors.put(key, mirror, began)
        return outcome

    def _write(
        self, connection: sqlite3.Connection, key: SessionKey, change: Change
    ) -> tuple[Outcome, int, Mirror | None]:
        """Change one session within a transaction; gives the outcome, the deletion to be wiped or 0, and the mirror."""
        now = self._clock()
        found = find_session(connection, TO_WRITE, key, now)
        mirror = None
        aged = found.row is not None and change.lease.is_past_max_age(found.row.created, now)
        if found.row is None or aged:
            self._mirrors.drop(*key)
        else:
            mirror = load(connection, found.row, self._mirrors.take(key))
            mirror.fence, mirror.until = found.fence, found.until
        refused = refusal(None if mirror is None else mirror.session, change, found.fence)
        if refused is not None:
            return refused, found.unwiped, mirror
        if found.litter:
            freeing.free_some(connection, now)
        if mirror is None:
            if found.litter or aged:
                freeing.free_session(connection, name_of(key))
            row = Row.new(max(found.newest + 1, int(now * 1_000_000)), now)
            create(connection, row, key)
            mirror = Mirror(row)
            mirror.fence, mirror.until = found.fence, found.until
        outcome, statements = plan_change(mirror, change, now, force=True)
        for statement in statements:
            connection.execute(*statement)
        return outcome, found.unwiped, mirror

    def delete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Delete a session, or all of a user's, leaving tombstones."""
        live, fence = self._transactions.write(
            lambda connection: deletion.delete(connection, user_id, session_id, tombstone_ttl, self._clock())
        )
        self._mirrors.drop(user_id, session_id)
        if not self._transactions.truncate(wait=True):
            # A reader is in the way: the next write of any process will do it.
            self._transactions.write(lambda connection: deletion.note_unwiped(connection, fence))
        return live

    def _wipe(self, unwiped: int) -> None:
        """Finish what a deletion could not: remove what was deleted from the write-ahead log."""
        if self._transactions.truncate(wait=False):
            self._transactions.write(lambda connection: deletion.note_wiped(connection, unwiped))

    def sessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """A page of a user's live sessions, or of everyone's, least recently used first.

        The order is that of the uses recorded. A session that is used while the pages are read may
        be on two of them.
        """
        now = self._clock()
        return self._transactions.read(lambda connection: listing.page(connection, user_id, after, now))

    def usage(self) -> Usage:
        """How much is held, expired sessions that were not freed yet included."""
        return self._transactions.read(listing.usage)

    def sweep(self) -> int:
        """Free everything that expired, and give back the file's free pages. Returns how many sessions that were."""
        now = self._clock()
        freed = 0
        while True:
            done, more = self._transactions.write(lambda connection: freeing.free_batch(connection, now))
            freed += done
            if not more:
                break
        while self._transactions.write(freeing.vacuum):
            pass
        _, unwiped = self._transactions.read(state)
        if unwiped:
            self._wipe(unwiped)
        else:
            self._transactions.truncate(wait=True)
        return freed

    def close(self) -> None:
        """Close the file; what is kept in memory is gone."""
        self._readers.close()
        self._writers.close()
        self._transactions.close()

    # Async twins

    async def aread(self, key: SessionKey, query: Query) -> Snapshot:
        """Async `read`."""
        found = await self._readers.run(self._read_only, key, query)
        # Those that wait like writes must not keep others from reading.
        return await self._writers.run(self._read_as_use, key, query) if found is None else found

    async def awrite(self, key: SessionKey, change: Change) -> Outcome:
        """Async `write`."""
        return await self._writers.run(self.write, key, change)

    async def adelete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Async `delete`."""
        return await self._writers.run(self.delete, user_id, session_id, tombstone_ttl)

    async def asessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """Async `sessions`."""
        return await self._readers.run(self.sessions, user_id, after)

    async def ausage(self) -> Usage:
        """Async `usage`."""
        return await self._readers.run(self.usage)

    async def asweep(self) -> int:
        """Async `sweep`."""
        return await self._writers.run(self.sweep)

    async def aclose(self) -> None:
        """Async `close`."""
        # Not behind the writes that wait, which end with an error now.
        await self._readers.run(self._transactions.close)
        self.close()
