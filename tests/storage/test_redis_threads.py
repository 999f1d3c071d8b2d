"""Threads, event loops and their clients around one storage on Redis."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio
from langchain_core.messages import HumanMessage

from langchain_ttl_history import SessionBuffer, StorageError
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis.clients import ClientsOfURL
from langchain_ttl_history.storage.types import Query
from tests import servers
from tests.proxy import Proxy
from tests.shared.one_session import KEY
from tests.shared.redis_cases import appended, clients_of


def test_one_storage_serves_threads_and_several_event_loops(server: servers.Server) -> None:
    buffer = SessionBuffer(server.url)

    async def talk(name: str) -> None:
        history = buffer.history("ada", name)
        await asyncio.gather(*(history.aadd_messages([HumanMessage(str(each))]) for each in range(10)))
        assert len(await history.aget_messages()) == 10

    async def alone(name: str) -> None:
        await talk(name)
        await buffer.aclose()

    def say(name: str) -> None:
        for each in range(10):
            buffer.history("ada", name).add_messages([HumanMessage(str(each))])

    async def both() -> None:
        await asyncio.gather(talk("in a loop"), *(asyncio.to_thread(say, name) for name in ("a", "b")))
        # Another loop, while this one runs.
        await asyncio.to_thread(lambda: asyncio.run(alone("in another")))
        await buffer.aclose()

    asyncio.run(both())
    asyncio.run(alone("in a third"))
    assert {each.session_id: each.messages for each in buffer.sessions("ada")} == dict.fromkeys(
        ("in a loop", "a", "b", "in another", "in a third"), 10
    )
    buffer.close()


def _run_and_close(main: Coroutine[Any, Any, None]) -> None:
    """As programs do that are older than `asyncio.run`."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main)
    loop.close()
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("run", [asyncio.run, _run_and_close])
def test_loops_that_are_over_leave_no_connection_behind(server: servers.Server, run: Any) -> None:
    """Jobs that have a loop each, and never close the buffer, would in the end have no connection left."""
    buffer = SessionBuffer(server.url)

    async def talk() -> None:
        histories = [buffer.history("ada", str(each)) for each in range(3)]
        await asyncio.gather(*(each.aadd_messages([HumanMessage("x")]) for each in histories))

    with server.admin() as admin:
        before = len(admin.client_list())
        for _ in range(10):
            run(talk())
        # The server notices an end when it comes to it.
        servers.wait_for(lambda: len(admin.client_list()) < before + 5, "the end of all connections but the last ones")
    asyncio.run(talk())
    gc.collect()
    buffer.close()


def _said_in_four_loops(client: Any) -> None:
    history = SessionBuffer(RedisStorage(client)).history("ada", "s1")

    async def say(text: str, *, closes: bool) -> None:
        try:
            await history.aadd_messages([HumanMessage(text)])
        finally:
            if closes:
                await client.aclose()

    asyncio.run(say("one", closes=True))
    asyncio.run(say("two", closes=False))
    with pytest.raises(StorageError, match=r"another event loop before.*from a URL"):
        asyncio.run(say("three", closes=True))
    asyncio.run(say("four", closes=True))


# The driver does not close the connection of a loop that is over.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("driver", [redis, valkey])
def test_a_client_of_another_loop_says_so_unless_it_was_closed_with_that(server: servers.Server, driver: Any) -> None:
    _said_in_four_loops(getattr(driver.asyncio, driver.__name__.title())(port=server.port))
    gc.collect()
    with server.admin() as admin:
        said = [each.text for each in SessionBuffer(RedisStorage(admin)).history("ada", "s1").messages]
    # The third may have reached the server before its answer could not be read.
    assert [each for each in said if each != "three"] == ["one", "two", "four"]


@pytest.mark.parametrize("made_here", [True, False])
async def test_more_calls_at_once_than_connections_wait_for_one(server: servers.Server, *, made_here: bool) -> None:
    client = redis.asyncio.Redis(port=server.port, max_connections=3)
    storage = RedisStorage(f"{server.url}?max_connections=3") if made_here else RedisStorage(client)
    await asyncio.gather(*(storage.awrite(KEY, appended(b"%d" % number)) for number in range(200)))
    assert len((await storage.aread(KEY, Query(("log",)))).lists["log"]) == 200
    with server.admin() as admin:
        assert len(admin.client_list()) <= 5
    await storage.aclose()
    await client.aclose()


