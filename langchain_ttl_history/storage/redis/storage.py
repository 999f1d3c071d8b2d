"""Sessions in Redis or Valkey, shared by many workers.

Each verb is one script and one round trip, and the server's clock decides. The scripts, and the layout of
a session, are in ``lua/``; `requests` plans what is sent and reads what is answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from langchain_ttl_history.errors import ConfigurationError, CorruptRecordError, StorageError, brief
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.clocks import Clock, checked_clock
from langchain_ttl_history.storage.own_process import OfThisProcess
from langchain_ttl_history.storage.redis import freeing, listing, requests
from langchain_ttl_history.storage.redis.batches import Batches
from langchain_ttl_history.storage.redis.cancellation import be_cancelled, cancellations
from langchain_ttl_history.storage.redis.clients import Clients, ClientsOfURL, GivenClients
from langchain_ttl_history.storage.redis.commands import NEVER_DECODE, Command, Eval, Keys, Scan
from langchain_ttl_history.storage.redis.damage import located, which_keys
from langchain_ttl_history.storage.redis.drivers import connection_to, is_of_cluster
from langchain_ttl_history.storage.redis.failures import Failures, is_of_another_loop, is_of_replica
from langchain_ttl_history.storage.redis.mirrors import Mirrors
from langchain_ttl_history.storage.redis.numbers import NumbersCache
from langchain_ttl_history.storage.redis.plans import Context, Plan
from langchain_ttl_history.storage.types import Change, Outcome, Query, Snapshot, Usage

__all__ = ["RedisStorage"]

T = TypeVar("T")

# What the names of all keys begin with, unless a program says otherwise.
_PREFIX = "ttl-history"
# For how many seconds a request is retried that a cluster refused while it moves a slot or elects a primary, or for
# which no connection was free; and the seconds between two attempts.
_PATIENCE, _PAUSE = 5.0, 0.05


class RedisStorage(OfThisProcess):
    """Keeps sessions in Redis or Valkey, a single server or a cluster.

    Args:
        client: A client of redis-py or valkey-py, or a URL; a client that is passed in is never
            closed. An async one may be passed here as well.
        async_client: The client for async calls, where `client` is a sync one.
        prefix: What the names of all keys begin with; two programs with different ones can share a server.
        clock: Gives the time in seconds since the epoch instead of the server; for tests.

    Raises:
        ConfigurationError: An argument is wrong, or the driver is not installed.
    """

    private: bool = False
    slack: float = 1.25

    def __init__(
        self,
        client: Any = None,
        async_client: Any = None,
        *,
        prefix: str = _PREFIX,
        clock: Clock | None = None,
    ) -> None:
        if type(prefix) is not str or not prefix.isprintable() or not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError(
                f"prefix must be a string of printable characters without braces, and not empty; not {brief(prefix)}"
            )
        if isinstance(client, str) and async_client is not None:
            raise ConfigurationError("a URL makes both clients; pass async_client beside a client only")
        self._clients: Clients = ClientsOfURL(client) if isinstance(client, str) else GivenClients(client, async_client)
        self._failures = Failures(self._clients.library, is_cluster=self._clients.is_cluster)
        self._batches: WeakKeyDictionary[asyncio.AbstractEventLoop, Batches] = WeakKeyDictionary()
        self._context = Context(Keys(prefix), NumbersCache(), Mirrors(), checked_clock(clock))

    def __repr__(self) -> str:
        prefix = self._context.keys.prefix
        return f"RedisStorage({self._clients!r}{'' if prefix == _PREFIX else f', prefix={prefix!r}'})"

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session."""
        return self._run(requests.read(self._context, key, query))

    def write(self, key: SessionKey, change: Change) -> Outcome:
        """Change one session."""
        return self._run(requests.write(self._context, key, change))

    def delete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Delete a session, or all of a user's, leaving tombstones."""
        return self._run(self._deletion(user_id, session_id, tombstone_ttl))

    def sessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """A page of a user's live sessions, or of everyone's, which scans every node."""
        return self._run(self._page(user_id, after))

    def usage(self) -> Usage:
        """How much is held; scans every node."""
        return self._run(listing.usage(self._context))

    def sweep(self) -> int:
        """Free what is left of sessions that expired; scans every node. The server frees most of it by itself."""
        return self._run(freeing.sweep(self._context))

    def close(self) -> None:
        """Close the sync client, if it was made here."""
        self._clients.close()

    async def aread(self, key: SessionKey, query: Query) -> Snapshot:
        """Async `read`."""
        return await self._arun(requests.read(self._context, key, query))

    async def awrite(self, key: SessionKey, change: Change) -> Outcome:
        """Async `write`."""
        return await self._arun(requests.write(self._context, key, change))

    async def adelete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Async `delete`."""
        return await self._arun(self._deletion(user_id, session_id, tombstone_ttl))

    async def asessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """Async `sessions`."""
        return await self._arun(self._page(user_id, after))

    async def ausage(self) -> Usage:
        """Async `usage`."""
        return await self._arun(listing.usage(self._context))

    async def asweep(self) -> int:
        """Async `sweep`."""
        return await self._arun(freeing.sweep(self._context))

    async def aclose(self) -> None:
        """Close the clients of this loop and of all threads, if they were made here."""
        loop = asyncio.get_running_loop()
        batches = self._batches.get(loop)
        if batches is not None:
            await batches.aclose()
        # No await may come between the two: whoever asks from now on must get another client.
        self._batches.pop(loop, None)
        await self._clients.aclose()

    # Plans

    def _deletion(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> Plan[int]:
        if session_id is None:
            return requests.forget(self._context, user_id, tombstone_ttl)
        return requests.delete(self._context, SessionKey(user_id, session_id), tombstone_ttl)

    def _page(self, user_id: str | None, after: str | None) -> Plan[tuple[list[SessionKey], str | None]]:
        if user_id is None:
            return listing.everyone(self._context, after)
        return listing.page(self._context, user_id, after)

    # Sync and async

    def _run(self, plan: Plan[T]) -> T:
        try:
            request = next(plan)
            while True:
                try:
                    reply = self._reply(request)
                except CorruptRecordError as error:
                    wrong = self._reply(which_keys(request))
                    request = plan.throw(located(error, request, wrong))
                else:
                    request = plan.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _arun(self, plan: Plan[T]) -> T:
        try:
            request = next(plan)
            while True:
                try:
                    reply = await self._areply(request)
                except CorruptRecordError as error:
                    wrong = await self._areply(which_keys(request))
                    request = plan.throw(located(error, request, wrong))
                else:
                    request = plan.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _reply(self, request: Eval | Scan) -> Any:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._send(request)
            except self._failures.every as error:
                if is_of_replica(error):
                    self._clients.drop_idle(self._clients.client())
                self._failures.check(error, is_late=time.monotonic() > until)
            time.sleep(_PAUSE)  # A failover or a slot's move ends by itself, and nobody tells when.

    async def _areply(self, request: Eval | Scan) -> Any:
        until = time.monotonic() + _PATIENCE
        # Who tidies up after a cancellation asks as well, so only a new one counts.
        task = asyncio.current_task()
        before = cancellations(task)
        while True:
            try:
                reply = await self._asend(request)
            except self._failures.every as error:
                if cancellations(task) > before:
                    await be_cancelled()
                if is_of_replica(error):
                    with suppress(*self._failures.every):
                        await self._clients.adrop_idle(self._clients.async_client())
                self._failures.check(error, is_late=time.monotonic() > until)
            except RuntimeError as error:
                if not is_of_another_loop(error):
                    raise
                raise StorageError(
                    "the async client was used in another event loop before, to which its connections belong; close it "
                    f"at that loop's end, or make the storage from a URL, so that each loop has its own: {error}"
                ) from error
            else:
                if cancellations(task) > before:
                    await be_cancelled()
                return reply
            await asyncio.sleep(_PAUSE)  # As in `_reply`.

    def _send(self, request: Eval | Scan) -> Any:
        client = self._clients.client()
        try:
            if isinstance(request, Scan):
                nodes = _primaries(client)
                node, command = request.start(nodes)
                at = client if node is None else connection_to(client, nodes[node])
                return request.end(nodes, node, at.execute_command(*command, **NEVER_DECODE))
            try:
                return client.execute_command(*request.by_sha, **NEVER_DECODE)
            except self._failures.no_script:
                # The server was restarted, or is another one by now.
                return client.execute_command(*request.by_source, **NEVER_DECODE)
        except self._failures.of_driver:
            raise
        except BaseException:
            # Perhaps an exception from a signal handler, between a request and its answer: the next request on that
            # connection would get this answer.
            self._clients.drop_idle(client)
            raise

    async def _asend(self, request: Eval | Scan) -> Any:
        client = self._clients.async_client()
        if isinstance(request, Scan):
            await client.initialize()
            nodes = _primaries(client)
            node, command = request.start(nodes)
            at = client if node is None else nodes[node]
            return request.end(nodes, node, await at.execute_command(*command, **NEVER_DECODE))
        ask = self._asking(client)
        try:
            return await ask(request.by_sha)
        except self._failures.no_script:
            return await ask(request.by_source)

    def _asking(self, client: Any) -> Callable[[Command], Awaitable[Any]]:
        """The function that sends a script's command and returns the reply."""
        if self._clients.is_cluster:
            # Requests of one batch may be for several nodes.
            return lambda command: client.execute_command(*command, **NEVER_DECODE)
        loop = asyncio.get_running_loop()
        batches = self._batches.get(loop)
        if batches is None:
            # A batch refers to its loop, so an entry of this mapping never goes by itself.
            for each in [each() for each in self._batches.keyrefs()]:
                if each is not None and each.is_closed():
                    self._batches.pop(each, None)
            batches = self._batches[loop] = Batches(client)
        return batches.ask


def _primaries(client: Any) -> dict[str, Any]:
    """The primaries of a cluster, by name; empty for a single server."""
    return {node.name: node for node in client.get_primaries()} if is_of_cluster(client) else {}
