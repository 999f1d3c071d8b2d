"""Sessions in one SQLite file, shared by the processes of one host.

Each verb is one short transaction: reads see one state of the file, writes take turns, and
neither waits for the other in the file. The async twins run in a few threads of the storage's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

from langchain_ttl_history.errors import ConfigurationError, CorruptRecordError, StorageError, brief
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.clocks import Clock, checked_clock
from langchain_ttl_history.storage.own_process import OfThisProcess
from langchain_ttl_history.storage.sqlite import deletion, freeing, listing
from langchain_ttl_history.storage.sqlite.executor import Executor
from langchain_ttl_history.storage.sqlite.lookup import state
from langchain_ttl_history.storage.sqlite.mirrored_sessions import MirroredSessions
from langchain_ttl_history.storage.sqlite.mirrors import Mirrors
from langchain_ttl_history.storage.sqlite.opening import MEMORY, valid_path
from langchain_ttl_history.storage.sqlite.transactions import Transactions
from langchain_ttl_history.storage.types import Change, Outcome, Query, Snapshot, UnreadablePageError, Usage
from langchain_ttl_history.storage.unread import warn_of

__all__ = ["SQLiteStorage"]

# Threads for event loops. Of the writers only one is at work at a time; the other waits in line.
_READERS, _WRITERS = 4, 2


class SQLiteStorage(OfThisProcess):
    """Keeps sessions in one SQLite file.

    Args:
        path: The file. If it does not exist it is created, readable and writable by its owner only. ":memory:" keeps
            everything in this process.
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
        # Separate, so that reads do not queue behind writes that wait for other processes.
        self._readers, self._writers = Executor(_READERS, timeout), Executor(_WRITERS, timeout)
        self._transactions = Transactions(self._path, durable=durable, timeout=timeout)
        self._sessions = MirroredSessions(self._transactions, self._mirrors, self._clock, timeout)
        # Finish the deletion of a process that was killed in the middle of it. Where the disk is full it has to wait:
        # what is stored can still be read.
        with suppress(StorageError):
            self._transactions.truncate(wait=False)

    def __repr__(self) -> str:
        return f"SQLiteStorage({self._path!r})"

    # Verbs

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session."""
        found = self._sessions.read(key, query)
        return self._sessions.read_as_use(key, query) if found is None else found

    def write(self, key: SessionKey, change: Change) -> Outcome:
        """Change one session."""
        outcome, unwiped = self._sessions.write(key, change)
        if unwiped:
            # Whoever made this write must not repeat it because that fails, which is left to the next one.
            with suppress(StorageError):
                self._wipe(unwiped)
        return outcome

    def delete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Delete a session, or all of a user's, leaving tombstones."""
        live, fence = self._transactions.write(
            lambda connection: deletion.delete(connection, user_id, session_id, tombstone_ttl, self._clock())
        )
        self._mirrors.delete(user_id, session_id)
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
        listed = self._transactions.read(lambda connection: listing.page(connection, user_id, after, now))
        if listed.unread:
            raise UnreadablePageError(self._located(listed.unread), listed.keys, listed.after)
        return listed.keys, listed.after

    def usage(self) -> Usage:
        """How much is held, expired sessions that were not freed yet included."""
        found, unread = self._transactions.read(listing.usage)
        warn_of("stats()", self._located(unread))
        return found

    def _located(self, unread: Iterable[CorruptRecordError]) -> list[CorruptRecordError]:
        return [CorruptRecordError(f"{self._path}: {error}") for error in unread]

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
        found = await self._readers.run(self._sessions.read, key, query)
        # Those that wait like writes must not keep others from reading.
        return await self._writers.run(self._sessions.read_as_use, key, query) if found is None else found

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
