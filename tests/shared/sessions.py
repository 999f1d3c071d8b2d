"""One interface over the sync and the async variants of everything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    BaseMessage,
    HumanMessage,
)
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_ttl_history import SessionBuffer, TTLChatMessageHistory
from tests.shared.chats import texts


class Colour:
    """One async interface over the sync and the async variant of a method."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_async = name == "async"

    async def call(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call `owner.method`, in a thread, or await `owner.amethod`."""
        if self.is_async:
            return await getattr(owner, "a" + method)(*args, **kwargs)
        return await asyncio.to_thread(getattr(owner, method), *args, **kwargs)

    async def collect(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Everything that `owner.method` or `owner.amethod` yields."""
        if self.is_async:
            return [each async for each in getattr(owner, "a" + method)(*args, **kwargs)]
        return await asyncio.to_thread(lambda: list(getattr(owner, method)(*args, **kwargs)))


class Session:
    """One session of one user, through the sync or the async variants of everything."""

    def __init__(self, buffer: SessionBuffer, colour: Colour, user_id: str = "alice", session_id: str = "s1") -> None:
        self.buffer = buffer
        self.colour = colour
        self.user_id = user_id
        self.session_id = session_id

    def __call__(self, user_id: str, session_id: str) -> Session:
        """Another session of the same buffer and colour."""
        return Session(self.buffer, self.colour, user_id, session_id)

    def through(self, buffer: SessionBuffer) -> Session:
        """The same session as another worker sees it."""
        return Session(buffer, self.colour, self.user_id, self.session_id)

    @property
    def key(self) -> tuple[str, str]:
        return (self.user_id, self.session_id)

    @property
    def config(self) -> RunnableConfig:
        return self.buffer.config(*self.key)

    @property
    def history(self) -> TTLChatMessageHistory:
        return self.buffer.history(*self.key)

    async def read(self, history: TTLChatMessageHistory) -> list[BaseMessage]:
        """The messages of any history object."""
        if self.colour.is_async:
            return list(await history.aget_messages())
        return list(await asyncio.to_thread(lambda: history.messages))

    async def messages(self) -> list[BaseMessage]:
        return await self.read(self.history)

    async def texts(self) -> list[str]:
        return texts(await self.messages())

    async def add(self, *messages: BaseMessage) -> None:
        await self.colour.call(self.history, "add_messages", list(messages))

    async def event(self, text: str) -> None:
        await self.colour.call(self.history, "add_system_message", text)

    async def replace(self, messages: Sequence[BaseMessage], history: TTLChatMessageHistory | None = None) -> None:
        """Set the messages of a history, or of the live one."""
        history = history or self.history
        if self.colour.is_async:
            await history.aset_messages(messages)
        else:
            history.messages = list(messages)

    async def clear(self) -> None:
        await self.colour.call(self.history, "clear")

    async def info(self) -> Any:
        return await self.colour.call(self.buffer, "info", *self.key)

    async def delete(self) -> bool:
        return bool(await self.colour.call(self.buffer, "delete", *self.key))

    async def sessions(self, *args: Any, **kwargs: Any) -> list[Any]:
        return await self.colour.collect(self.buffer, "sessions", *args, **kwargs)

    async def ask(self, graph: Runnable[Any, Any], text: str | None, **options: Any) -> dict[str, Any]:
        """One turn of an agent; with no text it goes on where it stopped."""
        given = None if text is None else {"messages": [HumanMessage(text)]}
        return dict(await self.colour.call(graph, "invoke", given, self.config, **options))

    def begin(self, graph: Runnable[Any, Any], text: str, **options: Any) -> asyncio.Task[dict[str, Any]]:
        """An agent's turn that others overlap; each of its steps is stored before the next one begins."""
        return asyncio.create_task(self.ask(graph, text, **{"durability": "sync", **options}))

    async def run(self, graph: Runnable[Any, Any], given: Any, **options: Any) -> Any:
        """Invoke a graph with anything, a `Command` say."""
        return await self.colour.call(graph, "invoke", given, self.config, **options)

    async def say(self, chain: Runnable[Any, Any], text: str, *, style: str = "keyed") -> Any:
        """One turn of a chain."""
        given: Any = {"question": text} if style == "keyed" else [HumanMessage(text)]
        return await self.colour.call(chain, "invoke", given, self.config)

    async def state(self, graph: Any, config: RunnableConfig | None = None) -> Any:
        return await self.colour.call(graph, "get_state", config or self.config)

    async def states(self, graph: Any, **options: Any) -> list[Any]:
        return await self.colour.collect(graph, "get_state_history", self.config, **options)

    async def seen_by(self, graph: Any) -> list[str]:
        """The conversation in the graph's state, as texts."""
        return texts((await self.state(graph)).values.get("messages", []))
