"""A server that takes no writes for the moment, since a snapshot failed or replicas are missing, still serves reads.

What it does not permit at all is told as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from langchain_ttl_history import CorruptRecordError, StorageError
from langchain_ttl_history.storage.types import Change, Lease, Query, Status
from tests import servers
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import appended, assert_sound, keys_of, kind_here

LONGER, UNBOUNDED = Lease(1000.0, None), Lease(None, None)


@pytest.fixture(params=servers.KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    server = servers.Server(kind_here(request.param)).start()
    yield server
    server.remove()


def refuse(server: servers.Server, admin: redis.Redis, why: str) -> None:
    """Have a server refuse writes."""
    if why == "NOREPLICAS":
        admin.config_set("min-replicas-to-write", 1)
        return
    (server.folder / "dump.rdb").mkdir()  # A snapshot cannot take its place.
    admin.config_set("save", "3600 1")
    admin.bgsave()
    servers.wait_for(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "a snapshot that fails")


def accept(admin: redis.Redis) -> None:
    """Have it accept them again."""
    admin.config_set("min-replicas-to-write", 0)
    admin.config_set("save", "")


@pytest.mark.parametrize("why", ["NOREPLICAS", "MISCONF"])
async def test_a_server_that_refuses_writes_serves_reads_that_would_move_a_deadline(
    server: servers.Server, call: Any, open_: Any, why: str
) -> None:
    storage = open_(server.url)
    await call(storage, "write", KEY, appended(b"one"))
    before = await call(storage, "read", KEY, Query(("log",)))
    with server.admin() as admin:
        refuse(server, admin, why)
        stored = admin.hgetall(keys_of(storage)[1])
        for lease in (LONGER, UNBOUNDED):
            found = await call(storage, "read", KEY, Query(("log",), lease=lease))
            assert [entry.payload for entry in found.lists["log"]] == [b"one"]
            assert (found.expires_at, found.last_used_at) == (before.expires_at, before.last_used_at)
        # A reader who allows it a smaller age does not see it.
        found = await call(storage, "read", KEY, Query(("log",), lease=Lease(100.0, 0.0)))
        assert (found.generation, found.lists) == (0, {})
        for change in (appended(b"two"), Change(LEASE, drop=["log"], upkeep=True)):
            with pytest.raises(StorageError, match=rf"^Redis refused: .*{why}"):
                await call(storage, "write", KEY, change)
        assert admin.hgetall(keys_of(storage)[1]) == stored
        accept(admin)
    found = await call(storage, "read", KEY, Query(("log",), lease=LONGER))
    assert found.expires_at > before.expires_at
    assert (await call(storage, "write", KEY, appended(b"two"))).status is Status.STORED
    assert_sound(server)


def refusing(server: servers.Server, command: str, open_: Any) -> Any:
    """A storage whose user may not send this command."""
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", "lean", "reset", "on", ">secret", "~*", "+@all", f"-{command}")
    return open_(server.url.replace("//", "//lean:secret@"))


async def test_what_a_server_says_when_it_lets_no_record_be_read_is_told_as_it_is(
    server: servers.Server, call: Any, open_: Any
) -> None:
    await call(open_(server.url), "write", KEY, appended(b"one"))
    with pytest.raises(StorageError, match=r"^Redis refused: ResponseError: (?!ERR).*(can't run this|no permissions)"):
        await call(refusing(server, "hget", open_), "usage")


async def test_a_key_that_may_not_be_looked_at_is_not_said_to_hold_something_else(
    server: servers.Server, call: Any, open_: Any
) -> None:
    storage = open_(server.url)
    await call(storage, "write", KEY, appended(b"one"))
    _, session = keys_of(storage)
    with server.admin() as admin:
        admin.hset(session, "*", b"\xc1")
    with pytest.raises(CorruptRecordError, match=r"a record is damaged") as refused:
        await call(refusing(server, "hlen", open_), "read", KEY, Query(("log",)))
    assert session.decode() in str(refused.value)
    assert "something else" not in str(refused.value)


async def test_any_other_refusal_of_a_write_is_an_error_of_the_read(
    server: servers.Server, call: Any, open_: Any
) -> None:
    await call(open_(server.url), "write", KEY, appended(b"one"))
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-pexpire", "-persist")
    storage = open_(server.url.replace("//", "//reader:secret@"))
    for lease in (LONGER, UNBOUNDED):
        with pytest.raises(StorageError, match=r"^Redis refused: .*(permission|can't run this)"):
            await call(storage, "read", KEY, Query(lease=lease))


async def test_at_a_replica_a_read_is_refused_with_the_error_that_a_write_is(
    server: servers.Server, call: Any, open_: Any
) -> None:
    storage = open_(server.url)
    await call(storage, "write", KEY, appended(b"one"))
    with server.admin() as admin:
        admin.replicaof("127.0.0.1", 1)
        refused = []
        for verb, request in (("read", Query(("log",), lease=LONGER)), ("write", appended(b"two"))):
            with pytest.raises(StorageError, match=r"^Redis refused: .*read only replica") as caught:
                await call(storage, verb, KEY, request)
            refused.append(type(caught.value.__cause__))
        admin.replicaof("NO", "ONE")
    # By its class drivers and callers know that it passes by itself; Redis 6.2 tells no scripts' errors apart.
    assert refused[0] is refused[1]
