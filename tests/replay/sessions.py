"""One session of the package, played through its doors."""

from __future__ import annotations

from itertools import cycle
from typing import Any, Literal

from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_ttl_history import Retention, SessionBuffer
from tests.replay.chat import Expected, complaints
from tests.replay.script import Conversation, Turn, playing, scripted_agent, scripted_chain

Door = Literal["agent", "chain"]


class Cast:
    """A buffer with an agent and a chain on it, for every conversation that uses these tools."""

    def __init__(self, cap: int, tools: set[str]) -> None:
        self.cap = cap
        self.buffer = SessionBuffer(retention=Retention(max_messages=cap))
        self.agent = scripted_agent(tools, self.buffer.checkpointer())
        self.chain = RunnableWithMessageHistory(
            scripted_chain(tools),
            self.buffer.get_session_history,
            history_factory_config=self.buffer.history_factory_config,
        )

    def session(self, name: str) -> Session:
        """A new session of this name."""
        return Session(self, name)


class Session:
    """A session being played, and what it should show."""

    def __init__(self, cast: Cast, name: str) -> None:
        self._agent = cast.agent
        self._chain = cast.chain
        self._config: Any = cast.buffer.config("alice", name)
        self._history = cast.buffer.history("alice", name)
        self._expected = Expected(cast.cap, name)

    def event(self, text: str) -> None:
        """Add a system message through the history."""
        self._history.add_messages([SystemMessage(text)])
        self._expected.add([SystemMessage(text)])

    async def aevent(self, text: str) -> None:
        """Async :meth:`event`."""
        await self._history.aadd_messages([SystemMessage(text)])
        self._expected.add([SystemMessage(text)])

    def turn(self, turn: Turn, door: Door) -> None:
        """Play one turn through this door."""
        with playing(turn, self._expected):
            if door == "agent":
                self._agent.invoke({"messages": turn.opening()}, self._config)
            else:
                self._chain.invoke(turn.opening(), self._config)

    async def aturn(self, turn: Turn, door: Door) -> None:
        """Async :meth:`turn`."""
        with playing(turn, self._expected):
            if door == "agent":
                await self._agent.ainvoke({"messages": turn.opening()}, self._config)
            else:
                await self._chain.ainvoke(turn.opening(), self._config)

    def check(self) -> None:
        """Check that both doors show the same messages, and that they are what was said, within the window."""
        self._check(self._history.messages, self._agent.get_state(self._config).values["messages"])

    async def acheck(self) -> None:
        """Async :meth:`check`."""
        state = await self._agent.aget_state(self._config)
        self._check(await self._history.aget_messages(), state.values["messages"])

    def _check(self, history: list[BaseMessage], state: list[BaseMessage]) -> None:
        refusal = self._expected.refusal(history)
        assert refusal is None, refusal
        assert complaints(history) == []
        assert state == history
        ids = [message.id for message in history]
        assert None not in ids
        assert len(set(ids)) == len(ids)


def replay(session: Session, conversation: Conversation, doors: tuple[Door, ...]) -> None:
    """Play a whole conversation, its turns through these doors in turn."""
    session.event(conversation.system)
    for turn, door in zip(conversation.turns, cycle(doors), strict=False):
        session.turn(turn, door)
    session.check()


async def areplay(session: Session, conversation: Conversation, doors: tuple[Door, ...]) -> None:
    """Async :func:`replay`."""
    await session.aevent(conversation.system)
    for turn, door in zip(conversation.turns, cycle(doors), strict=False):
        await session.aturn(turn, door)
    await session.acheck()
