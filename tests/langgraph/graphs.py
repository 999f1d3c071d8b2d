"""Pieces of graphs that several of these tests are made of."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_ttl_history import SessionBuffer
from tests.promises.helpers import Session

from .scenarios import plains


class Totals(TypedDict):
    total: Annotated[int, operator.add]
    log: Annotated[list[str], operator.add]


def noting(name: str, total: int = 1) -> Callable[[Any], dict[str, Any]]:
    return lambda state: {"total": total, "log": [name]}


async def states_of(session: Session, graph: Any) -> list[Any]:
    return plains(await session.states(graph))


def _lookup(thing: str) -> str:
    """Look a thing up when a human allows it."""
    return f"{interrupt(f'{thing}?')} facts about {thing}"


async def _alookup(thing: str) -> str:
    return _lookup(thing)


# An async graph would run the sync one in threads, and two calls at once would ask in any order.
lookup = StructuredTool.from_function(_lookup, _alookup, name="lookup")


def agent(buffer: SessionBuffer) -> Any:
    """A turn of four messages in five steps."""

    def model(state: MessagesState) -> dict[str, Any]:
        if isinstance(state["messages"][-1], HumanMessage):
            return {"messages": [AIMessage("", tool_calls=[{"id": "c", "name": "look", "args": {}}])]}
        return {"messages": [AIMessage("done")]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tool", lambda state: {"messages": [ToolMessage("found", tool_call_id="c")]})
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tool" if state["messages"][-1].tool_calls else END)
    graph.add_edge("tool", "model")
    return graph.compile(checkpointer=buffer.checkpointer())
