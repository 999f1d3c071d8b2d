"""What a storage in Redis does when the server, or the way to it, fails: an error or the whole answer, never less."""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from langchain_core.messages import HumanMessage
from redis.backoff import NoBackoff
from redis.retry import Retry

from langchain_ttl_history import CorruptRecordError, SessionBuffer, StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis.failures import Failures
from langchain_ttl_history.storage.types import Blob, Change, Query, Status
from tests import servers
from tests.proxy import Proxy
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import appended, assert_sound, clients_of, keys_of, kind_here, sent, stored_texts

VERBS: dict[str, tuple[Any, ...]] = {
    "read": (KEY, Query(("log",), ("m",), lease=LEASE)),
    "write": (KEY, appended(b"two")),
    "delete": (*KEY, 60.0),
    "sessions": ("ada",),
}


def test_what_may_pass_is_tried_again_for_a_while_and_then_an_error() -> None:
    failures = Failures("redis", is_cluster=False)
    for passing in (redis.exceptions.TryAgainError("a slot moves"), redis.ConnectionError("Too many connections")):
        failures.check(passing, is_late=False)
        with pytest.raises(StorageError, match=r"Redis (refused|did not answer)"):
            failures.check(passing, is_late=True)
    with pytest.raises(StorageError, match="did not answer"):
        failures.check(redis.ConnectionError("gone"), is_late=False)
    Failures("redis", is_cluster=True).check(redis.ConnectionError("gone"), is_late=False)


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_connection_that_breaks_once_is_not_noticed_and_nothing_is_done_twice(
    server: servers.Server, proxy: Proxy, open_: Any, call: Any, verb: str, cut: str
) -> None:
    direct, through = open_(server.url), open_(proxy.url)
    direct.write(KEY, appended(b"one"))
    direct.delete("eve", "s1", 60.0)  # From here on the server knows the scripts.
    direct.sessions("eve")
    await call(through, "read", KEY, Query())
    proxy.cut, proxy.times = cut, 1
    answer = await call(through, verb, *VERBS[verb])
    assert proxy.times == 0
    if verb == "read":
        assert [entry.payload for entry in answer.lists["log"]] == [b"one"]
    elif verb == "write":
        assert (answer.status, answer.position) == (Status.STORED, direct.read(KEY, Query()).position)
        assert dict(answer.weights) == {"log": 4}
    elif verb == "delete":
        assert answer == 1
    else:
        assert answer == ([KEY], None)
    expected = {"write": [b"one", b"two"], "delete": []}.get(verb, [b"one"])
    assert await stored_texts(direct) == expected
    assert_sound(server)


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_connection_that_keeps_breaking_is_an_error_and_what_is_stored_is_whole(
    server: servers.Server, proxy: Proxy, open_: Any, call: Any, verb: str, cut: str
) -> None:
    direct, through = open_(server.url), open_(proxy.url)
    direct.write(KEY, appended(b"one"))
    direct.delete("eve", "s1", 60.0)  # From here on the server knows the scripts.
    direct.sessions("eve")
    proxy.cut, proxy.times = cut, 1_000
    with pytest.raises(StorageError) as refused:
        await call(through, verb, *VERBS[verb])
    assert isinstance(refused.value.__cause__, redis.ConnectionError)
    done = {"write": [b"one", b"two"], "delete": []} if cut == "after" else {}
    assert await stored_texts(direct) == done.get(verb, [b"one"])
    assert_sound(server)
    proxy.times = 0
    await call(through, verb, *VERBS[verb])
    assert_sound(server)


