"""Delta channels on our saver, note by note as on `InMemorySaver`."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.messages.utils import convert_to_messages
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, _messages_delta_reducer
from langgraph.types import Overwrite

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.checkpointing.delta_channels import applied
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.keys import SessionKey
from tests.shared.as_in_memory import plain, plain_value, same_on_both, states_of
from tests.shared.chats import texts
from tests.shared.graphs import build_graph
from tests.shared.sessions import Session


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


def test_the_metadata_of_a_delta_channels_checkpoints_are_as_in_memory() -> None:
    config: Any = {"configurable": {"thread_id": "t"}}

    def metadata(saver: BaseCheckpointSaver[Any]) -> list[Any]:
        delta_graph(saver).invoke({"log": ["given"]}, config)
        return [found.metadata for found in saver.list(config)]

    assert metadata(SessionBuffer(default_user="u").checkpointer()) == metadata(InMemorySaver())


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


def appended(state: list[Any] | None, writes: list[Any]) -> list[Any]:
    return [*(state or []), *(each for write in writes for each in write)]


class Items(TypedDict):
    items: Annotated[list[str], DeltaChannel(appended)]
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
        # LangGraph marks there what a snapshot changed, for every entry that it was given.
        listed = await session.colour.collect(saver, "list", session.config)
        notes.append([{n: sorted(seen) for n, seen in each.checkpoint["versions_seen"].items()} for each in listed])

    states, seen = await same_on_both(session, scenario)
    assert states[0]["values"]["items"] == ["kept", "after 1"]
    assert any(len(each) > 3 for each in seen)


def upserted(state: list[Any] | None, writes: list[Any]) -> list[Any]:
    """A reducer as that of deepagents: LangGraph does not know it, so that what is written stays as it was written."""
    flat = convert_to_messages([each for write in writes for each in (write if isinstance(write, list) else [write])])
    cleared = [at for at, message in enumerate(flat, 1) if message.id == REMOVE_ALL_MESSAGES]
    if cleared:
        state, flat = [], flat[cleared[-1] :]
    return _messages_delta_reducer(state or [], [flat])


class Upserted(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(upserted, snapshot_frequency=3)]


class Noted(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(appended)]


async def test_questions_that_are_not_written_as_messages_are_in_a_delta_conversation_as_in_memory(
    session: Session, caplog: Any
) -> None:
    questions: list[Any] = [
        [("human", "a pair")],
        "a text",
        {"role": "user", "content": "a dictionary"},
        [{"role": "user", "content": "one in a list"}],
        [("human", "a pair")],
        [("human", "a pair"), AIMessage("and a message")],
        Overwrite((HumanMessage("in a tuple"), AIMessage("answered"))),
        Overwrite([HumanMessage("all anew"), AIMessage("answered")]),
        [HumanMessage("a message")],
    ]

    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        builder = StateGraph(Upserted)
        builder.add_node("model", lambda state: {"messages": [AIMessage(f"after {len(state['messages'])}")]})
        builder.add_edge(START, "model")
        graph = builder.compile(checkpointer=saver)
        for question in questions:
            notes.append(texts((await session.run(graph, {"messages": question}))["messages"]))
            notes.append(texts((await session.state(graph)).values["messages"]))
        notes.append([texts(each.values.get("messages", [])) for each in await session.states(graph)])

    notes = await same_on_both(session, scenario)
    assert len(notes[-2]) == 5
    assert await session.texts() == notes[-2]
    assert not caplog.messages


def test_a_programs_own_class_that_is_named_like_langgraphs_overwrites_nothing() -> None:
    own = type("Overwrite", (), {"value": []})
    names = ("m" + "0" * 24 + "id",)
    for write, left in ((own(), names), (Overwrite([]), ()), (type("Sub", (Overwrite,), {})([]), ())):
        assert applied(names, [write], Codec(), SessionKey("u", "s"))[0] == left


async def test_a_delta_channel_may_hold_what_is_no_message_though_it_is_the_conversations_as_in_memory(
    session: Session,
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = StateGraph(Noted).add_node("note", lambda _: {"messages": [[{}, "noted"]]})
        compiled = graph.add_edge(START, "note").compile(checkpointer=saver)
        for given in (["a", "b"], [{}, "x"], [1, 2, 3]):
            result = await session.run(compiled, {"messages": [given]})
            notes.append(result["messages"])

    notes = await same_on_both(session, scenario)
    assert len(notes[-1]) == 6


def the_last_four(state: list[Any] | None, writes: list[Any]) -> list[Any]:
    return appended(state, writes)[-4:]


class Short(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(the_last_four)]


async def test_a_reducer_of_ones_own_goes_on_once_an_event_was_said_beside_it_as_in_memory(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        def model(state: dict[str, Any]) -> dict[str, Any]:
            return {"messages": [AIMessage(f"re: {state['messages'][-1].text}")]}

        agent = StateGraph(Short).add_node("model", model).add_edge(START, "model").compile(checkpointer=saver)
        for number in range(5):
            if number == 1 and not isinstance(saver, InMemorySaver):
                await session.event("The user left.")
            result = await session.run(agent, {"messages": [HumanMessage(f"q{number}")]})
            if number > 1:
                notes.append(texts(result["messages"]))

    await same_on_both(session, scenario)


@pytest.mark.parametrize("given", [(), (HumanMessage("x"),)], ids=["nothing", "message"])
async def test_a_tuple_in_place_of_a_delta_conversation_is_all_that_both_doors_show(
    session: Session, given: tuple[Any, ...]
) -> None:
    graph = StateGraph(Upserted).add_node("model", lambda _: {"messages": [AIMessage("answer")]})
    agent = graph.add_edge(START, "model").compile(checkpointer=session.buffer.checkpointer())
    await session.run(agent, {"messages": [HumanMessage("before")]})
    await session.run(agent, {"messages": Overwrite(given)})
    said = [*("x" for _ in given), "answer"]
    assert await session.texts() == await session.seen_by(agent) == said


async def test_a_summary_in_place_of_a_delta_conversation_is_all_that_both_doors_show(session: Session) -> None:
    def model(state: dict[str, Any]) -> dict[str, Any]:
        answer = AIMessage(f"after {len(state['messages'])}")
        if len(state["messages"]) < 5:
            return {"messages": [answer]}
        return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("a summary"), answer]}

    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = StateGraph(Upserted).add_node("model", model).add_edge(START, "model").compile(checkpointer=saver)
        for number in range(6):
            await session.run(graph, {"messages": [HumanMessage(f"q{number}")]})
            notes.append(await session.seen_by(graph))
            if not isinstance(saver, InMemorySaver):
                assert await session.texts() == notes[-1]

    notes = await same_on_both(session, scenario)
    assert notes[2] == ["a summary", "after 5"]
    await session.event("The user left.")
    graph = StateGraph(Upserted).add_node("model", model).add_edge(START, "model")
    agent = graph.compile(checkpointer=session.buffer.checkpointer())
    assert await session.seen_by(agent) == [*notes[-1], "The user left."]


class Served(BaseCheckpointSaver[str]):
    """What a server puts in front of a checkpointer: it hands on what every checkpointer has, and nothing else."""

    def __init__(self, saver: BaseCheckpointSaver[str]) -> None:
        super().__init__()
        for name in ("get_tuple", "list", "put", "put_writes", "aget_tuple", "alist", "aput", "aput_writes"):
            setattr(self, name, getattr(saver, name))


async def test_a_delta_conversation_behind_a_server_has_what_was_said_through_the_other_door(session: Session) -> None:
    agent = build_graph("delta", Served(session.buffer.checkpointer()))
    await session.ask(agent, "hello")
    await session.event("The user opened billing.")
    await session.ask(agent, "look up whales")
    await session.ask(agent, "bye")
    said = await session.texts()
    assert said[2] == "The user opened billing."
    assert await session.seen_by(agent) == said
    # And in the checkpoints that were built on it.
    older = [texts(state.values["messages"]) for state in await session.states(agent)]
    assert all(each == said[: len(each)] for each in older)
