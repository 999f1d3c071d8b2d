"""Subgraphs on our saver, note by note as on `InMemorySaver`."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from tests.langgraph.graphs import Totals, noting
from tests.shared.as_in_memory import plain, plains, same_on_both, states_of
from tests.shared.chats import texts
from tests.shared.graphs import build_graph
from tests.shared.models import ScriptedModel
from tests.shared.sessions import Session


def nested(saver: Any, checkpointer: bool | None, *, asks: bool = False) -> Any:
    def ask(state: Totals) -> dict[str, Any]:
        answer = interrupt("may I?") if asks else "unasked"
        return {"log": [f"inner said {answer}, total {state['total']}"], "total": 10}

    inner = StateGraph(Totals)
    inner.add_node("before", noting("inner before", 100))
    inner.add_node("ask", ask)
    inner.add_edge(START, "before")
    inner.add_edge("before", "ask")
    outer = StateGraph(Totals)
    outer.add_node("first", noting("first"))
    outer.add_node("inner", inner.compile(checkpointer=checkpointer))
    outer.add_node("last", noting("last"))
    outer.add_edge(START, "first")
    outer.add_edge("first", "inner")
    outer.add_edge("inner", "last")
    return outer.compile(checkpointer=saver)


@pytest.mark.parametrize("checkpointer", [None, True, False], ids=["inherits", "persistent", "stateless"])
async def test_subgraphs_run_as_in_memory(session: Session, checkpointer: bool | None) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = nested(saver, checkpointer)
        notes += [await session.run(graph, {"total": 1, "log": ["go"]}) for _ in range(3)]
        notes.append(await states_of(session, graph))
        state = await session.colour.call(graph, "get_state", session.config, subgraphs=True)
        notes.append(plain(state))

    await same_on_both(session, scenario)


@pytest.mark.parametrize("checkpointer", [None, True], ids=["inherits", "persistent"])
@pytest.mark.parametrize("bound", [True, False], ids=["bound user", "user in the config"])
async def test_an_interrupt_in_a_subgraph_is_shown_and_resumed_as_in_memory(
    session: Session, checkpointer: bool | None, bound: bool
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = nested(saver, checkpointer, asks=True)
        for turn in range(2):
            result = await session.run(graph, {"total": 1, "log": [f"go {turn}"]})
            notes.append([each.value for each in result["__interrupt__"]])
            state = await session.colour.call(graph, "get_state", session.config, subgraphs=True)
            notes.append(plain(state))
            inner = state.tasks[0].state
            notes.append(plain(await session.colour.call(graph, "get_state", inner.config)))
            notes.append(plains(await session.colour.collect(graph, "get_state_history", inner.config)))
            await session.colour.call(graph, "update_state", inner.config, {"log": ["slipped in"]})
            notes.append(await session.run(graph, Command(resume=f"yes {turn}")))
            notes.append(await states_of(session, graph))

    await same_on_both(session, scenario, bound=bound)


async def test_a_persistent_subgraph_remembers_between_turns_as_in_memory(
    session: Session,
) -> None:
    class Own(TypedDict):
        log: Annotated[list[str], operator.add]
        seen: Annotated[int, operator.add]

    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        inner = StateGraph(Own)
        inner.add_node("count", lambda state: {"seen": 1, "log": [f"seen {state.get('seen', 0)}"]})
        inner.add_edge(START, "count")
        outer = StateGraph(Totals)
        outer.add_node("inner", inner.compile(checkpointer=True))
        outer.add_edge(START, "inner")
        graph = outer.compile(checkpointer=saver)
        notes += [await session.run(graph, {"total": 1, "log": []}) for _ in range(3)]

    notes = await same_on_both(session, scenario)
    assert notes[-1]["log"][-1] == "seen 2"


async def test_messages_of_a_subgraph_stay_out_of_the_conversation_until_they_are_returned(
    session: Session,
) -> None:
    inner_model = ScriptedModel(answer=lambda messages: AIMessage(f"inner of {len(messages)}"))

    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        inner = build_graph("state_graph", True, inner_model)

        async def acall(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
            result = await inner.ainvoke({"messages": [HumanMessage("inner question")]}, config)
            return {"messages": [AIMessage(f"outer: {result['messages'][-1].content}")]}

        def call(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
            result = inner.invoke({"messages": [HumanMessage("inner question")]}, config)
            return {"messages": [AIMessage(f"outer: {result['messages'][-1].content}")]}

        graph = StateGraph(MessagesState)
        graph.add_node("call", acall if session.colour.is_async else call)
        graph.add_edge(START, "call")
        compiled = graph.compile(checkpointer=saver)
        notes += [texts((await session.ask(compiled, f"q{number}"))["messages"]) for number in range(3)]
        notes.append(await states_of(session, compiled))

    notes = await same_on_both(session, scenario)
    assert await session.texts() == notes[2]
    assert not [text for text in await session.texts() if text == "inner question"]
