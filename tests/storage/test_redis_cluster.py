"""A cluster whose slots move while it is used."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.messages import HumanMessage
from redis.crc import key_slot

from langchain_ttl_history import Retention, SessionBuffer, StorageError
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis import storage as storage_module
from langchain_ttl_history.storage.types import Blob, Change, Query, Status
from tests import servers
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import assert_sound, clients_of, context_of, keys_of, kind_here


@pytest.fixture(scope="module")
def cluster() -> Iterator[servers.Cluster]:
    cluster = servers.Cluster(kind_here())
    yield cluster
    cluster.remove()


@pytest.fixture
async def storage(cluster: servers.Cluster) -> AsyncIterator[RedisStorage]:
    storage = RedisStorage(cluster.url)
    yield storage
    await storage.aclose()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits for a move that is slow because the machine is."""
    monkeypatch.setattr(storage_module, "_PATIENCE", servers.PATIENCE)


class Move:
    """A slot that goes from the node that has it to another, a step at a time."""

    def __init__(self, cluster: servers.Cluster, slot: int) -> None:
        self.slot = slot
        self.clients = {node.port: node.admin() for node in cluster.nodes}
        self.ids = {port: client.execute_command("CLUSTER MYID").decode() for port, client in self.clients.items()}
        self.source = next(port for port in self.clients if self._owns(port))
        self.target = next(port for port in self.clients if port != self.source)

    def _owns(self, port: int) -> bool:
        for first, last, node, *_ in self.clients[port].execute_command("CLUSTER SLOTS"):
            if first <= self.slot <= last:
                return bool(node[1] == port)
        return False

    def begin(self) -> None:
        self.clients[self.target].execute_command("CLUSTER SETSLOT", self.slot, "IMPORTING", self.ids[self.source])
        self.clients[self.source].execute_command("CLUSTER SETSLOT", self.slot, "MIGRATING", self.ids[self.target])

    def keys(self) -> list[bytes]:
        found: list[bytes] = self.clients[self.source].execute_command("CLUSTER GETKEYSINSLOT", self.slot, 100)
        return found

    def move(self, key: bytes) -> None:
        self.clients[self.source].execute_command("MIGRATE", "127.0.0.1", self.target, key, 0, 5_000)

    def await_turned_away(self, before: int) -> None:
        """Wait until one more request was told to try again, since only some of its keys are where it asked."""
        servers.wait_for(lambda: self.turned_away() > before, "a request that needs keys of two nodes")

    def turned_away(self) -> int:
        told = [client.info("errorstats") for client in self.clients.values()]
        return sum(each["errorstat_TRYAGAIN"]["count"] for each in told if "errorstat_TRYAGAIN" in each)

    def end(self) -> None:
        for client in self.clients.values():
            client.execute_command("CLUSTER SETSLOT", self.slot, "NODE", self.ids[self.target])

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


@pytest.fixture
def move(cluster: servers.Cluster, storage: RedisStorage) -> Iterator[Move]:
    """The move of the slot of KEY's user."""
    move = Move(cluster, key_slot(context_of(storage).keys.user(KEY.user_id)))
    yield move
    move.close()


def test_a_session_is_found_at_every_step_of_a_move(
    storage: RedisStorage, move: Move, cluster: servers.Cluster, patient: None
) -> None:
    storage.delete(KEY.user_id, None, 0.001)
    blobs = {"m1": Blob(b"1")}
    storage.write(KEY, Change(LEASE, blobs=blobs, append=[("log", b"", ("m1",))]))

    def check(number: int) -> None:
        outcome = storage.write(KEY, Change(LEASE, append=[("log", b"%d" % number, ())]))
        (entries,) = storage.read(KEY, Query(("log",))).lists.values()
        assert (outcome.status, outcome.position, len(entries)) == (Status.STORED, entries[-1].position, number)

    move.begin()
    check(2)
    user, session = keys_of(storage)
    move.move(session)
    # One of its keys is here and one is there: the request waits for the other.
    before = move.turned_away()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(check, 3)
        move.await_turned_away(before)
        move.await_turned_away(move.turned_away())
        assert not waiting.done()
        move.move(user)
        waiting.result(servers.PATIENCE)
    check(4)
    move.end()
    check(5)
    for node in cluster.nodes:
        assert_sound(node)


