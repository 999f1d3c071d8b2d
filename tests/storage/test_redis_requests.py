"""One round trip per operation, as the server counts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis import requests
from langchain_ttl_history.storage.redis.commands import request_id
from langchain_ttl_history.storage.types import Blob, Change, Lease, Query, Status
from tests.shared.graphs import agent
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import admin_of, another_worker, sending

COUNTED = ("evalsha", "eval", "scan")


@pytest.fixture
def storage(real: RedisStorage) -> RedisStorage:
    return real


@pytest.fixture
def count(storage: RedisStorage) -> Callable[[Callable[[], Any]], int]:
    """How many requests a call makes."""

    def count(call: Callable[[], Any]) -> int:
        with admin_of(storage) as admin:
            admin.config_resetstat()
            call()
            stats = admin.info("commandstats")
        sent = sum(stats[f"cmdstat_{name}"]["calls"] for name in COUNTED if f"cmdstat_{name}" in stats)
        return int(sent)

    return count


@pytest.fixture
def buffer(storage: RedisStorage) -> SessionBuffer:
    """A buffer whose session has had a turn."""
    buffer = SessionBuffer(storage)
    agent(buffer).invoke({"messages": [HumanMessage("look it up")]}, buffer.config("ada", "s1"))
    buffer.history("ada", "s1").add_system_message("an event")
    buffer.info("ada", "s1")
    buffer.delete("ada", "another")
    list(buffer.sessions("nobody"))
    return buffer


def operations(buffer: SessionBuffer) -> dict[str, Callable[[], Any]]:
    config = buffer.config("ada", "s1")
    saver = buffer.checkpointer()
    saved = saver.get_tuple(config)
    assert saved is not None
    history = buffer.history("ada", "s1")

    def put() -> None:
        found = saved.checkpoint
        versions = dict(found["channel_versions"])
        version = saver.get_next_version(versions.get("messages"), None)
        values = dict(found["channel_values"])
        values["messages"] = [*values["messages"], HumanMessage("more", id="more")]
        checkpoint: Any = {
            **found,
            "id": found["id"][:-1] + "f",
            "channel_values": values,
            "channel_versions": {**versions, "messages": version},
        }
        metadata: Any = {"source": "loop", "step": 9, "parents": {}}
        saver.put(saved.config, checkpoint, metadata, {"messages": version})

    return {
        "get_tuple": lambda: saver.get_tuple(config),
        "put": put,
        "put_writes": lambda: saver.put_writes(saved.config, [("messages", HumanMessage("w"))], "task"),
        "history read": lambda: history.messages,
        "history append": lambda: history.add_messages([HumanMessage("one"), HumanMessage("two")]),
        "info": lambda: buffer.info("ada", "s1"),
        "set_idle_ttl": lambda: buffer.set_idle_ttl("ada", "s1", 7_200),
        "sessions, and info for each": lambda: list(buffer.sessions("nobody")),
        "delete": lambda: buffer.delete("ada", "s1"),
        "delete of what is not there": lambda: buffer.delete("ada", "never"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "get_tuple", "put", "put_writes", "history read", "history append", "info", "set_idle_ttl",
        "sessions, and info for each", "delete", "delete of what is not there",
    ],
)  # fmt: skip
def test_an_operation_is_one_round_trip(buffer: SessionBuffer, count: Any, name: str) -> None:
    assert count(operations(buffer)[name]) == 1


def test_a_script_that_the_server_forgot_costs_one_more_once(
    storage: RedisStorage, buffer: SessionBuffer, count: Any
) -> None:
    history = buffer.history("ada", "s1")
    with admin_of(storage) as admin:
        admin.script_flush()
    assert [count(lambda: history.messages) for _ in range(3)] == [2, 1, 1]


def test_numbers_remembered_of_a_session_that_is_no_more_cost_one_more(storage: RedisStorage, count: Any) -> None:
    key, lease = SessionKey("ada", "s1"), Lease(100.0, None)
    other = another_worker(storage)
    refers = Change(lease, blobs={"c": Blob(b"", ("m",))})
    for _ in range(2):  # From here on the server knows the scripts.
        storage.write(key, Change(lease, blobs={"m": Blob(b"1")}))
    assert count(lambda: storage.write(key, refers)) == 1
    other.delete(*key, 60.0)
    other.write(key, Change(lease, blobs={"m": Blob(b"1")}))
    assert [count(lambda: storage.write(key, refers)) for _ in range(2)] == [2, 1]
    other.close()


def test_an_agents_turn_of_five_steps_is_ten_round_trips(storage: RedisStorage, count: Any) -> None:
    buffer = SessionBuffer(storage, retention=Retention(max_messages=40, max_checkpoints=40))
    graph = agent(buffer)
    # LangGraph then stores from one thread, and no write overtakes the one that is to free as well.
    config: Any = {**buffer.config("ada", "s1"), "max_concurrency": 1}
    turns = [count(lambda: graph.invoke({"messages": [HumanMessage("look it up")]}, config)) for _ in range(30)]
    assert turns[1:] == [10] * len(turns[1:])


def test_a_write_that_was_to_free_as_well_and_was_overtaken_costs_one_more_once(
    storage: RedisStorage, count: Any
) -> None:
    key, other = SessionKey("ada", "s1"), another_worker(storage)
    history = SessionBuffer(storage, retention=Retention(max_messages=40)).history(*key)
    for number in range(60):
        history.add_messages([HumanMessage(f"{number}")])
        if number < 3:
            assert len(history.messages) == number + 1  # From here on the server knows the scripts.
    kept = storage.read(key, Query(("log",))).lists["log"]

    def append() -> None:
        history.add_messages([HumanMessage("mine")])

    for overtaken, cost in ((True, 2), (False, 1)):
        assert len(history.messages) == 40
        if overtaken:
            other.write(key, Change(Lease(1800.0, None), append=[("another list", b"", ())]))
        assert [count(append) for _ in range(2)] == [cost, 1]
        left = storage.read(key, Query(("log",))).lists["log"]
        assert (len(left) < len(kept)) == (not overtaken)
    other.close()


async def test_the_async_twins_cost_the_same(storage: RedisStorage, buffer: SessionBuffer) -> None:
    history, saver, config = buffer.history("ada", "s1"), buffer.checkpointer(), buffer.config("ada", "s1")
    calls: list[Callable[[], Any]] = [
        history.aget_messages,
        lambda: saver.aget_tuple(config),
        lambda: history.aadd_messages([HumanMessage("one")]),
        lambda: buffer.ainfo("ada", "s1"),
        lambda: buffer.adelete("ada", "s1"),
    ]
    with admin_of(storage) as admin:
        for call in calls:
            admin.config_resetstat()
            await call()
            stats = admin.info("commandstats")
            assert sum(stats[f"cmdstat_{name}"]["calls"] for name in COUNTED if f"cmdstat_{name}" in stats) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_no_two_requests_have_the_same_id_not_even_of_forked_processes() -> None:
    ids = [request_id() for _ in range(1_000)]
    assert {len(id) for id in ids} == {8}
    assert len({*ids}) == 1_000
    program = """
