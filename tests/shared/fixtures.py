"""Every storage under test, in one dict, and the fixtures that open it in both colours."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import pytest

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.storage import MemoryStorage, RedisStorage
from langchain_ttl_history.testing import Clock
from tests.shared.contents import everything_in
from tests.shared.redis_cases import close_redis, contents, open_cluster, open_redis
from tests.shared.sessions import Colour, Session
from tests.shared.sqlite_cases import bytes_of_sqlite, close_sqlite, open_sqlite


@dataclass(frozen=True)
class StorageCase:
    """How to open one kind of storage for a test and how to look into it."""

    open: Callable[[Clock], Any]
    contents: Callable[[Any], list[bytes]]
    """Every string and byte string it holds."""
    lateness: float = 0.0
    """By which part of `idle_ttl` a session may live too long."""
    close: Callable[[Any], None] = lambda storage: None
    aclose: Callable[[Any], Awaitable[None]] | None = None
    """Closes it where there is a loop to do it in."""

    async def closed(self, storage: Any) -> None:
        """Close it, in this loop."""
        if self.aclose is not None:
            await self.aclose(storage)
        self.close(storage)


STORAGES: dict[str, StorageCase] = {
    "memory": StorageCase(
        open=lambda clock: MemoryStorage(clock=clock),
        contents=everything_in,
    ),
    "sqlite": StorageCase(
        open=open_sqlite,
        contents=bytes_of_sqlite,
        lateness=0.1,
        close=close_sqlite,
    ),
    "redis": StorageCase(
        open=open_redis, contents=contents, lateness=0.1, close=close_redis, aclose=RedisStorage.aclose
    ),
}

# The same over every other server. The conformance suite runs over these as well, everything else
# where TEST_SERVERS=all says so.
OTHERS: dict[str, StorageCase] = {
    name: StorageCase(open=open_, contents=contents, lateness=0.1, close=close_redis, aclose=RedisStorage.aclose)
    for name, open_ in {
        "redis-7": partial(open_redis, kind="redis-7"),
        "valkey": partial(open_redis, kind="valkey"),
        "redis-cluster": open_cluster,
        "valkey-cluster": partial(open_cluster, kind="valkey"),
    }.items()
}
if os.environ.get("TEST_SERVERS") == "all":
    STORAGES |= OTHERS


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until the test moves it."""
    return Clock()


@pytest.fixture(params=list(STORAGES))
def case(request: pytest.FixtureRequest) -> StorageCase:
    """Each kind of storage in turn."""
    return STORAGES[request.param]


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Colour:
    """Sync and async in turn."""
    return Colour(request.param)


@pytest.fixture
async def storage(case: StorageCase, clock: Clock) -> AsyncIterator[Any]:
    """An empty storage of each kind in turn; under `tests/storage` it is one in Redis."""
    storage = case.open(clock)
    yield storage
    await case.closed(storage)


@pytest.fixture
def open_buffer(storage: Any) -> Callable[..., SessionBuffer]:
    """Opens a buffer over the storage: one more worker. Keywords of `Retention` may be mixed in."""

    def open_(**options: Any) -> SessionBuffer:
        rules = {each.name: options.pop(each.name) for each in fields(Retention) if each.name in options}
        return SessionBuffer(storage, retention=Retention(**rules), **options)

    return open_


@pytest.fixture
def buffer(open_buffer: Callable[..., SessionBuffer]) -> SessionBuffer:
    """A buffer with the default retention over the storage."""
    return open_buffer()


@pytest.fixture
def session(buffer: SessionBuffer, colour: Colour) -> Session:
    """The session s1 of alice."""
    return Session(buffer, colour)


@pytest.fixture
def session_with(open_buffer: Callable[..., SessionBuffer], colour: Colour) -> Callable[..., Session]:
    """The session s1 of alice under another retention."""
    return lambda **options: Session(open_buffer(**options), colour)
