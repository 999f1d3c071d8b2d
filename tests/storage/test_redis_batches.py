"""What the tasks of one event loop ask a Redis server at the same time goes together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio

from langchain_ttl_history import CorruptRecordError, StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis import requests as requests_module
from langchain_ttl_history.storage.redis.batches import Batches
from langchain_ttl_history.storage.types import Change, Query, Status
from tests import servers
from tests.proxy import Proxy
from tests.shared.one_session import LEASE
from tests.shared.redis_cases import assert_sound, clients_of, keys_of, sent

KEYS = [SessionKey("ada", f"s{number}") for number in range(20)]
LOG = Query(("log",))


def appended(text: str) -> Change:
    return Change(LEASE, append=[("log", text.encode(), ())])


async def told(storage: RedisStorage, key: SessionKey) -> list[str]:
    found = await storage.aread(key, LOG)
    return [entry.payload.decode() for entry in found.lists.get("log", ())]


@pytest.fixture
async def storage(server: servers.Server) -> AsyncIterator[RedisStorage]:
    storage = RedisStorage(server.url)
    yield storage
    await storage.aclose()


@pytest.fixture(params=["redis", "valkey"])
async def through(proxy: Proxy, request: pytest.FixtureRequest) -> AsyncIterator[RedisStorage]:
    """A storage behind the proxy, by either driver, on a server that knows the scripts."""
    storage = RedisStorage(proxy.url.replace("redis", request.param, 1))
    for text in ("one", "two"):
        await storage.awrite(SessionKey("eve", "s"), appended(text))
    await asyncio.gather(*(told(storage, key) for key in KEYS[:3]))  # From here on the loop is busy.
    yield storage
    await storage.aclose()


# --- on a server ----------------------------------------------------------------------------------


CLIENTS: dict[str, Callable[[int], Any]] = {
    "redis": lambda port: redis.asyncio.Redis(port=port),
    "redis, decoding, RESP2": lambda port: redis.asyncio.Redis(port=port, protocol=2, decode_responses=True),
    "redis, decoding, RESP3": lambda port: redis.asyncio.Redis(port=port, protocol=3, decode_responses=True),
    "redis, one connection": lambda port: redis.asyncio.Redis(port=port, single_connection_client=True),
    "redis, few connections": lambda port: redis.asyncio.Redis(port=port, max_connections=2),
    "valkey": lambda port: valkey.asyncio.Valkey(port=port),
    "valkey, decoding, RESP3": lambda port: valkey.asyncio.Valkey(port=port, protocol=3, decode_responses=True),
}


@pytest.mark.parametrize("made", CLIENTS)
async def test_each_of_many_tasks_gets_the_answer_to_its_own_request(server: servers.Server, made: str) -> None:
    client = CLIENTS[made](server.port)
    storage = RedisStorage(client)

    async def talk(key: SessionKey) -> None:
        last = 0
        for turn in range(1, 6):
            outcome = await storage.awrite(key, appended(f"{key.session_id} {turn} \xff\U0001f642"))
            assert outcome.status is Status.STORED
            assert outcome.position > last
            last = outcome.position
            assert await told(storage, key) == [
                f"{key.session_id} {each} \xff\U0001f642" for each in range(1, turn + 1)
            ]

    await asyncio.gather(*map(talk, KEYS))
    await storage.aclose()
    await client.aclose()
    assert_sound(server)


async def test_requests_of_one_moment_share_a_connection_and_a_round_trip(
    server: servers.Server, storage: RedisStorage
) -> None:
    await asyncio.gather(*(told(storage, key) for key in KEYS))
    with server.admin() as admin:
        before = admin.info("stats")
        await asyncio.gather(*(told(storage, key) for key in KEYS))
        after = admin.info("stats")
    # One of the admin's own; the rest of what many bytes take.
    assert after["total_reads_processed"] - before["total_reads_processed"] < 1 + len(KEYS) // 4
    assert after["total_connections_received"] == before["total_connections_received"]


async def test_a_server_that_forgot_a_script_is_told_it_by_those_who_need_it(
    server: servers.Server, storage: RedisStorage
) -> None:
    await asyncio.gather(*(storage.awrite(key, appended("one")) for key in KEYS[:3]))
    with server.admin() as admin:
        admin.script_flush()
        await told(storage, KEYS[0])
        admin.config_resetstat()
        texts, (deleted, _), listed = await asyncio.gather(
            asyncio.gather(*(told(storage, key) for key in KEYS[:2])),
            asyncio.gather(storage.adelete(*KEYS[2], 60.0), storage.adelete(*KEYS[3], 60.0)),
            storage.asessions("eve"),
        )
        stats = admin.info("commandstats")
    assert (texts, deleted, listed) == ([["one"], ["one"]], 1, ([], None))
    assert (stats["cmdstat_evalsha"]["calls"], stats["cmdstat_eval"]["calls"]) == (5, 3)


async def test_an_error_is_that_of_the_request_that_it_answers(server: servers.Server, storage: RedisStorage) -> None:
    await asyncio.gather(*(storage.awrite(key, appended("one")) for key in KEYS[:3]))
    _, session = keys_of(storage, KEYS[1])
    with server.admin() as admin:
        admin.set(session, "no session")
    found = await asyncio.gather(*(told(storage, key) for key in KEYS[:3]), return_exceptions=True)
    assert (found[0], found[2]) == (["one"], ["one"])
    assert isinstance(found[1], CorruptRecordError)
    assert session.decode() in str(found[1])


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_connection_that_breaks_once_under_a_batch_is_not_noticed_and_nothing_is_done_twice(
    server: servers.Server, proxy: Proxy, through: RedisStorage, cut: str
) -> None:
    proxy.cut, proxy.times = cut, 1
    outcomes = await asyncio.gather(*(through.awrite(KEYS[0], appended(f"{number}")) for number in range(10)))
    assert proxy.times == 0
    (entries,) = (await through.aread(KEYS[0], Query(("log",)))).lists.values()
    assert sorted(outcome.position for outcome in outcomes) == [entry.position for entry in entries]
    assert sorted(await told(through, KEYS[0])) == [f"{number}" for number in range(10)]
    assert_sound(server)


async def test_a_connection_that_keeps_breaking_is_an_error_for_all_in_the_batch(
    server: servers.Server, proxy: Proxy, through: RedisStorage
) -> None:
    proxy.cut, proxy.times = "after", 1_000
    refused = await asyncio.gather(*(through.awrite(key, appended("one")) for key in KEYS[:5]), return_exceptions=True)
    for error in refused:
        assert isinstance(error, StorageError)
        assert isinstance(error.__cause__, (redis.ConnectionError, valkey.ConnectionError))
    proxy.times = 0
    assert [await told(through, key) for key in KEYS[:5]] == [["one"]] * 5
    assert_sound(server)


async def _held(proxy: Proxy, through: RedisStorage, keys: Sequence[SessionKey]) -> list[asyncio.Task[Any]]:
    """Writes that are sent, and whose answers wait in the proxy."""
    proxy.answers.clear()
    tasks = [asyncio.create_task(through.awrite(key, appended(key.session_id))) for key in keys]
    await asyncio.to_thread(proxy.waiting.wait, servers.PATIENCE)
    await sent()
    return tasks


async def test_a_task_that_is_cancelled_takes_nothing_from_the_others_of_its_batch(
    server: servers.Server, proxy: Proxy, through: RedisStorage
) -> None:
    with server.admin() as admin:
        connections = admin.info("stats")["total_connections_received"]
        tasks = await _held(proxy, through, KEYS)
        for task in tasks[::3]:
            task.cancel()
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert done == set(tasks[::3])
        assert len(waiting) == len(tasks) - len(done)
        proxy.answers.set()
        for task in waiting:
            assert (await task).status is Status.STORED
        assert await asyncio.gather(*(told(through, key) for key in KEYS)) == [[key.session_id] for key in KEYS]
        assert admin.info("stats")["total_connections_received"] == connections
    assert_sound(server)


async def test_a_batch_that_nobody_waits_for_gives_its_connection_back_and_leaves_nothing_behind(
    proxy: Proxy, through: RedisStorage
) -> None:
    tasks = await _held(proxy, through, KEYS)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, late = await asyncio.wait(left, timeout=servers.PATIENCE)
        assert not late
    assert not clients_of(through).async_client().connection_pool._in_use_connections
    proxy.answers.set()
    assert await asyncio.gather(*(told(through, key) for key in KEYS)) == [[key.session_id] for key in KEYS]


async def test_nothing_is_under_way_in_vain_once_a_storage_is_closed() -> None:
    class Deaf(redis.asyncio.Redis):
        """Takes no notice when it is first cancelled, like wait_for() of Python 3.11 at times."""

        async def execute_command(self, *command: Any, **options: Any) -> Any:
            for _ in range(2):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)  # until it is cancelled
            raise asyncio.CancelledError

    client = Deaf()
    storage = RedisStorage(client)
    tasks = [asyncio.create_task(told(storage, KEYS[0])) for _ in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)  # lets the tasks go on
    for _ in range(2):  # One of them asks by itself.
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)  # lets the tasks go on
    await asyncio.wait(tasks)
    assert len(asyncio.all_tasks()) == 2
    await storage.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await client.aclose()


async def test_a_storage_that_was_closed_asks_by_a_new_client(storage: RedisStorage) -> None:
    await asyncio.gather(*(told(storage, key) for key in KEYS))
    pool = clients_of(storage).async_client().connection_pool
    await storage.aclose()
    await asyncio.gather(*(told(storage, key) for key in KEYS))
    assert clients_of(storage).async_client().connection_pool is not pool
    assert not any(connection.is_connected for connection in pool._available_connections)


async def test_a_request_that_is_sent_again_after_much_else_is_not_done_twice(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["again...", *(f"{number:08}" for number in range(63)), "again..."])
    monkeypatch.setattr(requests_module, "request_id", lambda: next(ids))
    said = ["first", *(f"{number}" for number in range(63))]
    outcomes = [await storage.awrite(KEYS[0], appended(text)) for text in said]
    again = await storage.awrite(KEYS[0], appended("first"))
    assert (again.status, again.position) == (Status.STORED, outcomes[0].position)
    assert await told(storage, KEYS[0]) == said


async def test_each_loop_sends_its_own(server: servers.Server, storage: RedisStorage) -> None:
    async def talk(number: int) -> list[list[str]]:
        await asyncio.gather(*(storage.awrite(key, appended(f"{number}")) for key in KEYS))
        found = await asyncio.gather(*(told(storage, key) for key in KEYS))
        await storage.aclose()
        return found

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, talk(number)) for number in range(3)))
    for texts in await asyncio.gather(*(told(storage, key) for key in KEYS)):
        assert sorted(texts) == ["0", "1", "2"]


# --- without one ----------------------------------------------------------------------------------


class Recorder:
    """A client that answers a command with its last part, and remembers what was sent together."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.error: Exception | None = None
        self.seen: list[str] = []

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        return (await self.execute([command], options))[0]

    def pipeline(self, *, transaction: bool) -> Pipeline:
        assert not transaction
        return Pipeline(self)

    async def execute(self, commands: Sequence[Any], options: Any) -> list[Any]:
        assert options == {"NEVER_DECODE": True}
        replies = [command[-1] for command in commands]
        self.sent.append(replies)
        self.seen.append(caller.get())
        await asyncio.sleep(0)  # lets the tasks go on
        if self.error is not None:
            raise self.error
        return replies


