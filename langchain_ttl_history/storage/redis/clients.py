"""Clients of Redis and Valkey: those a caller made, and those made here from a URL, when first needed."""

from __future__ import annotations

import asyncio
import codecs
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from importlib import import_module
from inspect import signature
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from langchain_ttl_history.errors import ConfigurationError, brief
from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.storage.redis.drivers import described, exceptions_of, is_async, is_of_cluster, library_of

__all__ = ["SCHEMES", "Clients", "Given", "Made"]

# Seconds; a URL may say otherwise: ?socket_timeout=1&socket_connect_timeout=1
_DEFAULTS: Mapping[str, float] = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
# Connections of one loop; a URL may say otherwise: ?max_connections=200
_CONNECTIONS = 50
# How often and after how many seconds a request is sent again when its connection broke: a
# connection that lay idle is often found closed.
_RETRIES, _PAUSE, _LONGEST_PAUSE = 2, 0.02, 0.2
# What the classes of each library are called.
_NAMES = {"redis": "Redis", "valkey": "Valkey"}


class _Scheme(NamedTuple):
    library: str
    plain: str
    """The scheme for the library."""
    cluster: bool


SCHEMES: Mapping[str, _Scheme] = {
    name + suffix: _Scheme(library, name, bool(suffix))
    for library, names in (("redis", ("redis", "rediss")), ("valkey", ("valkey", "valkeys")))
    for name in names
    for suffix in ("", "+cluster")
}
"""The schemes of URLs."""


