"""SQLite keeps the storage contract."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.testing import StorageContract


class TestSQLite(StorageContract):
    slack = 0.1

    def make(self, clock: Callable[[], float]) -> Storage:
        self.folder = tempfile.TemporaryDirectory()
        return SQLiteStorage(Path(self.folder.name) / "s.db", clock=clock)

    def make_broken(self, clock: Callable[[], float]) -> Storage:
        path = Path(self.folder.name) / "broken.db"
        broken = SQLiteStorage(path, clock=clock)
        broken.close()
        broken = SQLiteStorage(path, clock=clock)
        with broken._connections._take() as connection:
            for table in ("state", "sessions", "items", "tombstones"):
                connection.execute(f"DROP TABLE {table}")
        return broken

    def teardown_method(self) -> None:
        super().teardown_method()
        self.folder.cleanup()


class TestSQLiteAsync(TestSQLite):
    asynchronous = True


class TestSQLiteInMemory(StorageContract):
    slack = 0.1

    def make(self, clock: Callable[[], float]) -> Storage:
        return SQLiteStorage(":memory:", clock=clock)


class TestSQLiteInMemoryAsync(TestSQLiteInMemory):
    asynchronous = True
