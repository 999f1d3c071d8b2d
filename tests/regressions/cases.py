"""Graphs, and storages between whose requests something happens, for what once went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import Checkpoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import interrupt
from typing_extensions import TypedDict

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.types import Change, Outcome, Query, Snapshot

CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
KEY = SessionKey("u", "t")
LOOP: Any = {"source": "loop", "step": 1, "parents": {}}


class Veil:
    """A cipher that is none, but leaves no plaintext."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "veil", bytes(byte ^ 0xA5 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "veil"
        return bytes(byte ^ 0xA5 for byte in ciphertext)


class Counted(MessagesState):
    n: int


class Hooked(MemoryStorage):
    """A storage between whose requests something may happen."""

    after_write: Callable[[Change], None] | None = None
    after_read: Callable[[Query], None] | None = None
    before_write: Callable[[Change], None] | None = None

    def write(self, key: SessionKey, change: Change) -> Outcome:
        if self.before_write is not None:
            self.before_write(change)
        outcome = super().write(key, change)
        if self.after_write is not None:
            self.after_write(change)
        return outcome

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        snapshot = super().read(key, query)
        if self.after_read is not None:
            self.after_read(query)
        return snapshot


def ids(messages: list[BaseMessage]) -> list[str | None]:
    return [message.id for message in messages]


def at(made: Checkpoint) -> Any:
    return {"configurable": {**CONFIG["configurable"], "checkpoint_id": made["id"]}}


def echoing(buffer: SessionBuffer) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("echo", lambda state: {"messages": [AIMessage("a" * 600)]})
    builder.add_edge(START, "echo")
    return builder.compile(checkpointer=buffer.checkpointer())


def chained(buffer: SessionBuffer, state: Any = MessagesState, **nodes: Any) -> Any:
    """A graph of these nodes, one after the other."""
    graph: Any = StateGraph(state)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *nodes], nodes, strict=False):
        graph.add_edge(before, after)
    return graph.compile(checkpointer=buffer.checkpointer())


def graph_of(buffer: SessionBuffer, *steps: Callable[[MessagesState], dict[str, Any]]) -> Any:
    """The same, where names do not matter."""
    return chained(buffer, **{f"step{number}": step for number, step in enumerate(steps)})


def asking(buffer: SessionBuffer) -> Any:
    """A graph that calls a tool, which asks a person."""

    def model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("", id="call", tool_calls=[{"id": "c", "name": "t", "args": {}}])]}

    def tools(state: MessagesState) -> dict[str, Any]:
        return {"messages": [ToolMessage(str(interrupt("go?")), tool_call_id="c", id="result")]}

    return graph_of(buffer, model, tools)


def plain_texts(messages: list[BaseMessage]) -> list[str]:
    """What each message says, whatever calls it makes."""
    return [message.text for message in messages]


def ask(graph: Any, question: str, durability: str = "sync") -> list[str]:
    """What a graph holds at the end of a turn."""
    return plain_texts(graph.invoke({"messages": [HumanMessage(question)]}, CONFIG, durability=durability)["messages"])


CALL: Any = {"name": "tool", "args": {}, "id": "c"}
DELTAS: Any = TypedDict(  # type: ignore[misc]  # made here
    "DELTAS", {"messages": Annotated[list[BaseMessage], DeltaChannel(_messages_delta_reducer)]}
)


def calls_while(buffer: SessionBuffer, other: Callable[[], object], state: Any = MessagesState) -> Any:
    """A graph during whose tool call something else happens."""

    def tool(_: Any) -> Any:
        other()
        return {"messages": [ToolMessage("result", tool_call_id="c")]}

    return chained(
        buffer,
        state,
        model=lambda _: {"messages": [AIMessage("call", tool_calls=[CALL])]},
        tool=tool,
        end=lambda _: {"messages": [AIMessage("answer")]},
    )


class Plain(TypedDict):
    """A graph's state whose messages may be anything."""

    messages: Any


class Numbered(TypedDict):
    """A graph's state without messages."""

    n: int


def says(text: str) -> Callable[[Any], Any]:
    """A node that says this."""
    return lambda _: {"messages": [AIMessage(text)]}


class Turns:
    """Turns of agents on one session that go on step by step, in any order.

    Args:
        buffer: Keeps the session.
        calls: For each turn, by a letter, how many tool calls it makes one after the other.
        exits: The letters of those that are stored at their end alone.
    """

    def __init__(self, buffer: SessionBuffer, calls: dict[str, int], exits: str = "") -> None:
        def model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
            me = config["configurable"]["me"]
            made = sum(text.startswith(f"{me} call") for text in plain_texts(state["messages"]))
            if made == calls[me]:
                return {"messages": [AIMessage(f"{me}!")]}
            call: Any = {"name": "t", "args": {}, "id": f"{me} {made}"}
            return {"messages": [AIMessage(f"{me} call {made}", tool_calls=[call])]}

        def tools(state: MessagesState) -> dict[str, Any]:
            said: Any = state["messages"][-1]
            return {"messages": [ToolMessage(f"result of {said.text}", tool_call_id=said.tool_calls[0]["id"])]}

        def after_model(state: MessagesState) -> str:
            said: Any = state["messages"][-1]
            return "tools" if said.tool_calls else END

        graph: Any = StateGraph(MessagesState).add_node("model", model).add_node("tools", tools)
        graph.add_edge(START, "model").add_edge("tools", "model").add_conditional_edges("model", after_model)
        self._graph = graph.compile(checkpointer=buffer.checkpointer())
        self._exits = exits
        self._turns: dict[str, Iterator[Any]] = {}
        self._held: dict[str, list[str]] = {}

    def go_on(self, steps: str) -> None:
        """One more step of the turn of each letter, of which the first stores its question."""
        for me in steps:
            if me not in self._turns:
                config = {"configurable": {**CONFIG["configurable"], "me": me}}
                asked = {"messages": [HumanMessage(f"{me}?")]}
                durability = "exit" if me in self._exits else "sync"
                self._turns[me] = self._graph.stream(asked, config, durability=durability, stream_mode="values")
            state = next(self._turns[me], None)
            if state is not None:
                self._held[me] = plain_texts(state["messages"])

    def end(self) -> dict[str, list[str]]:
        """What each turn returns, which all go on to their end."""
        for me, turn in sorted(self._turns.items()):
            for state in turn:
                self._held[me] = plain_texts(state["messages"])
        return self._held


def calling(buffer: SessionBuffer, state: Any = MessagesState, **before: Any) -> Any:
    """A graph that calls a tool of the app's if it is asked to go, and else answers; other nodes may come before."""

    def model(given: Any) -> Any:
        asked = given["messages"][-1].text
        return {"messages": [AIMessage("call", tool_calls=[CALL]) if asked == "go" else AIMessage(f"to {asked}")]}

    return chained(buffer, state, **before, model=model)


def stepping(graph: Any, *said: Any) -> Iterator[Any]:
    """A turn that goes on step by step; the first step stores what it is given."""
    stepped: Iterator[Any] = graph.stream({"messages": [*said]}, CONFIG, durability="sync", stream_mode="values")
    return stepped