@pytest.mark.parametrize("driver", [redis, valkey])
def test_more_threads_at_once_than_connections_wait_for_one(server: servers.Server, driver: Any) -> None:
    client = getattr(driver, driver.__name__.title())(port=server.port, max_connections=2)
    storage = RedisStorage(client)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: storage.write(KEY, appended(b"%d" % number)), range(100)))
    assert len(storage.read(KEY, Query(("log",))).lists["log"]) == 100
    client.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, TimeoutError, ValueError])
@pytest.mark.parametrize("driver", [redis, valkey])
def test_an_answer_that_nobody_read_is_nobody_elses(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, driver: Any, error: type[BaseException]
) -> None:
    buffer = SessionBuffer(proxy.url.replace("redis", driver.__name__, 1))
    for user in ("alice", "bob"):
        buffer.history(user, "s").add_messages([HumanMessage(f"{user}'s")])
    send = driver.connection.Connection.send_command

    def interrupted(self: Any, *command: Any, **options: Any) -> None:
        send(self, *command, **options)
        raise error  # as a signal's handler may, before the answer is there

    proxy.answers.clear()
    with monkeypatch.context() as patches:
        patches.setattr(driver.connection.Connection, "send_command", interrupted)
        with pytest.raises((error, StorageError)):
            _ = buffer.history("alice", "s").messages
    threading.Timer(0.05, proxy.answers.set).start()
    for _ in range(3):
        assert [message.content for message in buffer.history("bob", "s").messages] == ["bob's"]
    buffer.close()


@pytest.mark.parametrize("is_older", [False, True], ids=["as it is", "as it was"])
@pytest.mark.parametrize("driver", [redis, valkey])
def test_a_call_of_a_blocking_pool_can_be_interrupted(
    server: servers.Server, monkeypatch: pytest.MonkeyPatch, driver: Any, is_older: bool
) -> None:
    class Pool(driver.BlockingConnectionPool):  # type: ignore[misc]  # its class is only known here
        def disconnect(self) -> None:
            """As in redis-py 6 and in valkey-py before 6.1.1."""
            for connection in self._connections:
                connection.disconnect()

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    pool = (Pool if is_older else driver.BlockingConnectionPool)(port=server.port)
    client = getattr(driver, driver.__name__.title())(connection_pool=pool)
    storage = RedisStorage(client)
    storage.write(KEY, appended(b"one"))
    with monkeypatch.context() as patches:
        patches.setattr(driver.connection.Connection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            storage.read(KEY, Query())
    assert len(storage.read(KEY, Query(("log",))).lists["log"]) == 1
    client.close()


def test_a_loop_does_not_wait_for_a_client_that_a_thread_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = ClientsOfURL("redis+cluster://localhost:1")
    begun, go_on = threading.Event(), threading.Event()

    def make(*, asynchronous: bool) -> Any:
        if not asynchronous:
            begun.set()
            go_on.wait(servers.PATIENCE)
        return redis.Redis()

    monkeypatch.setattr(clients.url, "client", make)

    async def main() -> None:
        assert clients.async_client() is clients.async_client()

    with ThreadPoolExecutor(1) as threads:
        made = threads.submit(clients.client)
        assert begun.wait(servers.PATIENCE)
        asyncio.run(main())
        assert not made.done()
        go_on.set()
        assert made.result() is clients.client()


def test_a_client_that_another_thread_closes_in_the_middle_of_a_request_is_an_error(server: servers.Server) -> None:
    storage = RedisStorage(server.url)
    client = clients_of(storage).client()

    def closed(*command: Any, **options: Any) -> Any:
        raise ValueError("I/O operation on closed file")

    client.execute_command = closed
    with pytest.raises(StorageError, match="closed file"):
        storage.read(KEY, Query())
    storage.close()
    assert storage.read(KEY, Query()).generation == 0, "another client is made"
    storage.close()


async def test_a_client_that_was_passed_in_is_not_closed(server: servers.Server) -> None:
    client, async_client = redis.Redis(port=server.port), redis.asyncio.Redis(port=server.port)
    storage = RedisStorage(client, async_client)
    async with SessionBuffer(storage) as buffer:
        await buffer.history("ada", "s1").aadd_messages([HumanMessage("hello")])
        assert len(buffer.history("ada", "s1").messages) == 1
    storage.close()
    await storage.aclose()
    assert len(client.connection_pool._available_connections) == 1
    assert len(async_client.connection_pool._available_connections) == 1
    client.close()
    await async_client.aclose()