async def test_a_connection_that_is_lost_in_the_moment_before_a_request_is_not_noticed(
    server: servers.Server, open_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_(server.url)
    await storage.awrite(KEY, appended(b"one"))
    write = asyncio.StreamWriter.writelines
    lost = [TypeError("'NoneType' object is not callable")]  # What a transport of Python 3.13.0 does.

    def once(writer: asyncio.StreamWriter, data: Any) -> None:
        if lost:
            raise lost.pop()
        write(writer, data)

    monkeypatch.setattr(asyncio.StreamWriter, "writelines", once)
    assert (await storage.awrite(KEY, appended(b"two"))).status is Status.STORED
    assert not lost
    assert await stored_texts(storage) == [b"one", b"two"]


@pytest.mark.parametrize("mistake", [AttributeError("'Redis' object has no attribute 'x'"), TypeError("f() takes 1")])
async def test_a_mistake_in_a_program_is_not_taken_for_an_outage(
    server: servers.Server, open_: Any, call: Any, monkeypatch: pytest.MonkeyPatch, mistake: Exception
) -> None:
    def fail(self: object, *command: Any, **options: Any) -> Any:
        raise mistake

    monkeypatch.setattr(redis.Redis, "execute_command", fail)
    monkeypatch.setattr(redis.asyncio.Redis, "execute_command", fail)
    with pytest.raises(type(mistake)) as raised:
        await call(open_(server.url), "read", KEY, Query())
    assert raised.value is mistake


async def test_a_client_that_sends_again_by_itself_stores_nothing_twice(proxy: Proxy, server: servers.Server) -> None:
    client = redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 5))
    storage = RedisStorage(client)
    storage.write(KEY, appended(b"one"))
    made = storage.read(KEY, Query()).generation
    for text in (b"two", b"three"):
        proxy.cut, proxy.times = "after", 3
        change = appended(text)
        change.at_generation = made
        change.at_position = storage.read(KEY, Query()).position if proxy.times == 0 else None
        assert storage.write(KEY, change).status is Status.STORED
    assert await stored_texts(storage) == [b"one", b"two", b"three"]
    client.close()


async def test_the_other_driver_sends_again_as_well(proxy: Proxy, call: Any, open_: Any) -> None:
    storage = open_(proxy.url.replace("redis", "valkey", 1))
    await call(storage, "write", KEY, appended(b"one"))
    for cut in ("before", "after"):
        proxy.cut, proxy.times = cut, 2
        assert (await call(storage, "write", KEY, appended(b"two"))).status is Status.STORED
        assert proxy.times == 0
    assert await stored_texts(storage) == [b"one", b"two", b"two"]


async def test_a_change_that_must_find_the_session_as_it_was_is_not_refused_for_its_own_sake(
    proxy: Proxy, open_: Any
) -> None:
    storage = open_(proxy.url)
    proxy.cut, proxy.times = "after", 1
    made = storage.write(KEY, Change(LEASE, new=True, append=[("log", b"1", ())]))
    assert made.status is Status.STORED
    proxy.times = 1
    moved = storage.write(KEY, Change(LEASE, at_position=made.position, append=[("log", b"2", ())]))
    (entries,) = storage.read(KEY, Query(("log",))).lists.values()
    assert (moved.status, [entry.position for entry in entries]) == (Status.STORED, [made.position, moved.position])


async def test_a_call_that_is_cancelled_writes_all_or_nothing_and_leaves_no_stale_answer(
    server: servers.Server, proxy: Proxy, open_: Any
) -> None:
    storage = open_(proxy.url)
    await storage.awrite(KEY, appended(b"one"))
    await storage.awrite(SessionKey("eve", "s1"), appended(b"one"))
    await storage.awrite(SessionKey("eve", "s1"), appended(b"two"))  # From here on the server knows the scripts.
    for number in range(5):
        proxy.waiting.clear()
        proxy.answers.clear()
        task = asyncio.create_task(storage.awrite(KEY, appended(b"%d" % number)))
        await asyncio.to_thread(proxy.waiting.wait, servers.PATIENCE)
        await sent()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        proxy.answers.set()
        answers = await asyncio.gather(*(storage.aread(KEY, Query(("log",))) for _ in range(4)))
        for found in answers:
            texts = [entry.payload for entry in found.lists["log"]]
            assert texts == [b"one", *(b"%d" % each for each in range(number + 1))]
    assert_sound(server)


async def test_a_call_may_be_cancelled_at_any_step(server: servers.Server, open_: Any) -> None:
    storage = open_(server.url)
    await storage.awrite(KEY, appended(b"one"))
    for steps in range(40):
        task = asyncio.create_task(storage.awrite(KEY, appended(b"%d" % steps)))
        for _ in range(steps):
            await asyncio.sleep(0)  # lets it come one step further
        was_under_way = task.cancel()
        await asyncio.wait([task])
        if sys.version_info >= (3, 11):  # Python 3.10 does not tell of a cancellation that the driver swallowed.
            assert task.cancelled() == was_under_way
        found = await storage.aread(KEY, Query(("log",), ("m",)))
        texts = [entry.payload for entry in found.lists["log"]]
        assert texts.count(b"%d" % steps) <= 1
        assert (f"m{steps}" in found.blobs) == (b"%d" % steps in texts)
        if not task.cancelled():
            assert b"%d" % steps in texts
    assert_sound(server)


