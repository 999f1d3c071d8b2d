"""What worker processes do in tests: each opens a buffer of its own on the same server."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.storage import RedisStorage
from tests.shared.graphs import build_graph
from tests.shared.models import ScriptedModel, echo

UNBOUNDED = Retention(max_messages=None)


class Paused(ScriptedModel):
    """A model that says when it was asked, and waits to be let go on."""

    asked: Any
    released: Any

    def _reply(self, messages: Any) -> Any:
        self.asked.set()
        assert self.released.wait(60)
        return super()._reply(messages)


def append(url: str, prefix: str, worker: int, times: int) -> None:
    """Append a question and its answer so many times; every other worker in a loop, several at once."""
    storage = RedisStorage(url, prefix=prefix)
    history = SessionBuffer(storage, retention=UNBOUNDED).history("ada", "s1")

    def pair(number: int) -> list[Any]:
        name = f"{worker}-{number}"
        return [HumanMessage(f"q{name}", id=f"q{name}"), AIMessage(f"a{name}", id=f"a{name}")]

    async def several() -> None:
        for start in range(0, times, 5):
            await asyncio.gather(*(history.aadd_messages(pair(each)) for each in range(start, start + 5)))
        await storage.aclose()

    if worker % 2:
        asyncio.run(several())
    else:
        for number in range(times):
            history.add_messages(pair(number))
        storage.close()


def turn(url: str, prefix: str, question: str, asked: Any, released: Any, answers: Any) -> None:
    """An agent's turn that stops while the model thinks."""
    storage = RedisStorage(url, prefix=prefix)
    buffer = SessionBuffer(storage)
    graph = build_graph("agent", buffer.checkpointer(), Paused(answer=echo, asked=asked, released=released), tools=[])
    state = graph.invoke({"messages": [HumanMessage(question)]}, buffer.config("ada", "s1"), durability="sync")
    answers.put([message.content for message in state["messages"]])
    storage.close()
