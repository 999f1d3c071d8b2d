"""Requests that the tasks of one event loop make at the same time, sent to a Redis server together.

A driver takes longer for a request than the server does: it finds a connection, sets a timeout for sending
and one for the reply, and waits for both. Requests made in one turn of the loop therefore share a pipeline.
No request waits for others to arrive, nor for a batch that is under way, and a single request is sent as if
there were no batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from langchain_ttl_history.storage.redis.commands import NEVER_DECODE, Command

__all__ = ["Batches"]

# The largest batch. All of its requests are answered when the last one is, and fail if its connection breaks. A session
# remembers as many requests as two batches hold; see `remember` in `lua/shared/requests.lua`.
_REQUESTS, _BYTES = 32, 64 * 1024


class Batches:
    """Sends the requests of one event loop by a client of a single server."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # The batch that other tasks may still join, in this turn of the loop.
        self._open: _Batch | None = None
        self._under_way: set[_Batch] = set()
        # Whether several tasks were asking at the same time lately.
        self._is_busy = False
        # Whether a request is under way that is sent without a batch.
        self._has_one = False

    async def ask(self, command: Command) -> Any:
        """The reply to a command; one that is cancelled may be executed nevertheless."""
        if not (self._is_busy or self._has_one):
            # For a single request, a batch and its task would only add cost.
            self._has_one = True
            try:
                return await _reply(self._client, command)
            finally:
                self._has_one = False
        self._is_busy = True
        size = sum([len(part) for part in command if not isinstance(part, int)])
        batch = self._open
        if batch is None or not batch.has_room_for(size):
            batch = self._open = _Batch()
        answer = batch.add(command, size)
        if batch.task is None:
            self._begin(batch)
        try:
            return await answer
        except asyncio.CancelledError:
            batch.leave()
            raise

    async def aclose(self) -> None:
        """Cancel batches whose answers nobody waits for, and return when they have ended."""
        left = [batch.task for batch in self._under_way if batch.task is not None and not batch.is_awaited]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    def _begin(self, batch: _Batch) -> None:
        self._under_way.add(batch)
        # The task runs for all who ask, so it must not run in the context of the first of them.
        batch.task = Context().run(asyncio.get_running_loop().create_task, self._send(batch))
        batch.task.add_done_callback(lambda _: self._end(batch))

    async def _send(self, batch: _Batch) -> None:
        self._close(batch)
        await batch.send(self._client)
        self._is_busy = not batch.is_of_one or len(self._under_way) > 1

    def _end(self, batch: _Batch) -> None:
        # The task may have been cancelled before it began, for example when the loop shuts down.
        self._close(batch)
        self._under_way.discard(batch)
        batch.cancel()

    def _close(self, batch: _Batch) -> None:
        if self._open is batch:
            self._open = None


class _Batch:
    """Some requests, and the task that sends them."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self._asked: list[tuple[Command, asyncio.Future[Any]]] = []
        self._size = 0
        self._is_sent = False

    @property
    def is_of_one(self) -> bool:
        """Whether it is a single request."""
        return len(self._asked) == 1

    @property
    def is_awaited(self) -> bool:
        """Whether anybody still waits for an answer."""
        return not all(answer.done() for _, answer in self._asked)

    def has_room_for(self, size: int) -> bool:
        """Whether a request of so many bytes fits in."""
        return len(self._asked) < _REQUESTS and self._size + size <= _BYTES

    def add(self, command: Command, size: int) -> asyncio.Future[Any]:
        """Add a command; returns the future of its reply."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append((command, answer))
        self._size += size
        return answer

    def leave(self) -> None:
        """Stop if nobody waits any more, so that no connection is in use for nothing."""
        if self._is_sent and self.task is not None and not self.is_awaited:
            self.task.cancel()

    def cancel(self) -> None:
        """Cancel all answers that are still awaited."""
        for _, answer in self._asked:
            answer.cancel()

    async def send(self, client: Any) -> None:
        """Send what is still asked for, and give each its own answer."""
        self._asked = [(command, answer) for command, answer in self._asked if not answer.done()]
        self._is_sent = True
        try:
            replies = await _replies(client, [command for command, _ in self._asked])
        except Exception as error:  # noqa: BLE001  # each who waits gets it, whatever it is
            replies = [error] * len(self._asked)
        for (_, answer), reply in zip(self._asked, replies, strict=True):
            if answer.done():
                continue
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)


async def _reply(client: Any, command: Command) -> Any:
    return await client.execute_command(*command, **NEVER_DECODE)


async def _replies(client: Any, commands: Sequence[Command]) -> Sequence[Any]:
    """The replies to commands, each of which may be an error; an error that concerns all of them is raised."""
    if len(commands) <= 1:
        return [await _reply(client, command) for command in commands]
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **NEVER_DECODE)
    replies: Sequence[Any] = await pipeline.execute(raise_on_error=False)
    return replies