class Pipeline:
    def __init__(self, client: Recorder) -> None:
        self._client, self._commands = client, list[Any]()

    def execute_command(self, *command: Any, **options: Any) -> None:
        self._commands.append(command)
        self._options = options

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return await self._client.execute(self._commands, self._options)


caller = ContextVar("caller", default="nobody")


@pytest.fixture
async def client() -> Recorder:
    return Recorder()


@pytest.fixture
async def batches(client: Recorder) -> Batches:
    """Those of a loop in which several tasks ask."""
    batches = Batches(client)
    await ask(batches, b"1", b"2", b"3")
    client.sent.clear()
    client.seen.clear()
    return batches


async def ask(batches: Batches, *parts: Any) -> list[Any]:
    return await asyncio.gather(*(batches.ask(("ECHO", 1, part)) for part in parts), return_exceptions=True)


async def test_requests_go_at_once_and_those_of_one_moment_together(client: Recorder, batches: Batches) -> None:
    assert await ask(batches, b"1", b"2", b"3") == [b"1", b"2", b"3"]
    assert await ask(batches, b"4") == [b"4"]
    assert client.sent == [[b"1", b"2", b"3"], [b"4"]]
    await asyncio.sleep(0)  # lets the tasks go on
    assert not batches._under_way


async def test_who_is_alone_asks_by_itself(client: Recorder, batches: Batches) -> None:
    caller.set("ada")
    for part in (b"1", b"2", b"3"):
        assert await ask(batches, part) == [part]
    assert client.seen == ["nobody", "ada", "ada"]  # The first could not know that it is alone.
    client.sent.clear()
    assert await ask(batches, b"4", b"5", b"6") == [b"4", b"5", b"6"]
    assert await ask(batches, b"7", b"8") == [b"7", b"8"]
    assert client.sent == [[b"4"], [b"5", b"6"], [b"7", b"8"]]


