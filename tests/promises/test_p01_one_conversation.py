"""P1 One conversation, two doors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from tests.shared.chats import assert_valid_chat, dumps, texts
from tests.shared.graphs import GRAPH_KINDS, build_chain, build_graph
from tests.shared.models import ScriptedModel
from tests.shared.sessions import Session

pytestmark = pytest.mark.parametrize("kind", GRAPH_KINDS)


@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_what_a_chain_said_is_in_the_agents_state_at_its_next_turn(
    session: Session, kind: str, style: str
) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    chain = build_chain(session.buffer, style=style)

    await session.say(chain, "to the chain", style=style)
    result = await session.ask(agent, "to the agent")

    assert texts(model.inputs[0]) == ["to the chain", "re: to the chain", "to the agent"]
    assert texts(result["messages"]) == [
        "to the chain",
        "re: to the chain",
        "to the agent",
        "re: to the agent",
    ]
    assert await session.seen_by(agent) == texts(result["messages"])


async def test_what_an_agent_said_is_in_the_chains_next_prompt_with_its_tool_calls(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    model = ScriptedModel()
    chain = build_chain(session.buffer, model)

    result = await session.ask(agent, "look up whales")
    await session.say(chain, "and now the chain")

    assert texts(model.inputs[0]) == [
        "look up whales",
        "call whales",
        "facts about whales",
        "answer: facts about whales",
        "and now the chain",
    ]
    assert dumps(model.inputs[0][:-1]) == dumps(result["messages"])


async def test_chain_and_agent_turns_alternate_on_one_conversation(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    chain = build_chain(session.buffer)
    expected: list[str] = []
    for turn in range(4):
        await session.ask(agent, f"look up a{turn}, b{turn}")
        await session.say(chain, f"chain {turn}")
        expected += [
            f"look up a{turn}, b{turn}",
            f"call a{turn}, b{turn}",
            f"facts about a{turn}",
            f"facts about b{turn}",
            f"answer: facts about b{turn}",
            f"chain {turn}",
            f"re: chain {turn}",
        ]
        assert await session.texts() == expected
        assert await session.seen_by(agent) == expected
    assert_valid_chat(await session.messages())


async def test_both_doors_show_the_same_messages_in_full(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    await session.say(build_chain(session.buffer), "first")
    await session.ask(agent, "look up whales")
    await session.event("user opened billing")

    shown = (await session.state(agent)).values["messages"]

    assert dumps(shown) == dumps(await session.messages())
    assert all(message.id for message in shown)


async def test_a_system_event_calls_no_model_and_is_seen_by_the_next_agent_turn(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    await session.ask(agent, "first")
    calls = len(model.inputs)

    await session.event("user opened billing")

    assert len(model.inputs) == calls
    stored = (await session.messages())[-1]
    assert type(stored) is SystemMessage
    assert stored.content == "user opened billing"
    await session.ask(agent, "second")
    assert texts(model.inputs[-1]) == ["first", "re: first", "user opened billing", "second"]
    await session.ask(agent, "third")
    assert texts(model.inputs[-1]).count("user opened billing") == 1
    assert texts(model.inputs[-1])[2] == "user opened billing"


async def test_a_system_event_can_come_before_any_turn(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)

    await session.event("user opened billing")
    await session.ask(agent, "first")

    assert texts(model.inputs[0]) == ["user opened billing", "first"]


async def test_setting_the_messages_of_a_history_replaces_what_the_graph_sees(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    await session.ask(agent, "look up whales")
    await session.event("an event")

    await session.replace([HumanMessage("summary?"), AIMessage("a summary")])

    assert await session.texts() == ["summary?", "a summary"]
    assert await session.seen_by(agent) == ["summary?", "a summary"]
    await session.ask(agent, "go on")
    assert texts(model.inputs[-1]) == ["summary?", "a summary", "go on"]
    assert await session.texts() == ["summary?", "a summary", "go on", "re: go on"]


async def test_setting_messages_that_were_there_already_keeps_only_those(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    await session.ask(agent, "first")
    await session.ask(agent, "second")
    kept = (await session.messages())[2:]

    await session.replace(kept)
    await session.ask(agent, "third")

    assert await session.texts() == ["second", "re: second", "third", "re: third"]


async def test_setting_no_messages_empties_the_conversation_but_not_the_session(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    await session.ask(agent, "first")

    await session.replace([])

    assert await session.messages() == []
    assert await session.info() is not None
    await session.ask(agent, "second")
    assert await session.texts() == ["second", "re: second"]


async def test_a_session_that_only_a_chain_has_written_can_be_opened_by_a_graph(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    await session.say(build_chain(session.buffer), "to the chain")

    snapshot = await session.state(agent)

    assert texts(snapshot.values["messages"]) == ["to the chain", "re: to the chain"]
    assert snapshot.next == ()
    assert snapshot.config["configurable"]["checkpoint_id"]
    again = await session.state(agent)
    assert again.config == snapshot.config


async def test_a_session_that_only_a_chain_has_written_can_be_listed_by_a_graph(session: Session, kind: str) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph(kind, saver)
    await session.say(build_chain(session.buffer), "to the chain")

    snapshots = await session.states(agent)
    tuples = await session.colour.collect(saver, "list", session.config)

    assert len(snapshots) == len(tuples) == 1
    assert texts(snapshots[0].values["messages"]) == ["to the chain", "re: to the chain"]
    assert snapshots[0].config == (await session.state(agent)).config
    assert [each.session_id for each in await session.sessions("alice")] == ["s1"]


async def test_a_session_that_only_a_chain_has_written_can_be_updated_by_a_graph(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    await session.say(build_chain(session.buffer), "to the chain")

    await session.colour.call(
        agent,
        "update_state",
        session.config,
        {"messages": [HumanMessage("from an update")]},
        as_node="__start__",
    )

    expected = ["to the chain", "re: to the chain", "from an update"]
    assert await session.seen_by(agent) == expected
    assert await session.texts() == expected
    await session.ask(agent, None)
    assert texts(model.inputs[-1]) == expected
    assert await session.texts() == [*expected, "re: from an update"]


async def test_a_session_that_only_a_chain_has_written_can_be_continued_by_a_graph(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    chain = build_chain(session.buffer)
    await session.say(chain, "one")
    await session.say(chain, "two")

    await session.ask(agent, "look up whales")
    await session.say(chain, "three")

    expected = [
        *("one", "re: one", "two", "re: two"),
        *("look up whales", "call whales", "facts about whales", "answer: facts about whales"),
        *("three", "re: three"),
    ]
    assert await session.texts() == expected
    assert await session.seen_by(agent) == expected


async def test_what_update_state_adds_is_in_the_history(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    await session.ask(agent, "first")

    snapshot = await session.state(agent)
    await session.colour.call(agent, "update_state", snapshot.config, {"messages": [AIMessage("by the way")]})

    assert await session.texts() == ["first", "re: first", "by the way"]


async def test_messages_appended_in_full_reach_the_graph_as_they_were(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    said = [
        SystemMessage("be brief", id="m1"),
        HumanMessage("weather?", id="m2"),
        AIMessage(
            "",
            id="m3",
            tool_calls=[{"name": "weather", "args": {"city": "Bern"}, "id": "c1"}],
        ),
        ToolMessage("sunny", tool_call_id="c1", id="m4", artifact={"degrees": 21}),
        AIMessage("Sunny.", id="m5"),
    ]
    await session.add(*said)
    assert dumps((await session.state(agent)).values["messages"]) == dumps(said)


async def test_a_conversation_may_live_in_a_channel_of_another_name(session: Session, kind: str) -> None:
    class State(TypedDict):
        chat: Annotated[list[Any], add_messages]
        turns: Annotated[int, operator.add]

    def answer(state: dict[str, Any]) -> dict[str, Any]:
        return {"chat": [AIMessage(f"seen {len(state['chat'])}")], "turns": 1}

    graph = StateGraph(State)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    compiled = graph.compile(checkpointer=session.buffer.checkpointer(messages_key="chat"))

    await session.say(build_chain(session.buffer), "to the chain")
    await session.run(compiled, {"chat": [HumanMessage("to the graph")]})

    expected = ["to the chain", "re: to the chain", "to the graph", "seen 3"]
    assert await session.texts() == expected
    assert (await session.state(compiled)).values["turns"] == 1
    await session.event("an event")
    assert texts((await session.state(compiled)).values["chat"]) == [*expected, "an event"]


class Plain(TypedDict):
    """The state of a graph that has no conversation."""

    notes: Annotated[list[str], operator.add]


# What happens to a session, in order: "a" is an agent's turn, "g" one of a graph without a conversation, "c" is what a
# chain says, "r" the removal of the oldest message.
@pytest.mark.parametrize("order", ["agca", "gca", "cgca", "agcrgca", "gcga", "cgrga", "ggcgga"])
async def test_a_graph_without_a_conversation_may_take_turns_in_the_session(
    session: Session, kind: str, order: str
) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph(kind, saver)
    noting = StateGraph(Plain).add_node("n", lambda _: {"notes": ["done"]}).add_edge(START, "n")
    other = noting.compile(checkpointer=saver)
    expected: list[str] = []
    notes = 0
    for number, what in enumerate(order):
        if what == "a":
            await session.ask(agent, f"q{number}")
            expected += [f"q{number}", f"re: q{number}"]
        elif what == "g":
            notes += 2
            assert len((await session.run(other, {"notes": ["asked"]}))["notes"]) == notes
        elif what == "c":
            await session.add(HumanMessage(f"c{number}"), AIMessage(f"re: c{number}"))
            expected += [f"c{number}", f"re: c{number}"]
        else:
            await session.add(RemoveMessage(id=(await session.messages())[0].id))
            del expected[0]
        assert await session.texts() == expected
        assert await session.seen_by(agent) == expected
        values = (await session.colour.call(saver, "get_tuple", session.config)).checkpoint["channel_values"]
        if kind != "delta":
            assert texts(values.get("messages", [])) == expected
        elif "a" in order[: number + 1]:  # A `DeltaChannel` has its value in a snapshot, and from time to time only.
            assert not isinstance(values.get("messages"), list)


async def test_the_window_holds_for_an_agent_beside_a_graph_without_a_conversation(
    session_with: Callable[..., Session], kind: str
) -> None:
    session = session_with(max_messages=4)
    agent = build_graph(kind, session.buffer.checkpointer())
    noting = StateGraph(Plain).add_node("n", lambda _: {"notes": ["done"]}).add_edge(START, "n")
    other = noting.compile(checkpointer=session.buffer.checkpointer())
    for number in range(12):
        await session.ask(agent, f"q{number}")
        await session.run(other, {"notes": ["asked"]})
        assert len(await session.texts()) <= 4
        assert await session.seen_by(agent) == await session.texts()