def asked(buffer: SessionBuffer, storage: RedisStorage) -> list[tuple[Any, ...]]:
    """What a buffer is asked, each as an object, a verb and arguments."""
    return [
        (buffer.history("ada", "s1"), "add_messages", [HumanMessage("lost")]),
        (buffer.checkpointer(), "get_tuple", buffer.config("ada", "s1")),
        (buffer, "info", "ada", "s1"),
        (buffer, "delete", "ada", "s1"),
        (storage, "read", KEY, Query()),
        (storage, "sessions", "ada"),
    ]


async def test_a_buffer_works_again_once_its_server_does(server: servers.Server, call: Any, open_: Any) -> None:
    storage = open_(server.url)
    buffer = SessionBuffer(storage)
    history = buffer.history("ada", "s1")
    await call(history, "add_messages", [HumanMessage("hello")])
    server.stop()
    for owner, verb, *arguments in asked(buffer, storage):
        with pytest.raises(StorageError) as refused:
            await call(owner, verb, *arguments)
        assert isinstance(refused.value.__cause__, redis.ConnectionError)
    with pytest.raises(StorageError):
        _ = history.messages
    server.start()  # It kept nothing, and no script either.
    await call(history, "add_messages", [HumanMessage("again")])
    assert [message.content for message in history.messages] == ["again"]
    with server.admin() as admin:
        admin.script_flush()
    assert (await call(buffer, "info", "ada", "s1")).messages == 1


async def test_a_server_that_still_loads_is_an_error_and_never_without_the_session(call: Any, open_: Any) -> None:
    # The oldest kind answers too seldom while it loads.
    options = ["--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no"]
    server = servers.Server(kind_here("valkey"), options=options).start()
    storage = open_(server.url)
    buffer = SessionBuffer(storage)
    history = buffer.history("ada", "s1")
    await call(history, "add_messages", [HumanMessage("hello")])
    try:
        with server.admin() as admin, server.admin(socket_timeout=60) as another:
            for number in range(3_000):
                admin.set(f"another's {number}", "x" * 1_100)
            admin.config_set("key-load-delay", 5_000)  # Microseconds a key.
            reload = asyncio.create_task(asyncio.to_thread(another.execute_command, "DEBUG", "RELOAD"))
            await asyncio.to_thread(servers.wait_for, lambda: admin.info("persistence")["loading"] == 1, "a reload")
            try:
                for each in (buffer, SessionBuffer(open_(server.url))):
                    for owner, verb, *arguments in asked(each, each._storage):
                        with pytest.raises(StorageError) as refused:
                            await call(owner, verb, *arguments)
                        assert isinstance(refused.value.__cause__, redis.BusyLoadingError)
                with pytest.raises(StorageError):
                    _ = history.messages
                assert admin.info("persistence")["loading"] == 1
            finally:
                admin.config_set("key-load-delay", 0)
                await reload
        await call(history, "add_messages", [HumanMessage("again")])
        assert [message.content for message in history.messages] == ["hello", "again"]
    finally:
        server.remove()


async def test_a_slow_server_is_an_error_after_the_timeout(server: servers.Server, call: Any, open_: Any) -> None:
    storage = open_(f"{server.url}?socket_timeout=0.2")
    await call(storage, "write", KEY, appended(b"one"))
    server.signal(signal.SIGSTOP)
    with pytest.raises(StorageError) as refused:  # It stands still until this is over.
        await call(storage, "read", KEY, Query(("log",)))
    assert isinstance(refused.value.__cause__, redis.TimeoutError)
    server.signal(signal.SIGCONT)
    assert (await call(storage, "read", KEY, Query(("log",)))).lists["log"][0].payload == b"one"