async def test_a_batch_takes_32_requests_and_64_kilobytes(client: Recorder, batches: Batches) -> None:
    small = [b"%d" % number for number in range(100)]
    assert await ask(batches, *small) == small
    assert [len(each) for each in client.sent] == [32, 32, 32, 4]
    client.sent.clear()
    large = [b"1", b"2" * 100_000, b"3", b"4", b"5" * 65_536, b"6" * 40_000, b"7" * 20_000, b"8" * 10_000]
    assert await ask(batches, *large) == large
    assert [[int(part[:1]) for part in each] for each in client.sent] == [[1], [2], [3, 4], [5], [6, 7], [8]]


async def test_whatever_befalls_a_batch_is_told_to_each_who_waits(client: Recorder, batches: Batches) -> None:
    client.error = ConnectionResetError("gone")
    assert await ask(batches, b"1", b"2") == [client.error, client.error]
    assert await ask(batches, b"3") == [client.error]
    client.error = None
    assert await ask(batches, b"4") == [b"4"]


async def test_a_request_that_is_cancelled_before_it_is_sent_is_not_sent(client: Recorder, batches: Batches) -> None:
    tasks = [asyncio.create_task(batches.ask(("ECHO", part))) for part in (b"1", b"2", b"3")]
    await asyncio.sleep(0)  # lets the tasks go on
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert client.sent == [[b"1", b"3"]]
    client.sent.clear()
    task = asyncio.create_task(batches.ask(("ECHO", b"4")))  # The loop is busy still.
    await asyncio.sleep(0)  # lets the tasks go on
    task.cancel()
    await asyncio.wait([task])
    await batches.aclose()
    assert client.sent == []


