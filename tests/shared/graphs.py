"""The agents, graphs and chains that tests talk to."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

from langchain_ttl_history import SessionBuffer
from tests.shared.gates import Gate
from tests.shared.models import ScriptedModel, echo

GRAPH_KINDS = ("agent", "state_graph", "delta")


class _Lookup(BaseModel):
    thing: str


@dataclass
class Tools:
    """A real tool, `lookup`, that can be stopped at a gate per thing and counts its calls."""

    gates: dict[str, Gate] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[BaseTool]:
        def lookup(thing: str) -> str:
            """Look a thing up."""
            if gate := self.gates.get(thing):
                gate.stop()
            self.looked_up.append(thing)
            return f"facts about {thing}"

        async def alookup(thing: str) -> str:
            """Look a thing up."""
            if gate := self.gates.get(thing):
                await gate.astop()
            self.looked_up.append(thing)
            return f"facts about {thing}"

        # Without a schema, one would be made for each tool, which takes longer than many a test.
        return [StructuredTool.from_function(lookup, coroutine=alookup, name="lookup", args_schema=_Lookup)]


class DeltaState(TypedDict):
    """A conversation kept in a channel of deltas, with a snapshot now and then."""

    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=4)]


class Desk(MessagesState):
    """A state as a deep agent's, whose files are no part of the conversation."""

    files: Annotated[list[str], DeltaChannel(lambda state, writes: [*(state or []), *(x for w in writes for x in w)])]


class Appending(TypedDict):
    """A conversation whose messages get no ids from the graph."""

    messages: Annotated[list[Any], operator.add]


def build_graph(
    kind: str,
    checkpointer: Any,
    model: BaseChatModel | None = None,
    tools: Sequence[BaseTool] | None = None,
    **compile_options: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A tool-calling agent: LangChain's own, or a graph over a plain, an appending or a delta channel."""
    chat_model = model or ScriptedModel()
    all_tools = Tools().all if tools is None else tools
    if kind == "agent":
        return create_agent(chat_model, list(all_tools), checkpointer=checkpointer)

    def ask(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [chat_model.invoke(state["messages"])]}

    async def aask(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [await chat_model.ainvoke(state["messages"])]}

    def after_model(state: dict[str, Any]) -> Literal["tools", "__end__"]:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else "__end__"

    schema: Any = {"delta": DeltaState, "appending": Appending}.get(kind, MessagesState)
    graph = StateGraph(schema)
    graph.add_node("model", RunnableLambda(ask, aask))
    graph.add_node("tools", ToolNode(list(all_tools)))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", after_model, {"tools": "tools", "__end__": END})
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=checkpointer, **compile_options)


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


def build_chain(
    buffer: SessionBuffer, model: BaseChatModel | None = None, *, style: str = "keyed"
) -> Runnable[Any, Any]:
    """A `RunnableWithMessageHistory` around a prompt ("keyed") or a bare model ("sliced")."""
    chat_model = model or ScriptedModel(answer=echo)
    options: dict[str, Any] = {"history_factory_config": buffer.history_factory_config}
    runnable: Runnable[Any, Any] = chat_model
    if style == "keyed":
        prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
        runnable = prompt | chat_model
        options |= {"input_messages_key": "question", "history_messages_key": "history"}
    return with_history(runnable, buffer, **options)


def with_history(runnable: Runnable[Any, Any], buffer: SessionBuffer, **options: Any) -> Runnable[Any, Any]:
    """A `RunnableWithMessageHistory` over the buffer, without LangChain's notice that it is going."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        return RunnableWithMessageHistory(
            runnable,
            buffer.get_session_history,
            **{"history_factory_config": buffer.history_factory_config, **options},
        )
