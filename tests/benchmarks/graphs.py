"""The conversation that is measured, and the graphs that hold it."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.shared.models import AnsweringModel

_random = random.Random(1)
_pool = "".join(_random.choices(string.ascii_letters + " ", k=1 << 16))


def text(size: int) -> str:
    """This many characters, hardly ever the same twice."""
    start = _random.randrange(len(_pool) - size)
    return _pool[start : start + size]


def human() -> HumanMessage:
    """What opens a turn."""
    return HumanMessage(text(200))


def answer(messages: Sequence[BaseMessage]) -> AIMessage:
    """A call after a human message, an answer after a tool's result."""
    tokens = {
        "input_tokens": 100 * len(messages),
        "output_tokens": 60,
        "total_tokens": 100 * len(messages) + 60,
    }
    told: dict[str, Any] = {
        "usage_metadata": tokens,
        "response_metadata": {"model_name": "scripted", "finish_reason": "stop"},
    }
    if isinstance(messages[-1], HumanMessage):
        call = {
            "type": "tool_call",
            "id": f"call_{_random.getrandbits(64):x}",
            "name": "look",
            "args": {"at": text(20)},
        }
        return AIMessage("", tool_calls=[call], **told)
    return AIMessage(text(300), **told)


def look() -> str:
    """A tool's result."""
    return text(1500)


def state_graph(saver: BaseCheckpointSaver[Any]) -> Any:
    """The smallest tool-calling loop: a model node, a tool node, and messages as the only state."""

    def model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [answer(state["messages"])]}

    def tool(state: MessagesState) -> dict[str, Any]:
        (call,) = state["messages"][-1].tool_calls  # type: ignore[union-attr]  # it is an AIMessage
        return {"messages": [ToolMessage(look(), tool_call_id=call["id"], name="look")]}

    def follow(state: MessagesState) -> str:
        return "tool" if getattr(state["messages"][-1], "tool_calls", None) else END

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", follow, ["tool", END])
    graph.add_edge("tool", "model")
    return graph.compile(checkpointer=saver)


def agent(saver: BaseCheckpointSaver[Any]) -> Any:
    """The same loop as LangChain's agent."""
    tool: BaseTool = StructuredTool.from_function(lambda at: look(), name="look", description="Looks.")
    return create_agent(AnsweringModel(answer=answer), [tool], checkpointer=saver)


GRAPHS: dict[str, Callable[[BaseCheckpointSaver[Any]], Any]] = {
    "state graph": state_graph,
    "create_agent": agent,
}


def turn(graph: Any, config: Any) -> None:
    """One turn of four messages."""
    graph.invoke({"messages": [human()]}, config)
