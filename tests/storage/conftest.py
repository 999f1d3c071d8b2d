"""Storages for tests, on a clock that stands still or on their server's, and servers that a test may break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from langchain_ttl_history.storage import RedisStorage, SQLiteStorage
from langchain_ttl_history.testing import Clock
from tests import servers
from tests.proxy import Proxy, proxy_to
from tests.shared.redis_cases import admin_of, another_worker, close_redis, kind_here, open_redis
from tests.shared.sqlite_cases import Opens


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
def another(storage: RedisStorage) -> Iterator[Callable[[], RedisStorage]]:
    """Opens the storage in Redis once more, as another worker does."""
    opened: list[RedisStorage] = []

    def open_() -> RedisStorage:
        opened.append(another_worker(storage))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


@pytest.fixture
def admin(storage: RedisStorage) -> Iterator[redis.Redis]:
    """Looks into the server of the storage."""
    with admin_of(storage) as admin:
        yield admin


@pytest.fixture
def server() -> Iterator[servers.Server]:
    """A server of this test's own."""
    server = servers.Server(kind_here()).start()
    yield server
    server.remove()


@pytest.fixture
def proxy(server: servers.Server) -> Iterator[Proxy]:
    with proxy_to(server.port) as proxy:
        yield proxy


@pytest.fixture
async def open_() -> AsyncIterator[Callable[[str], RedisStorage]]:
    """Opens storages that are closed at the end."""
    opened: list[RedisStorage] = []

    def open_(url: str) -> RedisStorage:
        opened.append(RedisStorage(url))
        return opened[-1]

    yield open_
    for each in opened:
        await each.aclose()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a verb, or its async twin."""

    async def call(storage: Any, verb: str, *arguments: Any) -> Any:
        if request.param == "async":
            return await getattr(storage, f"a{verb}")(*arguments)
        return await asyncio.to_thread(getattr(storage, verb), *arguments)

    return call
