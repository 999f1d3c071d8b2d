"""SQLite keeps the storage contract."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.types import Blob, Change, Entry, Query
from langchain_ttl_history.testing import StorageContract
from tests.shared.one_session import LEASE
from tests.shared.sqlite_cases import Opens, lent


class TestSQLite(StorageContract):
    lateness = 0.1

    def make(self, clock: Callable[[], float]) -> Storage:
        self.folder = tempfile.TemporaryDirectory()
        return SQLiteStorage(Path(self.folder.name) / "s.db", clock=clock)

    def make_broken(self, clock: Callable[[], float]) -> Storage:
        path = Path(self.folder.name) / "broken.db"
        broken = SQLiteStorage(path, clock=clock)
        with lent(broken) as connection:
            for table in ("state", "sessions", "segments", "tombstones"):
                connection.execute(f"DROP TABLE {table}")
        return broken

    def teardown_method(self) -> None:
        super().teardown_method()
        self.folder.cleanup()


class TestSQLiteAsync(TestSQLite):
    asynchronous = True


class TestSQLiteWithoutMemory(TestSQLite):
    """Each verb is another worker's, who remembers nothing: all that it knows stands in the file."""

    async def call(self, verb: str, *arguments: Any, of: Storage | None = None) -> Any:
        self.storage.close()
        self.storage = SQLiteStorage(Path(self.folder.name) / "s.db", clock=self.clock)
        return await super().call(verb, *arguments, of=of)


class TestSQLiteInMemory(StorageContract):
    lateness = 0.1

    def make(self, clock: Callable[[], float]) -> Storage:
        return SQLiteStorage(":memory:", clock=clock)


class TestSQLiteInMemoryAsync(TestSQLiteInMemory):
    asynchronous = True


def test_what_it_is_given_need_not_be_valid_unicode(opens: Opens) -> None:
    key = SessionKey("\ud800", "s\udfff")
    blob = Blob(b"", ("m\ud800",), 3, ("w\udc00",))
    opens().write(
        key, Change(LEASE, blobs={"c\ud800": blob, "m\ud800": Blob(b"1")}, append=[("w\udc00", b"", ("m\ud800",))])
    )
    found = opens().read(key, Query(("c\ud800",), ("m", "w")))
    assert found.blobs == {"c\ud800": blob, "m\ud800": Blob(b"1")}
    assert list(found.lists["w\udc00"]) == [Entry(1, b"", ("m\ud800",))]
    assert opens().sessions(key.user_id)[0] == [key]