async def test_a_resharding_during_traffic_loses_nothing(
    storage: RedisStorage, move: Move, cluster: servers.Cluster, patient: None
) -> None:
    storage.delete(KEY.user_id, None, 0.001)  # Only sessions that are talked in are told to try again.
    buffer = SessionBuffer(storage, retention=Retention(max_messages=None))
    done = asyncio.Event()
    acknowledged: dict[str, list[str]] = {name: [] for name in ("a", "b", "c", "d")}
    refused: list[StorageError] = []

    async def talk(name: str) -> None:
        history = buffer.history(KEY.user_id, name)
        number = 0
        while not done.is_set():
            text = f"{name}{number}"
            number += 1
            try:
                if name < "c":
                    await history.aadd_messages([HumanMessage(text, id=text)])
                else:
                    await asyncio.to_thread(history.add_messages, [HumanMessage(text, id=text)])
            except StorageError as error:
                refused.append(error)
            else:
                acknowledged[name].append(text)

    def await_more_of_each() -> None:
        before = {name: len(texts) for name, texts in acknowledged.items()}
        servers.wait_for(
            lambda: all(len(texts) > before[name] for name, texts in acknowledged.items()), "more of each talk"
        )

    def reshard() -> None:
        for _ in range(3):
            moving: Any = Move(cluster, move.slot)
            await_more_of_each()
            moving.begin()
            await_more_of_each()
            while keys := moving.keys():
                for left, key in reversed([*enumerate(keys)]):
                    before = moving.turned_away()
                    moving.move(key)
                    if left:
                        moving.await_turned_away(before)
            await_more_of_each()
            moving.end()
            moving.close()
        await_more_of_each()

    talks = [asyncio.create_task(talk(name)) for name in acknowledged]
    try:
        await asyncio.to_thread(reshard)
    finally:
        done.set()
        await asyncio.gather(*talks)
    for name, texts in acknowledged.items():
        found = [str(message.content) for message in buffer.history(KEY.user_id, name).messages]
        assert len(found) == len({*found})
        assert {*texts} <= {*found}
    assert refused == []
    for node in cluster.nodes:
        assert_sound(node)


@pytest.mark.parametrize("driver", ["redis", "valkey"])
async def test_a_worker_may_do_no_more_in_a_cluster_than_the_docs_say(
    cluster: servers.Cluster, move: Move, driver: str
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text("utf-8")
    told = re.findall(r"ACL SETUSER worker (on [^`]*)```|In a cluster the drivers\s+also need `([^`]*)`", page)
    rights = re.sub(r"['\\\\]", "", " ".join(one or other for one, other in told)).split()
    for node in cluster.nodes:
        with node.admin() as admin:
            admin.execute_command("ACL SETUSER", "worker", "reset", *rights)
    buffer = SessionBuffer(cluster.url.replace("redis+", f"{driver}+").replace("://", "://worker:password@"))
    await buffer.aforget(KEY.user_id)
    move.begin()
    keys = move.keys()
    for key in keys:
        move.move(key)
    assert [each async for each in buffer.asessions(KEY.user_id)] == list(buffer.sessions(KEY.user_id)) == []
    move.end()
    history = buffer.history(KEY.user_id, driver)
    history.add_messages([HumanMessage("hello")])
    await history.aadd_messages([HumanMessage("again")])
    assert [each.messages for each in buffer.sessions(KEY.user_id)] == [2]
    assert await buffer.aforget(KEY.user_id) == 1
    await buffer.aclose()


def test_a_connection_that_another_thread_closes_is_not_noticed(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions 6 of the drivers do when they learn of a change of the cluster."""
    client = clients_of(storage).client()
    send, closed = client.execute_command, iter([ValueError("I/O operation on closed file.")])

    def ask(*command: Any, **options: Any) -> Any:
        if (error := next(closed, None)) is not None:
            raise error
        return send(*command, **options)

    monkeypatch.setattr(client, "execute_command", ask)
    assert storage.read(KEY, Query()).generation == 0
    client.close()


async def test_a_cluster_that_cannot_be_reached_is_an_error() -> None:
    storage = RedisStorage(f"redis+cluster://127.0.0.1:{servers.free_port()}")
    with pytest.raises(StorageError):
        storage.read(KEY, Query())
    with pytest.raises(StorageError) as refused:
        await storage.aread(KEY, Query())
    assert isinstance(refused.value.__cause__, (redis.RedisError, redis.exceptions.RedisClusterException))
    await storage.aclose()
