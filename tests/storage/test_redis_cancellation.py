"""A task that is cancelled ends, even if the driver swallows the cancellation, and only if it was cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio

from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.types import Query
from tests import servers
from tests.shared.one_session import KEY
from tests.shared.redis_cases import appended

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count cancellations")


class Swallowing(redis.asyncio.Redis):
    """Takes no notice of being cancelled while it sends, as wait_for() of Python 3.11 at times."""

    sending: asyncio.Event | None = None
    """Set when it sends; None if it takes notice."""
    failure: Exception | None = None
    """What it fails with after a cancellation."""

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        if self.sending is not None:
            self.sending.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(servers.PATIENCE)
            if self.failure is not None:
                raise self.failure
        self.sending = None
        return await super().execute_command(*command, **options)


@pytest.fixture
async def client(server: servers.Server) -> AsyncIterator[Swallowing]:
    client = Swallowing(port=server.port)
    yield client
    await client.aclose()


@pytest.fixture
async def storage(client: Swallowing) -> RedisStorage:
    storage = RedisStorage(client)
    await storage.awrite(KEY, appended(b"one"))
    return storage


async def begun(client: Swallowing, storage: RedisStorage, after: Callable[[], None]) -> asyncio.Task[None]:
    """A task that is sending a read, and then does something."""

    async def work() -> None:
        await storage.aread(KEY, Query(("log",)))
        after()

    client.sending = sending = asyncio.Event()
    task = asyncio.create_task(work())
    await sending.wait()
    return task


async def test_a_cancelled_task_does_not_go_on_if_the_driver_swallowed_the_cancellation(
    client: Swallowing, storage: RedisStorage
) -> None:
    went_on: list[int] = []
    task = await begun(client, storage, lambda: went_on.append(1))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert went_on == []


async def test_a_cancelled_task_gets_no_error_of_the_server_that_it_could_go_on_from(
    client: Swallowing, storage: RedisStorage
) -> None:
    client.failure = redis.ConnectionError("gone")
    task = await begun(client, storage, lambda: None)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_time_limit_ends_what_it_limits_and_not_the_task(client: Swallowing, storage: RedisStorage) -> None:
    client.sending = asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await storage.aread(KEY, Query(("log",)))
    client.sending, client.failure = asyncio.Event(), redis.ConnectionError("gone")  # It ends without another step.
    with anyio.move_on_after(0.01) as scope:
        await storage.aread(KEY, Query(("log",)))
    assert scope.cancelled_caught
    client.sending = None
    assert (await storage.aread(KEY, Query(("log",)))).lists["log"]


async def test_a_task_that_was_cancelled_may_ask_while_it_tidies_up(storage: RedisStorage) -> None:
    found: list[bytes] = []

    async def work() -> None:
        try:
            await asyncio.sleep(servers.PATIENCE)
        finally:
            found.extend(entry.payload for entry in (await storage.aread(KEY, Query(("log",)))).lists["log"])

    task = asyncio.create_task(work())
    await asyncio.sleep(0)  # lets the task begin
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert found == [b"one"]
