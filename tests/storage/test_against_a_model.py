"""A storage behaves as a naive model of dicts does, whatever is done to it in whatever order."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, precondition, rule

from langchain_ttl_history.storage import MemoryStorage, SQLiteStorage
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.memory_session import MemorySession
from langchain_ttl_history.storage.sqlite import appends, mirror, segments, tail
from langchain_ttl_history.storage.sqlite import mirrored_sessions as verbs
from langchain_ttl_history.storage.types import Query
from tests.shared.sqlite_cases import open_sqlite, path_of, remembered
from tests.storage.model import Model, anybody
from tests.storage.naive_session import Session


def assert_references_counted(session: MemorySession) -> None:
    """All that is counted of references while they come and go is what there is in the end."""
    held = [*session.blobs.values(), *(entry for entries in session.lists.values() for entry in entries)]
    assert session.references == sum(len(each.refs) for each in held)


class MemoryModel(Model):
    @invariant()
    def usage_is_what_the_sessions_cost(self) -> None:
        (storage,) = self.workers
        assert isinstance(storage, MemoryStorage)
        assert storage.usage().bytes == sum(each.cost for each in storage._sessions.values())
        for session in storage._sessions.values():
            assert_references_counted(session)


class SQLiteModel(Model):
    """Two workers on one file take turns."""

    lateness = 0.1

    def opened(self) -> list[Storage]:
        first = open_sqlite(self.clock)
        self.folder = path_of(first).parent
        return [first, SQLiteStorage(path_of(first), clock=self.clock)]

    def least_position(self, session: Session) -> int:
        return int((self.clock.now - session.created) * 100_000)

    def teardown(self) -> None:
        for storage in self.workers:
            storage.close()
        shutil.rmtree(self.folder)


class SQLiteSmallModel(SQLiteModel):
    """Segments are full, payloads large and memories forgotten after a few bytes."""

    def opened(self) -> list[Storage]:
        self.patches = pytest.MonkeyPatch()
        for module in (appends, segments):
            self.patches.setattr(module, "LARGE", 4)
            self.patches.setattr(module, "OUTDATED", 2)
        for module in (segments, tail):
            self.patches.setattr(module, "SEGMENT", 150)
        self.patches.setattr(verbs, "_LOOKS", 5)
        self.patches.setattr(verbs, "_CONTESTED", 2)
        self.patches.setattr(mirror, "_EACH", 10_000)
        return super().opened()

    def teardown(self) -> None:
        super().teardown()
        self.patches.undo()

    @precondition(anybody)
    @rule()
    def what_is_remembered_is_what_is_stored(self) -> None:
        for storage in self.workers:
            assert isinstance(storage, SQLiteStorage)
            for key, known in remembered(storage).items():
                assert_references_counted(known.session)
                session = self.live(key)
                if session is None:
                    continue
                onlooker = SQLiteStorage(path_of(storage), clock=self.clock)
                found = onlooker.read(key, Query(outline=True))
                (read,) = remembered(onlooker).values()
                if known.row == read.row:
                    for attribute in ("counts", "homes", "ghosts", "large"):
                        assert getattr(known, attribute) == getattr(read, attribute), attribute
                    assert known.tail.names == read.tail.names
                    assert known.tail.room == read.tail.room
                    assert known.tail.content == read.tail.content
                    assert known.session.weights == read.session.weights
                onlooker.close()
                assert found.bytes == session.bytes


class TestMemoryAgainstAModel(MemoryModel.TestCase):
    settings = settings(max_examples=120, stateful_step_count=40)


class TestSQLiteAgainstAModel(SQLiteModel.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40)


class TestSQLiteInSmallAgainstAModel(SQLiteSmallModel.TestCase):
    settings = settings(max_examples=35, stateful_step_count=40)
