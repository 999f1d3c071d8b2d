"""How tests open a storage on a real server, look into it, and leave nothing open."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from weakref import WeakKeyDictionary

import pytest

from langchain_ttl_history.storage import RedisStorage
from tests import servers

_numbers = itertools.count()
_servers: WeakKeyDictionary[RedisStorage, servers.Server] = WeakKeyDictionary()


def open_redis(clock: Callable[[], float] | None, kind: str | None = None, query: str = "") -> RedisStorage:
    """An empty storage on a server that other tests share: its keys have a prefix of their own."""
    kind = kind or servers.any_kind()
    if kind is None or servers.binary(kind) is None:
        pytest.skip(f"no {kind or 'Redis'} server: install the test group, or Debian's redis-tools")
    server = servers.shared(kind)
    storage = RedisStorage(server.url + query, clock=clock, prefix=f"test-{os.getpid()}-{next(_numbers)}")
    _servers[storage] = server
    return storage


def close_redis(storage: RedisStorage) -> None:
    """Close its clients, those of event loops as well, and free what it held."""
    with _servers[storage].admin() as admin:
        admin.flushdb()
    storage.close()
    for loop, client in list(storage._clients._async_clients.items()):
        pool = client.connection_pool
        for connection in (*pool._available_connections, *pool._in_use_connections):
            if not loop.is_closed():
                connection._close()


def contents(storage: RedisStorage) -> list[bytes]:
    """Every string that the server holds."""
    with _servers[storage].admin() as admin:
        return list(servers.dumped(admin))
