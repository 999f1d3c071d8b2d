"""Connections to one SQLite file: opened, kept, lent to one thread at a time, and never carried into a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from langchain_ttl_history.errors import StorageError
from langchain_ttl_history.storage.sqlite.opening import MEMORY, make_file, open_connection

__all__ = ["Connections"]

T = TypeVar("T")

# How many idle connections are kept; more are open only while more threads read at once.
_KEPT = 8

# Connections that other threads of the parent had not given back when it forked. Closing a child's copy of one could
# remove the write-ahead log while the parent uses it, so they are kept for good.
_inherited: list[sqlite3.Connection] = []


class Connections:
    """The connections of one storage.

    Args:
        path: The file, or `MEMORY`.
        durable: Whether each write waits until it is on the disk.
        timeout: How long SQLite itself waits for a lock, in seconds.
    """

    def __init__(self, path: str, *, durable: bool, timeout: float) -> None:
        self.path = path
        self.in_memory: bool = path == MEMORY
        self._durable = durable
        self._timeout = timeout
        self._idle: deque[sqlite3.Connection] = deque()
        # Held to lend a connection, and while the process forks.
        self._lending = threading.Lock()
        self._paused = False
        self._lent_out: set[sqlite3.Connection] = set()
        # Those of them that a fork waited for in vain. If an exception from a signal handler came just before one was
        # given back, it never is, and each fork would wait again.
        self._overdue: set[sqlite3.Connection] = set()
        # A database in memory lives in its one connection, which must never be lost.
        self._only: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._closed = False
        self._finalizer = weakref.finalize(self, _close, self._idle)
        if not self.in_memory:
            make_file(Path(path))

    def open_first(self) -> None:
        """Open the first connection, which makes the tables where they are not there yet."""
        first = open_connection(self.path, durable=self._durable, timeout=self._timeout, first=True)
        if self.in_memory:
            self._only = first
        else:
            self._file = _identity(self.path)
        self.give(first)

    def check_file(self) -> None:
        """Refuse a file that is no longer at its path: others find neither what is written nor what is deleted in it.

        Raises:
            StorageError: It was moved, deleted or replaced.
        """
        if self._file is not None and _identity(self.path) != self._file:
            raise StorageError(
                f"{self.path} is no longer the file that was opened: it was moved, deleted or replaced meanwhile; "
                "put it back, or open the storage anew"
            )

    # Lending

    def lend(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work with a connection."""
        connection = self.take()
        try:
            return work(connection)
        finally:
            self.give(connection)

    def take(self) -> sqlite3.Connection:
        """A connection for one thread, which ends with `give` or `discard`.

        Raises:
            StorageError: The storage is closed, or the file is gone.
        """
        if self._closed:
            raise StorageError(f"the storage on {self.path} is closed, and stays so; make a new SessionBuffer")
        with self._lending:
            if self._only is not None:
                self._idle.clear()
                connection = self._only
            else:
                try:
                    connection = self._idle.pop()
                except IndexError:
                    self.check_file()
                    connection = open_connection(self.path, durable=self._durable, timeout=self._timeout)
            self._overdue.discard(connection)
            self._lent_out.add(connection)
        return connection

    def give(self, connection: sqlite3.Connection) -> None:
        """Take a connection back."""
        if self._closed or len(self._idle) >= _KEPT:
            connection.close()
        else:
            self._idle.append(connection)
            if self._closed:  # By another thread, after it was looked at above.
                _close(self._idle)
        self._lent_out.discard(connection)

    def discard(self, connection: sqlite3.Connection) -> None:
        """Close a connection that is of no more use."""
        connection.close()
        self._lent_out.discard(connection)

    def close(self) -> None:
        """Close every connection, those under way as soon as they are given back."""
        self._closed = True
        self._finalizer()

    # Forks

    def pause(self, until: float) -> None:
        """Lend no connection while the process forks, and take none into the child.

        Waits until a time for connections that are lent, but not for one that an earlier fork waited for in vain.

        In a child, SQLite believes that a copied connection holds the locks of the parent's, which it does not. If it
        were used, or just kept open, another process could take itself for the last user of the file, and remove the
        write-ahead log while the child uses it.
        """
        self._paused = self._lending.acquire()
        while not self._lent_out <= self._overdue and time.monotonic() < until:
            time.sleep(0.001)  # Reading threads give their connections back without taking `_lending`.
        self._overdue = set(self._lent_out)
        if not self.in_memory:
            while self._idle:
                self._idle.pop().close()

    def resume(self, *, in_child: bool) -> None:
        """Lend again after a fork."""
        if self._paused:
            self._paused = False
            self._lending.release()
        if in_child:
            _inherited.extend(self._lent_out)
            self._lent_out, self._overdue = set(), set()
            if not self.in_memory:
                # `pause` did not close these: it was interrupted while it waited.
                _inherited.extend(self._idle)
                self._idle.clear()


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
