"""How tests open a storage on a real server, look into it, and leave nothing open."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import redis

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis.clients import Clients
from langchain_ttl_history.storage.redis.layout import table_names
from langchain_ttl_history.storage.redis.plans import Context
from langchain_ttl_history.storage.redis.references import TABLE
from langchain_ttl_history.storage.types import Blob, Change, Query
from tests import servers
from tests.shared.one_session import KEY, LEASE

MESSAGES = {f"m{number}": Blob((b"%d" % number * 600)[:600]) for number in range(40)}
TURN = Query(("h",), ("c", "m"), ("log", "h"))
"""What a turn reads."""

_numbers = itertools.count()
_servers: WeakKeyDictionary[RedisStorage, list[servers.Server]] = WeakKeyDictionary()


def kind_here(kind: str | None = None) -> str:
    """The kind of server that a test runs on, the oldest by default; skips the test where it is not here."""
    kind = kind or servers.any_kind()
    if kind is None or servers.binary(kind) is None:
        pytest.skip(f"no {kind or 'Redis'} server: install the test group, or Debian's redis-tools")
    return kind


def open_redis(
    clock: Callable[[], float] | None, kind: str | None = None, query: str = "", scheme: str = "redis", login: str = ""
) -> RedisStorage:
    """An empty storage on a server that other tests share: its keys have a prefix of their own."""
    server = servers.shared(kind_here(kind))
    url = f"{scheme}://{login}127.0.0.1:{server.port}/0{query}"
    storage = RedisStorage(url, clock=clock, prefix=f"test-{os.getpid()}-{next(_numbers)}")
    _servers[storage] = [server]
    return storage


def open_cluster(
    clock: Callable[[], float] | None, kind: str | None = None, scheme: str = "redis+cluster"
) -> RedisStorage:
    """An empty storage on a cluster that other tests share."""
    cluster = servers.shared_cluster(kind_here(kind))
    url = cluster.url.replace("redis+cluster", scheme, 1)
    storage = RedisStorage(url, clock=clock, prefix=f"test-{os.getpid()}-{next(_numbers)}")
    _servers[storage] = cluster.nodes
    return storage


def another_worker(storage: RedisStorage) -> RedisStorage:
    """The same storage as another worker has it, which knows nothing yet; whoever asks closes it."""
    return RedisStorage(storage._clients.url.given, prefix=prefix_of(storage), clock=context_of(storage).clock)


def keys_of(storage: RedisStorage, key: SessionKey = KEY) -> tuple[bytes, bytes]:
    """The keys that a user and a session have in Redis."""
    return context_of(storage).keys.of(key).keys


def close_redis(storage: RedisStorage) -> None:
    """Close its clients, those of event loops as well, and free what it held."""
    for server in _servers[storage]:
        with server.admin() as admin:
            admin.flushdb()
    abandon(storage)


def admin_of(storage: RedisStorage) -> redis.Redis:
    """A client for looking into its server."""
    return _servers[storage][0].admin()


def contents(storage: RedisStorage) -> list[bytes]:
    """Every string that the server holds."""
    held: list[bytes] = []
    for server in _servers[storage]:
        with server.admin() as admin:
            held += servers.dumped(admin)
    return held


def appended(text: bytes) -> Change:
    """A change of a blob and of a list."""
    return Change(LEASE, blobs={f"m{text.decode()}": Blob(text)}, append=[("log", text, (f"m{text.decode()}",))])


async def stored_texts(storage: RedisStorage) -> list[bytes]:
    """What an onlooker finds in the list."""
    found = await asyncio.to_thread(storage.read, KEY, Query(("log",), ("m",)))
    return [entry.payload for entry in found.lists.get("log", ())]


def begin(storage: RedisStorage) -> None:
    """A conversation of 40 messages, a checkpoint that shows them, and what points at it."""
    checkpoint = {"c1": Blob(b"one", tuple(MESSAGES)), "h": Blob(b"", ("c1",), also=("w1",))}
    storage.write(KEY, Change(LEASE, blobs={**MESSAGES, **checkpoint}, append=[("log", b"1", ("m1",))]))


def told(storage: RedisStorage, query: Query = TURN) -> tuple[Any, int]:
    """What a read finds, and how many bytes the server sent for it."""
    sent: list[int] = []

    def count(send: Callable[[Any], Any], request: Any) -> Any:
        reply = send(request)
        sent.append(sum(map(len, reply)))
        return reply

    with sending(storage, count):
        found = storage.read(KEY, query)
    return found, sum(sent)


def abandon(storage: RedisStorage) -> None:
    """Close its clients at once, those of event loops as well."""
    storage.close()
    for loop, opened in list(storage._clients._async_clients.items()):
        client = opened.client
        if hasattr(client, "nodes_manager"):
            # A node it began with and the same node as the cluster tells it are equal, but two.
            nodes = [*client.nodes_manager.nodes_cache.values(), *client.nodes_manager.startup_nodes.values()]
            connections = [connection for node in nodes for connection in node._connections]
            client._initialize = True
        else:
            pool = client.connection_pool
            connections = [*pool._available_connections, *pool._in_use_connections]
        for connection in connections:
            if not loop.is_closed():
                connection._close()


def assert_sound(server: servers.Server) -> None:
    """No key is without a deadline, and what each session counts of itself is what it holds."""
    with server.admin() as admin:
        for key in admin.scan_iter(count=1000):
            assert admin.pttl(key) > 0, f"{key!r} has no deadline"
            if not key.endswith(b"}"):
                assert_counts(admin.hgetall(key))


def assert_counts(fields: dict[bytes, bytes]) -> None:
    """The counts of a session's hash are those of what is in it, and tables name all that is referred to."""
    size, weights, needed = 0, {}, set[tuple[int, int]]()
    for field, value in fields.items():
        if field[:1] == b"b":
            refs, also = struct.unpack_from(">II", value, 14) if value[0] & 1 else (0, 0)
            head = 22 if value[0] & 1 else 6
            payload = value[head + refs + also :]
            size += int.from_bytes(payload[:4], "big") if value[0] & 4 else len(payload)
            numbered = (value[1], int.from_bytes(value[2:6], "big"))
            assert name_of(fields, *numbered) == field[1:]
            needed.add(numbered)
            needed.update(numbers_in(value[head : head + refs]))
        elif field[:1] in (b"l", b"k"):
            name, at = (field[1:], 24) if field[:1] == b"l" else (field[5:], 0)
            weight = weights.setdefault(name, 0)
            while at < len(value):
                _, _, refs, payload, full = struct.unpack_from(">HIIIH", value, at)
                runs = value[at + 16 : at + 16 + refs]
                needed.update(numbers_in(runs))
                weight += 1 + sum(count for _, _, count in runs_of(runs))
                size += full or payload
                at += 16 + refs + payload
            weights[name] = weight
    assert first_number(fields[b"*"]) == size
    assert {
        field[1:]: int.from_bytes(value[4:8], "big") for field, value in fields.items() if field[:1] == b"l"
    } == weights
    assert all(name_of(fields, *numbered) for numbered in needed)