class _Opened:
    """An async client made here, which is closed with its loop.

    A loop closes the generators that were begun in it before it is closed itself, so that `asyncio.run` leaves no
    connection behind.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.is_closed = False
        self._end = self._closing()
        with suppress(StopIteration):
            self._end.__anext__().send(None)  # It begins.

    async def _closing(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.is_closed = True
            await self.client.aclose()

    async def aclose(self) -> None:
        """Close the client."""
        await self._end.aclose()


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
        nodes = client.get_nodes() if self.is_cluster else ()
        for each in [getattr(node, f"{self.library}_connection") for node in nodes] or [client]:
            if each is not None:
                pool = each.connection_pool
                # Blocking pools of older versions cannot close the idle ones alone.
                pool.disconnect(*[False] * bool(signature(pool.disconnect).parameters))
                if each.connection is not None:
                    each.connection.disconnect()

    async def adrop_idle(self, client: Any) -> None:
        """Async :meth:`drop_idle`, of a single server's client; a cluster's learns by itself who is the primary."""
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


class Given(Clients):
    """Clients that the caller made, and closes.

    Raises:
        ConfigurationError: There is none, or they are not what their names say.
    """

    def __init__(self, client: Any, async_client: Any) -> None:
        if async_client is None and client is not None and is_async(client):
            client, async_client = None, client
        for name, each, right in (("client", client, False), ("async_client", async_client, True)):
            if each is not None and (library_of(each) is None or is_async(each) is not right):
                what = brief(each) if library_of(each) is None else described(each)
                raise ConfigurationError(
                    f"{name} must be {'an async' if right else 'a'} client of redis-py or valkey-py, not {what}"
                )
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
        self.library, self.is_cluster = kinds[0]

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


class Made(Clients):
    """Clients made from a URL when they are first needed: one for all threads, one for each loop.

    Raises:
        ConfigurationError: The URL's scheme is not known, its driver is not installed, or it cannot be read.
    """

    def __init__(self, url: str) -> None:
        name, _, rest = url.partition(":")
        scheme = SCHEMES.get(name)
        if scheme is None:
            raise ConfigurationError(f"no Redis is known for {name!r} URLs; use one of {', '.join(SCHEMES)}")
        self.library = scheme.library
        self.is_cluster = scheme.cluster
        self._url = f"{scheme.plain}:{rest}"
        try:
            import_module(self.library)
        except ImportError as error:
            raise ConfigurationError(
                f"{name}:// needs the package {self.library!r}: pip install 'langchain-ttl-history[{self.library}]'"
            ) from error
        self._refuse_bare_secret()
        self._lock = lock()
        self._client: Any = None
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Opened] = WeakKeyDictionary()
        own = getattr(exceptions_of(self.library), f"{_NAMES[self.library]}Error")
        try:
            self._check()
        except (ValueError, TypeError, LookupError, own) as error:
            raise ConfigurationError(f"{self!r} is no URL that {self.library} understands: {error}") from error

    def _refuse_bare_secret(self) -> None:
        """Refuse a URL whose password cannot be told from the rest, without what a driver says: it quotes a part."""
        with suppress(ValueError):
            _ = urlsplit(self._url).port
            return
        if "@" in self._url:
            raise ConfigurationError(
                f"{self!r} cannot be read: the port must be a number up to 65535, and special characters of a user "
                "name or password written as codes, which urllib.parse.quote(password, safe='') does"
            )

    def _check(self) -> None:
        """Parse the URL as the clients will, to report an error now; they are made only when needed."""
        module = import_module(f"{self.library}.connection")
        database = urlsplit(self._url).path.strip("/")
        if database and not (database.isascii() and database.isdigit()):
            # The drivers would take database 0, or 12 where 1/2 stands.
            raise ValueError("the path must be the number of a database")
        # Not by `parse_url`, which only newer versions have there.
        pool = module.ConnectionPool.from_url(self._url)
        options = pool.connection_kwargs
        # The drivers find out about these only when they send something.
        codecs.lookup(options.get("encoding", "utf-8"))
        for name in _DEFAULTS:
            if not 0 < options.get(name, 1) < threading.TIMEOUT_MAX:
                raise ValueError(f"{name} must be a number of seconds above 0")
        if not self.is_cluster:
            pool.make_connection()
            return
        if options.get("db"):
            raise ValueError("a cluster has database 0 alone")
        made = getattr(import_module(f"{self.library}.asyncio.cluster"), f"{_NAMES[self.library]}Cluster")
        known = signature(made.__init__).parameters
        pool.connection_class(**{name: value for name, value in options.items() if name not in known})

    def __repr__(self) -> str:
        # The part before the @ may hold a password, and so may an option.
        scheme, _, rest = self._url.partition("://")
        place, _, options = rest.partition("?")
        host = "..." if "@" in options else place.rpartition("@")[2]
        return repr(f"{scheme}{'+cluster' * self.is_cluster}://{host}")

    def client(self) -> Any:
        """The sync client."""
        client = self._client
        if client is not None:
            return client
        # Made without the lock: a cluster's client connects when it is made, and event loops would wait for the lock.
        made = self._make(asynchronous=False)
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
                # What belonged to loops that are over has been closed with them, or is when it is let go of: a client
                # refers to its loop, so that no such entry goes by itself.
                for each in [
                    each for each, other in self._async_clients.items() if other.is_closed or each.is_closed()
                ]:
                    del self._async_clients[each]
                opened = self._async_clients[loop] = _Opened(self._make(asynchronous=True))
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

    def _make(self, *, asynchronous: bool) -> Any:
        inner = ".asyncio" if asynchronous else ""
        module = import_module(f"{self.library}{inner}{'.cluster' * self.is_cluster}")
        made = getattr(module, _NAMES[self.library] + "Cluster" * self.is_cluster)
        retry = import_module(f"{self.library}{inner}.retry").Retry
        errors = import_module(f"{self.library}.exceptions")
        backoff = import_module(f"{self.library}.backoff").ExponentialBackoff(_LONGEST_PAUSE, _PAUSE)
        options: dict[str, Any] = {
            **_DEFAULTS,
            "retry": retry(backoff, _RETRIES, (errors.ConnectionError,)),
        }
        if self.is_cluster:
            return made.from_url(self._url, **options)
        # valkey-py retries only after errors that are also named here.
        options["retry_on_error"] = [errors.ConnectionError]
        pools = import_module(f"{self.library}{inner}.connection")
        if not asynchronous:
            # No limit: there are as many connections as threads that call at once.
            return made.from_pool(pools.ConnectionPool.from_url(self._url, max_connections=2**31, **options))
        # A task that finds all connections in use waits for one, up to a timeout, instead of being refused.
        options |= {"max_connections": _CONNECTIONS, "timeout": _DEFAULTS["socket_timeout"]}
        return made.from_pool(pools.BlockingConnectionPool.from_url(self._url, **options))
