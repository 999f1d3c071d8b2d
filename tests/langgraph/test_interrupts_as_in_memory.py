"""Interrupts, breakpoints, commands and failures on our saver, note by note as on `InMemorySaver`."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt

from tests.langgraph.graphs import Totals, lookup, noting
from tests.shared.as_in_memory import plain, plain_value, same_on_both, states_of
from tests.shared.chats import texts
from tests.shared.graphs import GRAPH_KINDS, build_graph
from tests.shared.sessions import Session


def fanning_out(saver: Any) -> Any:
    def ask(state: Any) -> dict[str, Any]:
        return {"log": [f"{state['name']}: {interrupt(state['name'])}"]}

    graph = StateGraph(Totals)
    graph.add_node("start", noting("start"))
    graph.add_node("ask", ask)
    graph.add_node("end", noting("end"))
    graph.add_edge(START, "start")
    graph.add_conditional_edges("start", lambda state: [Send("ask", {"name": name}) for name in "abc"], ["ask"])
    graph.add_edge("ask", "end")
    return graph.compile(checkpointer=saver)


async def test_parallel_interrupts_are_resumed_together_as_in_memory(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = fanning_out(saver)
        await session.run(graph, {"total": 0, "log": []})
        state = await session.state(graph)
        notes.append(plain(state))
        answers = {each.id: f"yes to {each.value}" for each in state.interrupts}
        notes.append(await session.run(graph, Command(resume=answers)))
        notes.append(await states_of(session, graph))

    notes = await same_on_both(session, scenario)
    assert notes[1]["log"] == ["start", "a: yes to a", "b: yes to b", "c: yes to c", "end"]


async def test_parallel_interrupts_are_resumed_one_by_one_as_in_memory(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = fanning_out(saver)
        await session.run(graph, {"total": 0, "log": []})
        for name in "bca":
            state = await session.state(graph)
            notes.append(plain(state))
            (wanted,) = [each for each in state.interrupts if each.value == name]
            result = await session.run(graph, Command(resume={wanted.id: f"yes to {name}"}))
            notes.append(result.get("log"))
        notes.append(await states_of(session, graph))

    notes = await same_on_both(session, scenario)
    assert notes[-2] == ["start", "a: yes to a", "b: yes to b", "c: yes to c", "end"]


async def test_several_interrupts_of_one_node_are_resumed_in_turn_as_in_memory(
    session: Session,
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        def ask(state: Totals) -> dict[str, Any]:
            first = interrupt("name?")
            second = interrupt(f"{first}, age?")
            return {"log": [f"{first} is {second}"]}

        graph = StateGraph(Totals)
        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        compiled = graph.compile(checkpointer=saver)
        await session.run(compiled, {"total": 0, "log": []})
        for answer in ("bob", "forty"):
            notes.append(plain(await session.state(compiled)))
            notes.append(plain_value(await session.run(compiled, Command(resume=answer))).get("log"))

    notes = await same_on_both(session, scenario)
    assert notes[-1] == ["bob is forty"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_agents_parallel_tool_calls_ask_and_resume_as_in_memory(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver, tools=[lookup])
        await session.ask(agent, "look up a, b")
        state = await session.state(agent)
        notes.append(plain(state)["interrupts"])
        for wanted in sorted(state.interrupts, key=lambda each: str(each.value)):
            result = await session.run(agent, Command(resume={wanted.id: "yes:"}))
            notes.append(texts(result["messages"]))
        notes.append(texts((await session.ask(agent, "bye"))["messages"]))

    await same_on_both(session, scenario)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_static_breakpoints_stop_and_go_on_as_in_memory(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver)
        given = {"messages": [HumanMessage("look up a")]}
        await session.run(agent, given, interrupt_before=["tools"])
        notes.append(plain(await session.state(agent))["next"])
        await session.run(agent, None, interrupt_after=["tools"])
        notes.append(plain(await session.state(agent))["values"]["messages"])
        result = await session.run(agent, None)
        notes.append(texts(result["messages"]))
        notes.append([(each["source"], each["step"]) for each in await states_of(session, agent)])

    await same_on_both(session, scenario)


async def test_a_command_that_updates_and_goes_runs_as_in_memory(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        def route(state: Totals) -> Command[str]:
            return Command(update={"log": ["routed"], "total": 5}, goto="two")

        graph = StateGraph(Totals)
        graph.add_node("route", route, destinations=("one", "two"))
        graph.add_node("one", noting("one"))
        graph.add_node("two", noting("two"))
        graph.add_edge(START, "route")
        compiled = graph.compile(checkpointer=saver)
        notes.append(await session.run(compiled, {"total": 0, "log": []}))
        notes.append(await session.run(compiled, Command(update={"total": 7}, goto="one")))
        notes.append(await states_of(session, compiled))

    await same_on_both(session, scenario)


async def test_a_node_that_fails_goes_on_where_it_stopped_as_in_memory(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        unlucky = [True]

        def fails(state: Totals) -> dict[str, Any]:
            if unlucky:
                unlucky.pop()
                raise ValueError("bad luck")
            return {"log": ["lucky"]}

        graph = StateGraph(Totals)
        graph.add_node("fine", noting("fine"))
        graph.add_node("fails", fails)
        graph.add_edge(START, "fine")
        graph.add_edge("fine", "fails")
        compiled = graph.compile(checkpointer=saver)
        with pytest.raises(ValueError, match="bad luck"):
            await session.run(compiled, {"total": 0, "log": []})
        notes.append(plain(await session.state(compiled)))
        notes.append(await session.run(compiled, None))
        notes.append(await states_of(session, compiled))

    await same_on_both(session, scenario)