async def test_closing_takes_no_answer_from_those_who_wait(batches: Batches) -> None:
    tasks = [asyncio.create_task(batches.ask(("ECHO", part))) for part in (b"1", b"2")]
    for steps in range(3):
        assert bool(batches._under_way) == (steps > 0)
        await batches.aclose()
        await asyncio.sleep(0)  # lets the tasks go on
    assert await asyncio.gather(*tasks) == [b"1", b"2"]


async def test_who_waits_for_a_batch_that_was_cancelled_waits_no_more(client: Recorder, batches: Batches) -> None:
    met = 0
    for steps in range(4):
        await ask(batches, b"1", b"2", b"3")
        tasks = [asyncio.create_task(batches.ask(("ECHO", part))) for part in (b"1", b"2")]
        for _ in range(steps):
            await asyncio.sleep(0)  # lets the tasks go on
        others = asyncio.all_tasks() - {asyncio.current_task(), *tasks}
        for other in others:  # As a framework does that ends all that runs.
            other.cancel()
        met += bool(others)
        await asyncio.wait(tasks, timeout=servers.PATIENCE)
        assert [task.cancelled() for task in tasks] == [bool(others)] * 2
        assert await asyncio.wait_for(ask(batches, b"3"), servers.PATIENCE) == [b"3"]
    assert met


async def test_a_batch_runs_in_the_context_of_none_of_those_who_ask(client: Recorder, batches: Batches) -> None:
    caller.set("ada")
    assert await ask(batches, b"1", b"2") == [b"1", b"2"]
    assert client.seen == ["nobody"]
