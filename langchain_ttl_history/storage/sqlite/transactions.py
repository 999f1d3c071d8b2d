"""Transactions on one SQLite file: threads take turns to write, and locks are waited for.

    outside(work)   statements that are each a transaction of their own
    read(work)      BEGIN; work sees one state of the file
    write(work)     this process's turn, and BEGIN IMMEDIATE: line_up(), transact(work), leave()

Between `line_up` and `leave` a caller may also `swap`, and `transact` if that finds another state than it expected.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from langchain_ttl_history.errors import CorruptRecordError, StorageError
from langchain_ttl_history.fork_safety import watch
from langchain_ttl_history.storage.sqlite.connections import Connections
from langchain_ttl_history.storage.sqlite.opening import way_out

__all__ = ["Transactions"]

T = TypeVar("T")

# How long truncating the file beside the database waits for readers, in milliseconds.
_READERS_MS = 100


class Transactions:
    """The transactions of one storage.

    Args:
        path: The file, or `MEMORY`.
        durable: Whether each write waits until it is on the disk.
        timeout: How long a transaction waits for others, in seconds.
    """

    def __init__(self, path: str, *, durable: bool, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        # An RLock, since it knows its owner: an exception from a signal handler may come right after it was acquired.
        self._writer = threading.RLock()
        self._connections = Connections(path, durable=durable, timeout=timeout)
        # The process that forks, and whether it holds `_writer` to do so.
        self._pid, self._holds_writer = os.getpid(), False
        watch(self)
        self._patiently(self._connections.open_first)

    # Forks

    def before_fork(self) -> None:
        """Let nobody write or read while the process forks."""
        self._pid, self._holds_writer = os.getpid(), False
        until = time.monotonic() + self._timeout
        self._holds_writer = self._writer.acquire(timeout=self._timeout)
        self._connections.pause(until)

    def after_fork(self) -> None:
        """Resume after a fork, in the parent and in the child."""
        in_child = os.getpid() != self._pid
        self._connections.resume(in_child=in_child)
        if self._holds_writer:
            self._holds_writer = False
            self._writer.release()
        elif in_child:
            self._writer = threading.RLock()  # The thread that held it does not exist in the child.

    # Transactions

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work within one transaction that only reads.

        Raises:
            StorageError: SQLite refused, or the file is gone.
        """
        if self._connections.in_memory:
            return self.write(work)
        self._connections.check_file()
        return self._patiently(lambda: self._transaction("BEGIN", work))

    def line_up(self) -> None:
        """Wait for this process's turn to write, which ends with `leave` however this ends.

        Raises:
            StorageError: Another thread kept it for longer than the timeout, or the file is gone.
        """
        # Threads of one process queue here; SQLite would make them poll.
        if not self._writer.acquire(timeout=self._timeout):
            raise StorageError(
                f"{self._path} was being written to for more than {self._timeout:g} s; "
                "try again, or give SQLiteStorage a larger timeout"
            )
        self._connections.check_file()

    def leave(self) -> None:
        """End this process's turn to write, whether or not `line_up` got it."""
        # After an interrupt the caller may not know whether it holds the lock; `threading.Condition` asks so, too.
        while self._writer._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  # it has no other way to tell
            self._writer.release()

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Wait for a turn to write, and do some work within one transaction.

        Raises:
            StorageError: SQLite refused, or others kept writing for longer than the timeout.
        """
        try:
            self.line_up()
            return self.transact(work)
        finally:
            self.leave()

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work, within this process's turn, in one transaction; done anew when others were in the way.

        Raises:
            StorageError: SQLite refused, or others kept writing for longer than the timeout.
        """
        return self._patiently(lambda: self._transaction("BEGIN IMMEDIATE", work))

    def swap(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> bool:
        """Do, within this process's turn, all of these statements, if the first changes a row; False if it does not.

        Raises:
            StorageError: SQLite refused, or others kept writing for longer than the timeout.
        """
        if len(statements) == 1:
            return self._execute(*statements[0])

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(*statements[0]).rowcount != 1:
                return False
            for statement in statements[1:]:
                connection.execute(*statement)
            return True

        return self.transact(work)

    def _execute(self, statement: str, values: tuple[Any, ...]) -> bool:
        """Do one statement, which is a transaction by itself; whether it changed a row."""

        def work(connection: sqlite3.Connection) -> bool:
            return connection.execute(statement, values).rowcount == 1

        return self._patiently(lambda: self._connections.lend(work))

    def outside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work outside of any transaction.

        Raises:
            StorageError: SQLite refused.
        """
        if not self._connections.in_memory:
            self._connections.check_file()
            return self._patiently(lambda: self._connections.lend(work))
        try:
            self.line_up()
            return self._patiently(lambda: self._connections.lend(work))
        finally:
            self.leave()

    def truncate(self, *, wait: bool) -> bool:
        """Move the write-ahead log into the database and empty it; False if a reader was in the way."""

        def checkpoint(connection: sqlite3.Connection) -> bool:
            connection.execute(f"PRAGMA busy_timeout = {_READERS_MS if wait else 0}")
            try:
                (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
                return False
            finally:
                connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
            return not busy

        return self.outside(checkpoint)

    def close(self) -> None:
        """Close every connection, those under way as soon as they are given back."""
        self._connections.close()

    # One transaction

    def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connections.take()
        try:
            connection.execute(begin)
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._connections.discard(connection)
                raise
            self._connections.give(connection)
            raise
        self._connections.give(connection)
        return result

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Repeat an attempt while the file is locked, until the timeout; SQLite's own does not cover every case."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                return attempt()
            except sqlite3.Error as error:
                if not _is_busy(error) or time.monotonic() >= until:
                    what = str(error) or "the database is damaged"
                    raise StorageError(f"{self._path}: {what}{way_out(error)}") from error
            except UnicodeDecodeError as error:
                # SQLite's message quotes a damaged name, and Python cannot read it; 3.10 raises an error without one.
                raise StorageError(f"{self._path}: the database is damaged: {error.object!r}") from error
            except CorruptRecordError as error:
                raise CorruptRecordError(f"{self._path}: {error}") from error
            pause = random.uniform(0.001, 0.02)  # noqa: S311  # no secret, only apart from others
            time.sleep(pause)  # SQLite wakes nobody when a lock is released.


def _is_busy(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
