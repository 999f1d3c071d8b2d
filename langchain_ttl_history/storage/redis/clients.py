"""Which client of Redis or Valkey a thread or a loop uses: one the caller made, or one made here when first needed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import suppress
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

from langchain_ttl_history.errors import ConfigurationError, type_of
from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.storage.redis.drivers import (
    described,
    is_async,
    is_client,
    is_of_cluster,
    library_of,
    way_out,
)
from langchain_ttl_history.storage.redis.server_url import ServerURL

__all__ = ["Clients", "ClientsOfURL", "GivenClients"]


class Clients(ABC):
    """Gives the client for the caller's thread or loop."""

    library: str
    """The package the clients are of: redis or valkey."""
    is_cluster: bool

    @abstractmethod
    def client(self) -> Any:
        """The sync client."""

    @abstractmethod
    def async_client(self) -> Any:
        """The async client of the running loop."""

    def drop_idle(self, client: Any) -> None:
        """Close the connections of a sync client that no thread uses, so that requests to come get new ones."""
        of_nodes = [client]
        if self.is_cluster:
            of_nodes = [getattr(node, f"{self.library}_connection") for node in client.get_nodes()]
        for each in of_nodes:
            if each is None:
                continue  # Nobody has asked this node yet.
            pool = each.connection_pool
            if signature(pool.disconnect).parameters:
                pool.disconnect(False)  # Not those in use; each driver has another name for it.
            else:
                pool.disconnect()  # A blocking pool of an older version, which cannot close the idle ones alone.
            if each.connection is not None:
                each.connection.disconnect()

    async def adrop_idle(self, client: Any) -> None:
        """Async `drop_idle`, of a single server's client; a cluster's learns by itself who is the primary."""
        if not self.is_cluster:
            await client.connection_pool.disconnect(inuse_connections=False)
            # A client of a single connection keeps that in use.
            if client.connection is not None:
                await client.connection.disconnect()

    @abstractmethod
    def close(self) -> None:
        """Close the sync client, if it was made here."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close both clients, if they were made here."""


class GivenClients(Clients):
    """Clients that the caller made, and closes.

    Raises:
        ConfigurationError: There is none, or they are not what their names say.
    """

    def __init__(self, client: Any, async_client: Any) -> None:
        if async_client is None and client is not None and is_async(client):
            client, async_client = None, client
        for name, each, right in (("client", client, False), ("async_client", async_client, True)):
            if each is not None and (not is_client(each) or is_async(each) is not right):
                what = type_of(each) if library_of(each) is None else described(each)
                kind = f"{'an async' if right else 'a'} client"
                raise ConfigurationError(f"{name} must be {kind} of redis-py or valkey-py, not {what}{way_out(each)}")
        if client is None and async_client is None:
            raise ConfigurationError("RedisStorage needs a client of redis-py or valkey-py: sync, async or both")
        if getattr(client, "connection", None) is not None and not hasattr(client, "single_connection_lock"):
            # Threads would get each other's answers, and LangGraph stores in threads of its own.
            raise ConfigurationError(
                f"{described(client)} shares one connection among threads without a lock; "
                "make it without single_connection_client"
            )
        kinds = [(library_of(each) or "", is_of_cluster(each)) for each in (client, async_client) if each is not None]
        if kinds[0] != kinds[-1]:
            raise ConfigurationError(
                "client and async_client must be of the same driver, and both of a cluster or neither; "
                f"not {described(client)} and {described(async_client)}"
            )
        self._client, self._async_client = client, async_client
        self.library: str = kinds[0][0]
        self.is_cluster: bool = kinds[0][1]

    def __repr__(self) -> str:
        return ", ".join(described(each) for each in (self._client, self._async_client) if each is not None)

    def client(self) -> Any:
        """The sync client."""
        if self._client is None:
            raise ConfigurationError(
                "this RedisStorage has only an async client; for sync calls make it with "
                "RedisStorage(client, async_client), or from a URL"
            )
        return self._client

    def async_client(self) -> Any:
        """The async client."""
        if self._async_client is None:
            raise ConfigurationError(
                "this RedisStorage has only a sync client; for async calls make it with "
                "RedisStorage(client, async_client), or from a URL"
            )
        return self._async_client

    def close(self) -> None:
        """The caller closes what the caller made."""

    async def aclose(self) -> None:
        """The caller closes what the caller made."""


class ClientsOfURL(Clients):
    """Clients made from a URL when they are first needed: one for all threads, one for each loop.

    Raises:
        ConfigurationError: The URL's scheme is not known, its driver is not installed, or it cannot be read.
    """

    def __init__(self, url: str) -> None:
        self.url: ServerURL = ServerURL(url)
        self.library: str = self.url.library
        self.is_cluster: bool = self.url.is_cluster
        self._lock = lock()
        self._client: Any = None
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Opened] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return repr(self.url)

    def client(self) -> Any:
        """The sync client."""
        client = self._client
        if client is not None:
            return client
        # Made without the lock: a cluster's client connects when it is made, and event loops would wait for the lock.
        made = self.url.client(asynchronous=False)
        with self._lock:
            client = self._client = made if self._client is None else self._client
        if client is not made:
            made.close()
        return client

    def async_client(self) -> Any:
        """The async client of the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            opened = self._async_clients.get(loop)
            if opened is None:
                # A client refers to its loop, so an entry of this mapping never goes by itself. Those of loops that are
                # over are removed here; their clients were closed with their loops, or are when they are let go of.
                for each in [each for each in self._async_clients if each.is_closed()]:
                    del self._async_clients[each]
                opened = self._async_clients[loop] = _Opened(self.url.client(asynchronous=True))
            return opened.client

    def close(self) -> None:
        """Close the sync client."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the sync client, and the async one of this loop."""
        self.close()
        with self._lock:
            opened = self._async_clients.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened.aclose()


class _Opened:
    """An async client made here, which is closed with its loop.

    A loop closes the generators that were begun in it before it is closed itself, so that `asyncio.run` leaves no
    connection behind.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._end = self._closing()
        with suppress(StopIteration):
            self._end.__anext__().send(None)  # It begins.

    async def _closing(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.client.aclose()

    async def aclose(self) -> None:
        """Close the client."""
        await self._end.aclose()
