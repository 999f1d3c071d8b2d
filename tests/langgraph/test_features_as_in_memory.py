"""LangGraph's features on our saver, note by note as on `InMemorySaver`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

from tests.promises.helpers import GRAPH_KINDS, ScriptedModel, Session, StreamingModel, build_graph, texts

from .scenarios import plain, plain_value, plains, same_on_both


class Totals(TypedDict):
    total: Annotated[int, operator.add]
    log: Annotated[list[str], operator.add]


def noting(name: str, total: int = 1) -> Callable[[Any], dict[str, Any]]:
    return lambda state: {"total": total, "log": [name]}


async def states_of(session: Session, graph: Any) -> list[Any]:
    return plains(await session.states(graph))


# --- subgraphs --------------------------------------------------------------------------------


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


# --- interrupts -------------------------------------------------------------------------------


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


@tool
def lookup(thing: str) -> str:
    """Look a thing up when a human allows it."""
    return f"{interrupt(f'{thing}?')} facts about {thing}"


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


# --- the functional api -----------------------------------------------------------------------


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


# --- durability -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_every_durability_leaves_the_same_checkpoints_as_in_memory(
    session: Session, kind: str, durability: str
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver)
        for question in ("look up a, b", "hello"):
            result = await session.ask(agent, question, durability=durability)
            notes.append(texts(result["messages"]))
        notes.append(await states_of(session, agent))

    await same_on_both(session, scenario)
    assert (await session.texts())[-2:] == ["hello", "re: hello"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_interrupt_with_durability_exit_is_resumed_as_in_memory(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver, tools=[lookup])
        await session.ask(agent, "look up a", durability="exit")
        notes.append(plain(await session.state(agent))["interrupts"])
        result = await session.run(agent, Command(resume="yes:"), durability="exit")
        notes.append(texts(result["messages"]))

    await same_on_both(session, scenario)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_turn_with_durability_exit_sees_and_keeps_what_chains_said(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    await session.event("before")
    await session.ask(agent, "hello", durability="exit")
    await session.event("between")
    await session.ask(agent, "look up a", durability="exit")
    assert texts(model.inputs[1]) == ["before", "hello", "re: hello", "between", "look up a"]
    expected = [
        *("before", "hello", "re: hello", "between"),
        *("look up a", "call a", "facts about a", "answer: facts about a"),
    ]
    assert await session.texts() == await session.seen_by(agent) == expected


# --- streaming --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "debug", "tasks", "checkpoints"])
@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_streaming_yields_the_same_shapes_as_in_memory(session: Session, kind: str, mode: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver, StreamingModel())
        for question in ("hello", "and again"):
            parts = await session.colour.collect(
                agent,
                "stream",
                {"messages": [HumanMessage(question)]},
                session.config,
                stream_mode=mode,
            )
            if mode == "values":
                notes.append([texts(part["messages"]) for part in parts])
            elif mode == "updates":
                notes.append(plain_value(parts))
            elif mode == "messages":
                notes.append([str(part[0].content) for part in parts])
            else:
                notes.append([part.get("type", sorted(part)) for part in parts])

    await same_on_both(session, scenario)


async def test_streamed_checkpoints_name_checkpoints_that_are_stored(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    parts = await session.colour.collect(
        agent,
        "stream",
        {"messages": [HumanMessage("look up a")]},
        session.config,
        stream_mode="checkpoints",
    )
    assert len(parts) == 5
    for part in parts:
        state = await session.state(agent, part["config"])
        assert texts(state.values.get("messages", [])) == texts(part["values"].get("messages", []))


# --- updates ----------------------------------------------------------------------------------


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


# --- delta channels ---------------------------------------------------------------------------


class Deltas(TypedDict):
    log: Annotated[
        list[str],
        DeltaChannel(
            lambda state, writes: [*state, *(x for write in writes for x in write)],
            snapshot_frequency=3,
        ),
    ]
    total: Annotated[int, operator.add]


def delta_graph(saver: Any) -> Any:
    graph = StateGraph(Deltas)
    graph.add_node("one", lambda state: {"log": [f"one of {len(state['log'])}"], "total": 1})
    graph.add_node("left", lambda state: {"log": ["left"]})
    graph.add_node("right", lambda state: {"log": ["right"]})
    graph.add_edge(START, "one")
    graph.add_edge("one", "left")
    graph.add_edge("one", "right")
    return graph.compile(checkpointer=saver)


async def delta_notes(session: Session, saver: Any, graph: Any, channels: list[str]) -> list[Any]:
    """For each checkpoint what its delta channels are made of."""
    notes = []
    for snapshot in await session.states(graph):
        history = await session.colour.call(
            saver, "get_delta_channel_history", config=snapshot.config, channels=channels
        )
        for name in channels:
            entry = history[name]
            seed = entry.get("seed", "no seed")
            notes.append(
                [
                    plain_value([value for _, _, value in entry["writes"]]),
                    plain_value(getattr(seed, "value", seed)),
                    type(seed).__name__,
                ]
            )
    return notes


async def test_delta_channels_on_forks_are_made_of_the_same_as_in_memory(
    session: Session,
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = delta_graph(saver)
        notes += [await session.run(graph, {"log": [f"q{number}"], "total": 0}) for number in range(3)]
        states = await session.states(graph)
        for place in (2, 5, 7):
            result = await session.colour.call(
                graph, "invoke", {"log": [f"fork at {place}"], "total": 0}, states[place].config
            )
            notes.append(result)
            notes.append(plain(await session.state(graph)))
        notes.append(await states_of(session, graph))
        notes.append(await delta_notes(session, saver, graph, ["log", "total"]))
        nothing = await session.colour.call(saver, "get_delta_channel_history", config=session.config, channels=[])
        notes.append(nothing)
        latest = await session.colour.call(saver, "get_delta_channel_history", config=session.config, channels=["log"])
        notes.append(plain_value([value for _, _, value in latest["log"]["writes"]]))

    await same_on_both(session, scenario)


async def test_a_delta_conversation_on_forks_is_rebuilt_as_in_memory(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph("delta", saver)
        for number in range(4):
            await session.ask(agent, f"look up q{number}")
        states = await session.states(agent)
        for place in (3, 8, 11):
            result = await session.colour.call(
                agent, "invoke", {"messages": [HumanMessage(f"fork at {place}")]}, states[place].config
            )
            notes.append(texts(result["messages"]))
            notes.append(await session.seen_by(agent))
        notes.append(await states_of(session, agent))

    await same_on_both(session, scenario)


# --- stores of other kinds of state -----------------------------------------------------------


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


# --- forks from before a DeltaChannel's first value -------------------------------------------


class Items(TypedDict):
    items: Annotated[list[str], DeltaChannel(lambda state, writes: [*state, *(each for w in writes for each in w)])]
    total: Annotated[int, operator.add]


async def test_a_fork_from_before_a_delta_channels_first_value_is_as_in_memory(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        builder = StateGraph(Items)
        builder.add_node("collect", lambda state: {"items": [f"after {len(state['items'])}"], "total": 1})
        builder.add_edge(START, "collect")
        graph = builder.compile(checkpointer=saver)
        await session.run(graph, {"items": ["left behind"]})
        first = (await session.states(graph))[-1]
        assert first.values["items"] == []
        fork = {**session.config["configurable"], **first.config["configurable"]}
        await session.colour.call(graph, "invoke", {"items": ["kept"]}, {"configurable": fork})
        notes.append(await states_of(session, graph))

    (states,) = await same_on_both(session, scenario)
    assert states[0]["values"]["items"] == ["kept", "after 1"]
