"""Storages for tests, on a clock that stands still and on the one of their server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from langchain_ttl_history.storage import RedisStorage, SQLiteStorage
from langchain_ttl_history.testing import Clock
from tests.storage.redis_cases import admin_of, close_redis, open_redis
from tests.storage.sqlite_cases import Opens


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opens(tmp_path: Path, clock: Clock) -> Iterator[Opens]:
    """Opens the same SQLite file once more, as another worker does."""
    opened: list[SQLiteStorage] = []

    def open_(name: str = "s.db", **options: Any) -> SQLiteStorage:
        opened.append(SQLiteStorage(tmp_path / name, **{"clock": clock, **options}))
        return opened[-1]

    yield open_
    for storage in opened:
        storage.close()


@pytest.fixture
async def storage(clock: Clock) -> AsyncIterator[RedisStorage]:
    """A storage in Redis."""
    storage = open_redis(clock)
    yield storage
    await storage.aclose()
    close_redis(storage)


@pytest.fixture
async def real() -> AsyncIterator[RedisStorage]:
    """A storage in Redis that goes by its server's clock."""
    storage = open_redis(None)
    yield storage
    await storage.aclose()
    close_redis(storage)


@pytest.fixture
def admin(storage: RedisStorage) -> Iterator[redis.Redis]:
    """Looks into the server of the storage."""
    with admin_of(storage) as admin:
        yield admin
