"""Redis and Valkey keep the storage contract: every server that is here, in both colours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.types import Lease
from langchain_ttl_history.testing import StorageContract
from tests import servers
from tests.shared.redis_cases import close_redis, kind_here, open_cluster, open_redis


class TestRedis(StorageContract):
    """Over the oldest server there is, by redis-py, as its defaults are."""

    lateness = 0.1
    kind: str | None = None
    query = ""

    def make(self, clock: Callable[[], float]) -> Any:
        return open_redis(clock, self.kind, self.query)

    def make_broken(self, clock: Callable[[], float]) -> Any:
        return RedisStorage(f"redis://127.0.0.1:{servers.free_port()}")

    @pytest.fixture(autouse=True)
    async def _nothing_stays_open(self) -> AsyncIterator[None]:
        yield
        await self.storage.aclose()
        close_redis(self.storage)


class TestRedisAsync(TestRedis):
    asynchronous = True


class TestRedis7(TestRedis):
    kind = "redis-7"


class TestRedis7Async(TestRedis7):
    asynchronous = True


class TestValkey(TestRedis):
    kind = "valkey"


class TestValkeyAsync(TestValkey):
    asynchronous = True


class TestProtocol2(TestRedis):
    query = "?protocol=2"


class TestProtocol2Async(TestProtocol2):
    asynchronous = True


class TestProtocol3(TestRedis):
    query = "?protocol=3"


class TestProtocol3Async(TestProtocol3):
    asynchronous = True


class TestDecodingClient(TestRedis):
    query = "?decode_responses=True"


class TestDecodingClientAsync(TestDecodingClient):
    asynchronous = True


class TestCluster(TestRedis):
    """Over three nodes that share the slots."""

    def make(self, clock: Callable[[], float]) -> Any:
        return open_cluster(clock)

    async def test_sessions_are_listed_least_recently_used_first(self) -> None:
        """Of all users only those of one page of one node can be sorted."""
        for number in range(3):
            await self.write(SessionKey("ada", f"s{number}"))
            self.clock.advance(20)
        await self.read(key=SessionKey("ada", "s0"), lease=Lease(100.0, None))
        assert [key.session_id for key in await self.listed("ada")] == ["s1", "s2", "s0"]
        assert sorted(await self.listed()) == sorted(await self.listed("ada"))


class TestClusterAsync(TestCluster):
    asynchronous = True


class TestValkeyCluster(TestCluster):
    def make(self, clock: Callable[[], float]) -> Any:
        return open_cluster(clock, "valkey")


class TestValkeyClusterAsync(TestValkeyCluster):
    asynchronous = True


class TestRestrictedUser(TestRedis):
    """As a user who may not use what a worker does not need."""

    def make(self, clock: Callable[[], float]) -> Any:
        with servers.shared(kind_here()).admin() as admin:
            admin.execute_command("ACL SETUSER", "worker", *RESTRICTED.split())
        return open_redis(clock, None, login="worker:secret@")


RESTRICTED = "on >secret ~test-* +@all -@admin -keys -flushdb -flushall -module -config -randomkey -acl"


class TestRestrictedUserAsync(TestRestrictedUser):
    asynchronous = True


class TestValkeyDriver(TestRedis):
    """Through valkey-py."""

    def make(self, clock: Callable[[], float]) -> Any:
        return open_redis(clock, None, scheme="valkey")


class TestValkeyDriverAsync(TestValkeyDriver):
    asynchronous = True


class TestValkeyDriverOfACluster(TestCluster):
    """Through valkey-py, whose clients of clusters name other methods than redis-py's."""

    def make(self, clock: Callable[[], float]) -> Any:
        return open_cluster(clock, scheme="valkey+cluster")


class TestValkeyDriverOfAClusterAsync(TestValkeyDriverOfACluster):
    asynchronous = True
