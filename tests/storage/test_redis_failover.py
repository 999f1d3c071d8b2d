"""A replica takes over, from a single primary and in a cluster, while workers go on with what they remember."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from langchain_core.messages import HumanMessage
from redis.crc import key_slot

from langchain_ttl_history import Retention, SessionBuffer, StorageError
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.types import Change, Query, Status
from tests import servers
from tests.proxy import Proxy
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import appended, assert_sound, context_of, kind_here, stored_texts

UNBOUNDED = Retention(max_messages=None)


@pytest.fixture
def replica(server: servers.Server) -> Iterator[servers.Server]:
    """One that follows the server, and has all that it has."""
    replica = servers.Server(server.kind, options=["--replicaof", "127.0.0.1", str(server.port)]).start()
    servers.wait_for(lambda: servers.has_all(replica, server), "the replica")
    yield replica
    replica.remove()


def promote(replica: servers.Server) -> None:
    with replica.admin() as admin:
        admin.replicaof("NO", "ONE")


async def test_a_worker_goes_on_with_the_replica_that_took_over(
    server: servers.Server, replica: servers.Server, proxy: Proxy, open_: Any, call: Any
) -> None:
    storage = open_(proxy.url)
    for text in (b"one", b"two"):
        await call(storage, "write", KEY, appended(text))
    assert await stored_texts(storage) == [b"one", b"two"]
    servers.wait_for(lambda: servers.has_all(replica, server), "the replica")
    server.stop()
    for verb, *arguments in (("read", KEY, Query(("log",))), ("write", KEY, appended(b"lost")), ("sessions", "ada")):
        with pytest.raises(StorageError) as refused:
            await call(storage, verb, *arguments)
        assert isinstance(refused.value.__cause__, redis.ConnectionError)
    promote(replica)
    proxy.lead_to(replica.port)
    found = await call(storage, "read", KEY, Query(("log",), ("m",)))
    assert [entry.payload for entry in found.lists["log"]] == [b"one", b"two"]
    assert {name: blob.payload for name, blob in found.blobs.items()} == {"mone": b"one", "mtwo": b"two"}
    outcome = await call(storage, "write", KEY, appended(b"three"))
    assert (outcome.status, outcome.generation) == (Status.STORED, found.generation)
    assert outcome.position > found.position
    assert (await call(storage, "sessions", "ada")) == ([KEY], None)
    for each in (storage, open_(replica.url)):
        assert await stored_texts(each) == [b"one", b"two", b"three"]
    assert_sound(replica)


async def leaves_a_primary_made_a_replica(
    storage: RedisStorage, server: servers.Server, replica: servers.Server, proxy: Proxy, call: Any
) -> None:
    """The primary becomes a replica of its own one without breaking connections; its refusal is met only once."""
    await call(storage, "write", KEY, appended(b"one"))
    servers.wait_for(lambda: servers.has_all(replica, server), "the replica")
    promote(replica)
    proxy.lead_to(replica.port, keep=True)
    with server.admin() as admin:
        admin.replicaof("127.0.0.1", replica.port)
    with pytest.raises(StorageError, match="read only replica"):
        await call(storage, "write", KEY, appended(b"refused"))
    assert (await call(storage, "write", KEY, appended(b"two"))).status is Status.STORED


async def test_a_worker_leaves_a_primary_that_was_made_a_replica_without_breaking_its_connections(
    server: servers.Server, replica: servers.Server, proxy: Proxy, open_: Any, call: Any
) -> None:
    storage = open_(proxy.url)
    await leaves_a_primary_made_a_replica(storage, server, replica, proxy, call)
    assert await stored_texts(open_(replica.url)) == [b"one", b"two"]
    assert_sound(replica)


async def test_a_client_of_a_single_connection_leaves_a_primary_that_was_made_a_replica_too(
    server: servers.Server, replica: servers.Server, proxy: Proxy, open_: Any, call: Any
) -> None:
    async with redis.asyncio.Redis.from_url(proxy.url, single_connection_client=True) as async_client:
        with redis.Redis.from_url(proxy.url, single_connection_client=True) as client:
            storage = RedisStorage(client, async_client)
            await leaves_a_primary_made_a_replica(storage, server, replica, proxy, call)
            # The other client still reads from what is a replica now, which may lag behind.
            assert await stored_texts(open_(replica.url)) == [b"one", b"two"]


async def test_what_the_replica_never_got_is_not_taken_for_what_it_was_told_since(
    server: servers.Server, replica: servers.Server, proxy: Proxy, open_: Any, call: Any
) -> None:
    storage = open_(proxy.url)
    await call(storage, "write", KEY, appended(b"one"))
    await call(storage, "read", KEY, Query(("log",), ("m",)))
    servers.wait_for(lambda: servers.has_all(replica, server), "the replica")
    promote(replica)  # Before its primary is gone, so that something is acknowledged that it never gets.
    await call(storage, "write", KEY, appended(b"lost"))
    await call(storage, "read", KEY, Query(("log",), ("m",)))
    server.stop()
    proxy.lead_to(replica.port)
    other = open_(replica.url)
    other.write(KEY, appended(b"two"))
    for each in (other, storage):
        found = await call(each, "read", KEY, Query(("log",), ("m",)))
        assert [(entry.payload, entry.refs) for entry in found.lists["log"]] == [
            (b"one", ("mone",)),
            (b"two", ("mtwo",)),
        ]
        assert {name: blob.payload for name, blob in found.blobs.items()} == {"mone": b"one", "mtwo": b"two"}
    refused = await call(storage, "write", KEY, Change(LEASE, append=[("log", b"", ("mlost",))]))
    assert (refused.status, refused.missing) == (Status.MISSING, {"mlost"})
    assert_sound(replica)


# --- in a cluster ---------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[servers.Cluster]:
    """A cluster that notices soon when a node is gone."""
    cluster = servers.Cluster(kind_here(), timeout=1000)
    yield cluster
    cluster.remove()


def owner(cluster: servers.Cluster, slot: int) -> servers.Server:
    """The node that has a slot."""
    with cluster.nodes[1].admin() as admin:
        for first, last, node, *_ in admin.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(each for each in cluster.nodes if each.port == node[1])
    raise AssertionError(f"nobody has the slot {slot}")


async def test_a_cluster_whose_primary_is_killed_keeps_what_it_acknowledges_from_then_on(
    cluster: servers.Cluster, open_: Any
) -> None:
    storage: RedisStorage = open_(cluster.url)
    buffer = SessionBuffer(storage, retention=UNBOUNDED)
    slot = key_slot(context_of(storage).keys.user(KEY.user_id))
    primary = owner(cluster, slot)
    replica = cluster.add_replica(primary)
    taken = asyncio.Event()
    said: dict[str, list[str]] = {}
    refused: list[StorageError] = []

    async def read(name: str) -> list[str]:
        history = buffer.history(KEY.user_id, name)
        if name == "async":
            messages = await history.aget_messages()
        else:
            messages = await asyncio.to_thread(lambda: history.messages)
        return [str(message.content) for message in messages]

    async def say(name: str, text: str) -> None:
        history = buffer.history(KEY.user_id, name)
        if name == "async":
            await history.aadd_messages([HumanMessage(text, id=text)])
        else:
            await asyncio.to_thread(history.add_messages, [HumanMessage(text, id=text)])
        said[name].append(text)

    async def try_to(do: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        try:
            return await do(*arguments)
        except StorageError as error:
            refused.append(error)
            return None

    async def talk(name: str) -> None:
        number = 0
        while not taken.is_set() or number < 5:
            number += 1
            await try_to(say, name, f"{name} {number}")
            expected = list(said[name])
            found = await try_to(read, name)
            assert found is None or [each for each in found if each in expected] == expected

    for name in ("sync", "async"):
        said[name] = []
        for text in ("first", "second"):
            await say(name, f"{name} {text}")
        assert await read(name) == said[name]
    await asyncio.to_thread(servers.wait_for, lambda: servers.has_all(replica, primary), "the replica")
    primary.stop()
    talks = [asyncio.create_task(talk(name)) for name in said]
    try:
        await asyncio.to_thread(servers.wait_for, lambda: replica_leads(replica), "the failover")
    finally:
        taken.set()
    await asyncio.gather(*talks)
    assert all(error.__cause__ is not None for error in refused)
    fresh = SessionBuffer(open_(f"redis+cluster://127.0.0.1:{replica.port}"), retention=UNBOUNDED)
    for name, texts in said.items():
        await say(name, f"{name} last")
        shown = await read(name)
        assert shown == [str(message.content) for message in fresh.history(KEY.user_id, name).messages]
        assert len(shown) == len({*shown})
        assert [each for each in shown if each in texts] == texts
    assert {info.session_id for info in buffer.sessions(KEY.user_id)} == {*said}
    assert_sound(replica)


def replica_leads(replica: servers.Server) -> bool:
    """Whether it took its primary's place, as far as it knows."""
    with replica.admin() as admin:
        return bool(admin.info("replication")["role"] == "master")
