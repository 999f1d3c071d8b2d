"""Connections to one SQLite file: opened, kept, lent for one transaction, and never carried into a fork."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from langchain_ttl_history.errors import CorruptRecordError, StorageError
from langchain_ttl_history.fork_safety import watch
from langchain_ttl_history.storage.sqlite.opening import MEMORY, make_file, open_connection

__all__ = ["Connections"]

T = TypeVar("T")

# How many idle connections are kept; more are open only while more threads read at once.
_KEPT = 8
# How long truncating the file beside the database waits for readers, in milliseconds.
_READERS_MS = 100

# Connections that other threads of the parent had not given back when it forked. Closing a child's copy of one could
# remove the write-ahead log while the parent uses it, so they are kept for good.
_inherited: list[sqlite3.Connection] = []


class Connections:
    """The connections of one storage.

    Args:
        path: The file, or `MEMORY`.
        durable: Whether each write waits until it is on the disk.
        timeout: How long a transaction waits for others, in seconds.
    """

    def __init__(self, path: str, *, durable: bool, timeout: float) -> None:
        self.path = path
        self._durable = durable
        self._timeout = timeout
        self._in_memory = path == MEMORY
        self._idle: deque[sqlite3.Connection] = deque()
        # An RLock, since it knows its owner: an exception from a signal handler may come right after it was acquired.
        self._writer = threading.RLock()
        # Held to lend a connection, and while the process forks.
        self._lending = threading.Lock()
        self._lent_out: set[sqlite3.Connection] = set()
        self._closed = False
        self._finalizer = weakref.finalize(self, _close, self._idle)
        if not self._in_memory:
            make_file(Path(path))
        watch(self)
        first = self._patiently(lambda: open_connection(path, durable=durable, timeout=timeout, first=True))
        # A database in memory lives in its one connection, which must never be lost.
        self._only = first if self._in_memory else None
        self._file = None if self._in_memory else _identity(path)
        self._give(first)

    # Forks

    def before_fork(self) -> None:
        """Pause while the process forks, and take no connection into the child.

        In a child, SQLite believes that a copied connection holds the locks of the parent's, which it does not. If it
        were used, or just kept open, another process could take itself for the last user of the file, and remove the
        write-ahead log while the child uses it.
        """
        until = time.monotonic() + self._timeout
        self._parent = os.getpid()
        self._stands = self._writer.acquire(timeout=self._timeout)
        self._lending.acquire()
        while self._lent_out and time.monotonic() < until:
            time.sleep(0.001)  # Reading threads give their connections back without taking `_lending`.
        if not self._in_memory:
            while self._idle:
                self._idle.pop().close()

    def after_fork(self) -> None:
        """Resume after a fork, in the parent and in the child."""
        self._lending.release()
        if self._stands:
            self._writer.release()
        elif os.getpid() != self._parent:
            self._writer = threading.RLock()  # The thread that held it does not exist in the child.
        if os.getpid() != self._parent and self._lent_out:
            _inherited.extend(self._lent_out)
            self._lent_out = set()

    # Transactions

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work within one transaction that only reads.

        Raises:
            StorageError: SQLite refused.
        """
        if self._in_memory:
            return self.write(work)
        return self._patiently(lambda: self._transaction("BEGIN", work))

    def line_up(self) -> None:
        """Wait for this process's turn to write, which ends with `leave` however this ends.

        Raises:
            StorageError: Another thread kept it for longer than the timeout, or the file is gone.
        """
        # Threads of one process queue here; SQLite would make them poll.
        if not self._writer.acquire(timeout=self._timeout):
            raise StorageError(f"{self.path} was being written to for more than {self._timeout:g} s")
        self._check_file()

    def leave(self) -> None:
        """End this process's turn to write, whether or not `line_up` got it."""
        # After an interrupt the caller may not know whether it holds the lock; `threading.Condition` asks so, too.
        while self._writer._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  # it has no other way to tell
            self._writer.release()

    def _check_file(self) -> None:
        """Refuse to write to a file that is no longer at its path: others would not find what is written."""
        if self._file is not None and _identity(self.path) != self._file:
            raise StorageError(
                f"{self.path} is no longer the file that was opened: it was moved, deleted or replaced meanwhile; "
                "put it back, or open the storage anew"
            )

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
        return self._patiently(lambda: self._lent(lambda lent: lent.execute(statement, values).rowcount == 1))

    def outside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work outside of any transaction.

        Raises:
            StorageError: SQLite refused.
        """
        if not self._in_memory:
            return self._patiently(lambda: self._lent(work))
        try:
            self.line_up()
            return self._patiently(lambda: self._lent(work))
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
        self._closed = True
        self._finalizer()

    # One transaction

    def _lent(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._take()
        try:
            return work(connection)
        finally:
            self._give(connection)

    def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._take()
        try:
            connection.execute(begin)
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                connection.close()
                self._lent_out.discard(connection)
                raise
            self._give(connection)
            raise
        self._give(connection)
        return result

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Repeat an attempt while the file is locked, until the timeout; SQLite's own does not cover every case."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                return attempt()
            except sqlite3.Error as error:
                if not _is_busy(error) or time.monotonic() >= until:
                    raise StorageError(f"{self.path}: {str(error) or 'the database is damaged'}") from error
            except UnicodeDecodeError as error:
                # SQLite's message quotes a damaged name, and Python cannot read it; 3.10 raises an error without one.
                raise StorageError(f"{self.path}: the database is damaged: {error.object!r}") from error
            except CorruptRecordError as error:
                raise CorruptRecordError(f"{self.path}: {error}") from error
            pause = random.uniform(0.001, 0.02)  # noqa: S311  # no secret, only apart from others
            time.sleep(pause)  # SQLite wakes nobody when a lock is released.

    # Connections

    def _take(self) -> sqlite3.Connection:
        if self._closed:
            raise StorageError(f"the storage on {self.path} is closed")
        with self._lending:
            if self._only is not None:
                self._idle.clear()
                connection = self._only
            else:
                try:
                    connection = self._idle.pop()
                except IndexError:
                    self._check_file()
                    connection = open_connection(self.path, durable=self._durable, timeout=self._timeout)
            self._lent_out.add(connection)
        return connection

    def _give(self, connection: sqlite3.Connection) -> None:
        if self._closed or len(self._idle) >= _KEPT:
            connection.close()
        else:
            self._idle.append(connection)
        self._lent_out.discard(connection)


def _identity(path: str) -> tuple[int, int] | None:
    """Which file a path leads to; None if to none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # every write asks, and a `Path` takes twice as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _close(idle: deque[sqlite3.Connection]) -> None:
    while idle:
        idle.pop().close()


def _is_busy(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