async def test_timeouts_are_set_by_default_and_by_the_url() -> None:
    storage = RedisStorage("redis://localhost:1")
    options = clients_of(storage).client().connection_pool.connection_kwargs
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (5.0, 5.0)
    storage = RedisStorage("redis://localhost:1?socket_timeout=1.5&socket_connect_timeout=2")
    options = clients_of(storage).async_client().connection_pool.connection_kwargs
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (1.5, 2.0)


def latest_tick(over: threading.Event) -> float:
    """By how many seconds a thread that does nothing else was late at most: what the machine is to blame for."""
    late = 0.0
    while True:
        before = time.monotonic()
        if over.wait(0.01):
            return late
        late = max(late, time.monotonic() - before - 0.01)


async def test_a_server_that_stands_still_does_not_hold_up_the_loop(server: servers.Server, open_: Any) -> None:
    storage = open_(f"{server.url}?socket_timeout=0.5")
    buffer = SessionBuffer(storage)
    saver, history = buffer.checkpointer(), buffer.history("ada", "s1")
    await history.aadd_messages([HumanMessage("hello")])
    latest: list[float] = []
    for _ in range(10):  # Another process may hold up the loop and not the thread, but not each time.
        late = 0.0
        over, others_late = threading.Event(), ThreadPoolExecutor(1)
        ticked = others_late.submit(latest_tick, over)
        server.signal(signal.SIGSTOP)
        calls = [
            asyncio.create_task(each)
            for each in (
                history.aadd_messages([HumanMessage("lost")]),
                history.aget_messages(),
                saver.aget_tuple(buffer.config("ada", "s1")),
                buffer.ainfo("ada", "s1"),
                buffer.adelete("bob", "s1"),
            )
        ]
        while not all(task.done() for task in calls):
            before = time.monotonic()
            await asyncio.sleep(0.01)  # the tick that must not be late
            late = max(late, time.monotonic() - before - 0.01)
        server.signal(signal.SIGCONT)
        over.set()
        for task in calls:
            assert isinstance(task.exception(), StorageError)
        latest.append(late - ticked.result())
        others_late.shutdown()
        if latest[-1] < 0.05:
            break
    assert min(latest) < 0.05
    assert next(message.content for message in await history.aget_messages()) == "hello"


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("me:wrong@127.0.0.1:{}/0", "AuthenticationError"),
        ("lean:secret@127.0.0.1:{}/0", "NoPermissionError"),
        ("127.0.0.1:{}/99", "DB index"),
    ],
)
async def test_a_server_that_refuses_is_not_said_to_be_silent(
    server: servers.Server, call: Any, open_: Any, scheme: str, place: str, why: str
) -> None:
    with server.admin() as admin:
        admin.execute_command("ACL SETUSER", "lean", "on", ">secret", "~lean*", "+get")
    with pytest.raises(StorageError, match=f"^Redis refused: .*{why}"):
        await call(open_(f"{scheme}://{place.format(server.port)}"), "read", KEY, Query())