def moved(admin: redis.Redis, do: Callable[[], object]) -> int:
    """The bytes of hash fields that scripts look at or store meanwhile, which is what their time goes by.

    Counted, not timed: a server's collector may be busy with what was there before.
    """
    mark = "the end of what is counted"
    size = 0
    with admin.monitor() as monitor:
        do()
        admin.echo(mark)
        while True:
            line: bytes = monitor.connection.read_response()
            name, *arguments = [
                each.decode("unicode_escape").encode("latin-1") for each in re.findall(rb'"((?:[^"\\]|\\.)*)"', line)
            ]
            if arguments == [mark.encode()]:
                return size
            if b" lua] " not in line:
                continue
            assert name not in (b"HGETALL", b"HSCAN", b"HVALS"), "all of a session was looked at"
            if name in (b"HGET", b"HMGET"):
                size += sum(admin.hstrlen(arguments[0], field) for field in arguments[1:])
            elif name == b"HSET":
                size += sum(map(len, arguments[1:]))


def name_of(fields: dict[bytes, bytes], kind: int, number: int) -> bytes:
    """The name that a table has for a number; b"" if none does."""
    full = fields.get(b"t%c%b" % (kind, (number // TABLE).to_bytes(4, "big")))
    names = table_names(full or fields[b"t%c" % kind])
    return names[number % TABLE] if number % TABLE < len(names) else b""


def first_number(packed: bytes) -> int:
    """The number at the beginning of an array of MessagePack, whose strings are no text."""
    kind = packed[1]
    return kind if kind < 0x80 else int.from_bytes(packed[2 : 2 + (1 << (kind - 0xCC))], "big")


def runs_of(refs: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, first number and count of each run."""
    at, kind, after = 0, 0, 0
    while at < len(refs):
        if refs[at] == 255:
            kind = refs[at + 1]
            first, count = struct.unpack_from(">IH", refs, at + 2)
            at += 8
        else:
            first, count = after + refs[at] - 100, refs[at + 1]
            at += 2
        after = first + count
        yield kind, first, count


def numbers_in(refs: bytes) -> Iterator[tuple[int, int]]:
    """The blobs that runs refer to."""
    for kind, first, count in runs_of(refs):
        for number in range(first, first + count):
            yield kind, number


# What no user sees of a storage: here alone, so that it can change.


def context_of(storage: RedisStorage) -> Context:
    """What its requests have in common: the names of its keys, and what it remembers."""
    return storage._context


def prefix_of(storage: RedisStorage) -> str:
    """What its keys begin with."""
    return context_of(storage).keys.prefix


def clients_of(storage: RedisStorage) -> Clients:
    """What gives it its clients."""
    return storage._clients


async def sent() -> None:
    """Return once what the loop's tasks send is sent; wait_for() of Python 3.11 may lose a cancellation before that."""
    for _ in range(10):
        await asyncio.sleep(0)  # lets them go on


def reply_to(storage: RedisStorage, request: Any) -> Any:
    """The reply to one request."""
    return storage._reply(request)


@contextmanager
def sending(storage: RedisStorage, send: Callable[[Callable[[Any], Any], Any], Any]) -> Iterator[None]:
    """Every request of a sync verb is sent by this function, which is given the usual one and the request."""
    storage._send = partial(send, storage._send)  # type: ignore[method-assign]  # watched for the test
    try:
        yield
    finally:
        del storage._send  # type: ignore[method-assign]  # the class's own again