import os
from langchain_ttl_history.storage.redis.commands import request_id
request_id()
reading, writing = os.pipe()
child = os.fork()
if not child:
    os.write(writing, request_id().encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reading, 8).decode(), request_id())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len({*done.stdout.split()}) == 2


def sent_twice(send: Callable[[Any], Any], request: Any) -> Any:
    """Sends a request again, as a client does that lost its answer."""
    send(request)
    return send(request)


def test_a_request_that_is_sent_again_is_known_whatever_is_in_its_id(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["a-b-c_--", "-a-b-c_-"])
    monkeypatch.setattr(requests, "request_id", lambda: next(ids))
    with sending(storage, sent_twice):
        for text in (b"by change.lua", b"by write.lua"):
            assert storage.write(KEY, Change(LEASE, append=[("l", text, ())])).status is Status.STORED
    entries = storage.read(KEY, Query(("l",))).lists["l"]
    assert [entry.payload for entry in entries] == [b"by change.lua", b"by write.lua"]


def test_a_request_is_not_taken_for_another_whose_bytes_are_like_its_own(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A session remembers the first one's id and behind it a position, which begins with such bytes.
    ids = iter(["abcdefgh", "efgh\0\0\0\0"])
    monkeypatch.setattr(requests, "request_id", lambda: next(ids))
    for text in (b"1", b"2"):
        storage.write(KEY, Change(LEASE, append=[("l", text, ())]))
    assert [entry.payload for entry in storage.read(KEY, Query(("l",))).lists["l"]] == [b"1", b"2"]


def test_a_deletion_that_is_sent_again_tells_what_it_did(storage: RedisStorage) -> None:
    for session_id in ("s1", None):
        storage.write(KEY, Change(LEASE))
        with sending(storage, sent_twice):
            assert storage.delete(KEY.user_id, session_id, 60.0) == 1