@pytest.mark.parametrize("scheme", ["redis+cluster", "valkey+cluster"])
async def test_a_node_that_refuses_is_not_said_to_be_silent(
    server: servers.Server, call: Any, open_: Any, scheme: str
) -> None:
    with pytest.raises(StorageError, match=r"^Redis refused: .*invalid username"):
        await call(open_(f"{scheme}://me:wrong@127.0.0.1:{server.port}"), "read", KEY, Query())


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_a_server_that_is_not_there_is_looked_for_again_and_said_to_be_silent(
    call: Any, open_: Any, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    tries: list[Any] = []

    def counting(connect: Any) -> Any:
        def counted(connection: Any) -> Any:
            tries.append(connection)
            return connect(connection)

        return counted

    for module in (f"{scheme}.connection", f"{scheme}.asyncio.connection"):
        cls = importlib.import_module(module).Connection
        monkeypatch.setattr(cls, "_connect", counting(cls._connect))
    with pytest.raises(StorageError, match=r"^Redis did not answer: ConnectionError"):
        await call(open_(f"{scheme}://127.0.0.1:{servers.free_port()}/0"), "read", KEY, Query())
    assert len(tries) == 3


async def test_a_server_without_memory_refuses_writes_whole_and_still_answers(
    server: servers.Server, call: Any, open_: Any
) -> None:
    storage = open_(server.url)
    await call(storage, "write", KEY, Change(LEASE, blobs={"m1": Blob(b"x" * 1000)}, append=[("log", b"1", ("m1",))]))
    before = (await call(storage, "read", KEY, Query(outline=True))).blobs
    with server.admin() as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", 100_000)
        for change in (appended(b"two"), Change(LEASE, blobs={"m1": Blob(b"", ("m1",))}, drop=["log"])):
            with pytest.raises(StorageError) as refused:
                await call(storage, "write", KEY, change)
            assert "OOM" in str(refused.value.__cause__) or isinstance(refused.value.__cause__, redis.OutOfMemoryError)
        assert_sound(server)
        found = await call(storage, "read", KEY, Query(outline=True))
        assert (found.blobs, len(found.lists["log"]), found.position) == (before, 1, 1)
        # What frees is taken, and so is a deletion with its tombstone.
        freed = await call(storage, "write", KEY, Change(LEASE, drop=["log"], upkeep=True))
        assert freed.status is Status.STORED
        assert await call(storage, "delete", *KEY, 60.0) == 1
        assert (await call(storage, "read", KEY, Query())).fence > 0
        # A user who has no session may have a turn that still runs.
        assert await call(storage, "delete", "eve", None, 60.0) == 0
        assert (await call(storage, "read", SessionKey("eve", "s1"), Query())).fence > 0
        assert_sound(server)
        admin.config_set("maxmemory", 0)
    assert (await call(storage, "write", KEY, appended(b"again"))).status is Status.STORED


async def test_memory_that_ends_while_sessions_grow_leaves_each_of_them_whole(
    server: servers.Server, open_: Any
) -> None:
    storage = open_(server.url)
    with server.admin() as admin:
        used = admin.info("memory")["used_memory"]
        admin.config_set("maxmemory", used + 3_000_000)
        refused = 0
        for number in range(600):
            try:
                storage.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(b"x" * 10_000)}, append=[("log", b"", ())]))
            except StorageError:
                refused += 1
        assert refused > 10
        found = storage.read(KEY, Query(outline=True))
        assert len(found.blobs) == len(found.lists["log"]) == 600 - refused > 10
        assert found.lists["log"][-1].position == found.position
    assert_sound(server)


async def test_a_replica_that_may_not_be_written_to_refuses_and_shows_what_is_there(
    server: servers.Server, call: Any, open_: Any
) -> None:
    replica = servers.Server(server.kind, options=["--replicaof", "127.0.0.1", str(server.port)]).start()
    try:
        primary, storage = open_(server.url), open_(replica.url)
        primary.write(KEY, appended(b"one"))
        with replica.admin() as admin:
            await asyncio.to_thread(servers.wait_for, lambda: admin.dbsize() == 2, "the replica")
            found = await call(storage, "read", KEY, Query(("log",)))
            assert [entry.payload for entry in found.lists["log"]] == [b"one"]
            for verb, arguments in (("write", VERBS["write"]), ("delete", VERBS["delete"])):
                with pytest.raises(StorageError) as refused:
                    await call(storage, verb, *arguments)
                assert "READONLY" in str(refused.value) or isinstance(refused.value.__cause__, redis.ReadOnlyError)
            # A failover: the replica has the session, but no script of the primary's.
            await asyncio.to_thread(servers.wait_for, lambda: servers.has_all(replica, server), "the replica")
            server.stop()
            admin.replicaof("NO", "ONE")
        assert (await call(storage, "write", KEY, appended(b"two"))).position > found.position
        assert await stored_texts(storage) == [b"one", b"two"]
        assert_sound(replica)
    finally:
        replica.remove()


async def test_a_key_that_somebody_else_made_is_an_error(server: servers.Server, call: Any, open_: Any) -> None:
    storage = open_(server.url)
    user, session = keys_of(storage)
    with server.admin() as admin:
        for key in (user, session):
            admin.set(key, "x")
            # Not a StorageError, after which a program tries again.
            with pytest.raises(CorruptRecordError) as refused:
                await call(storage, "write", KEY, appended(b"one"))
            assert f"key {key.decode()!r}" in str(refused.value)
            assert isinstance(refused.value.__cause__, redis.ResponseError)
            admin.delete(key)
            assert admin.dbsize() == 0
