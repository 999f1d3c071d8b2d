"""Redis and Valkey keep the storage contract: every server that is here, in both colours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.testing import StorageContract
from tests import servers
from tests.storage.redis_cases import close_redis, open_redis


class TestRedis(StorageContract):
    """Over the oldest server there is, by redis-py, as its defaults are."""

    slack = 0.1
    kind: str | None = None
    query = ""

    def make(self, clock: Callable[[], float]) -> Any:
        return open_redis(clock, self.kind, self.query)

    def make_broken(self, clock: Callable[[], float]) -> Any:
        return RedisStorage(f"redis://127.0.0.1:{servers.free_port()}")

    @pytest.fixture(autouse=True)
    async def _nothing_stays_open(self) -> AsyncIterator[None]:
        yield
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
