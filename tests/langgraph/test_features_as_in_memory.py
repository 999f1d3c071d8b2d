"""Updates, the functional API and other kinds of state on our saver, note by note as on `InMemorySaver`."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from tests.langgraph.graphs import Totals, noting
from tests.shared.as_in_memory import plain, same_on_both, states_of
from tests.shared.chats import texts
from tests.shared.graphs import GRAPH_KINDS, build_graph
from tests.shared.sessions import Session


async def test_the_functional_api_keeps_results_and_the_previous_value_as_in_memory(
    session: Session,
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        ran: list[str] = []

        if session.colour.is_async:

            @task
            async def double(number: int) -> int:
                ran.append(f"double {number}")
                return number * 2

            @entrypoint(checkpointer=saver)
            async def work(number: int, *, previous: Any = None) -> Any:
                doubled = await double(number)
                answer = interrupt(f"add to {doubled}?")
                return entrypoint.final(value=[doubled, answer, previous], save=(previous or 0) + doubled)
        else:

            @task
            def double(number: int) -> int:
                ran.append(f"double {number}")
                return number * 2

            @entrypoint(checkpointer=saver)
            def work(number: int, *, previous: Any = None) -> Any:
                doubled = double(number).result()
                answer = interrupt(f"add to {doubled}?")
                return entrypoint.final(value=[doubled, answer, previous], save=(previous or 0) + doubled)

        for number in (1, 2, 3):
            await session.run(work, number)
            notes.append(plain(await session.state(work))["interrupts"])
            notes.append(await session.run(work, Command(resume=f"ok {number}")))
        notes.append(list(ran))
        notes.append([each["step"] for each in await states_of(session, work)])

    notes = await same_on_both(session, scenario)
    assert notes[-3] == [6, "ok 3", 6]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_update_state_with_the_config_of_get_state_works_as_in_memory(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver)
        await session.ask(agent, "hello")
        for number in range(3):
            state = await session.state(agent)
            await session.colour.call(
                agent, "update_state", state.config, {"messages": [AIMessage(f"update {number}")]}
            )
            notes.append(plain(await session.state(agent)))
        notes.append(texts((await session.ask(agent, "on"))["messages"]))
        notes.append(await states_of(session, agent))

    await same_on_both(session, scenario)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_update_state_of_an_empty_thread_works_as_in_memory(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver)
        await session.colour.call(
            agent,
            "update_state",
            session.config,
            {"messages": [HumanMessage("first")]},
            as_node="__start__",
        )
        notes.append(plain(await session.state(agent)))
        notes.append(texts((await session.ask(agent, None))["messages"]))

    await same_on_both(session, scenario)


async def test_bulk_updates_work_as_in_memory(session: Session) -> None:
    from langgraph.types import StateUpdate

    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = StateGraph(Totals)
        graph.add_node("one", noting("one"))
        graph.add_node("two", noting("two"))
        graph.add_edge(START, "one")
        graph.add_edge("one", "two")
        graph.add_edge("two", END)
        compiled = graph.compile(checkpointer=saver)
        await session.run(compiled, {"total": 0, "log": []})
        updates = [
            [StateUpdate({"total": 1, "log": ["u1"]}, "one")],
            [StateUpdate({"total": 2, "log": ["u2"]}, "two")],
        ]
        await session.colour.call(compiled, "bulk_update_state", session.config, updates)
        notes.append(await states_of(session, compiled))

    await same_on_both(session, scenario)


async def test_a_graph_without_messages_runs_as_in_memory(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = StateGraph(Totals)
        graph.add_node("one", noting("one"))
        graph.add_edge(START, "one")
        compiled = graph.compile(checkpointer=saver)
        notes += [await session.run(compiled, {"total": number, "log": [str(number)]}) for number in range(3)]
        notes.append(await states_of(session, compiled))

    await same_on_both(session, scenario)
    assert await session.messages() == []


async def test_a_graph_whose_messages_are_plain_strings_runs_as_in_memory(
    session: Session,
) -> None:
    class Strings(TypedDict):
        messages: Annotated[list[str], operator.add]

    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = StateGraph(Strings)
        graph.add_node("one", lambda state: {"messages": [f"seen {len(state['messages'])}"]})
        graph.add_edge(START, "one")
        compiled = graph.compile(checkpointer=saver)
        notes += [await session.run(compiled, {"messages": [str(number)]}) for number in range(3)]
        notes.append(await states_of(session, compiled))

    await same_on_both(session, scenario)
