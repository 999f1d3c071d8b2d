"""P8 Time travel works."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from tests.shared.as_in_memory import plain, plains, same_on_both, states_of
from tests.shared.chats import dumps, texts
from tests.shared.graphs import GRAPH_KINDS, build_chain, build_graph
from tests.shared.models import ScriptedModel
from tests.shared.sessions import Session

pytestmark = pytest.mark.parametrize("kind", GRAPH_KINDS)


async def test_get_state_history_behaves_as_with_the_in_memory_saver(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = build_graph(kind, saver)
        notes += [
            texts((await session.ask(graph, question))["messages"]) for question in ("hello", "look up a, b", "bye")
        ]
        notes.append(await states_of(session, graph))
        notes.append(plains(await session.states(graph, limit=3)))
        third = (await session.states(graph))[2]
        notes.append(plains(await session.states(graph, before=third.config)))
        notes.append(plains(await session.states(graph, filter={"source": "input"})))

    await same_on_both(session, scenario)


async def test_every_older_checkpoint_is_read_by_its_id_exactly_as_listed(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = build_graph(kind, saver)
        for question in ("hello", "look up a, b"):
            await session.ask(graph, question)
        for listed in await session.states(graph):
            read = await session.state(graph, listed.config)
            assert plain(read) == plain(listed)
            assert dumps(read.values["messages"] if read.values else []) == dumps(
                listed.values["messages"] if listed.values else []
            )
            notes.append(plain(read))

    await same_on_both(session, scenario)


async def test_replay_behaves_as_with_the_in_memory_saver(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = build_graph(kind, saver)
        for question in ("hello", "look up a", "bye"):
            await session.ask(graph, question)
        states = await session.states(graph)
        at_tools = next(s for s in states if s.next == ("tools",))
        result = await session.colour.call(graph, "invoke", None, at_tools.config)
        notes.append(texts(result["messages"]))
        notes.append(plain(await session.state(graph)))
        notes.append(await states_of(session, graph))
        notes.append(texts((await session.ask(graph, "and on"))["messages"]))

    await same_on_both(session, scenario)


async def test_a_fork_by_a_new_question_behaves_as_with_the_in_memory_saver(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = build_graph(kind, saver)
        await session.ask(graph, "hello")
        after_hello = (await session.state(graph)).config
        await session.ask(graph, "left behind")
        result = await session.colour.call(graph, "invoke", {"messages": [HumanMessage("instead")]}, after_hello)
        notes.append(texts(result["messages"]))
        notes.append(plain(await session.state(graph)))
        notes.append(await states_of(session, graph))
        notes.append(texts((await session.ask(graph, "on"))["messages"]))

    await same_on_both(session, scenario)


async def test_update_state_behaves_as_with_the_in_memory_saver(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = build_graph(kind, saver)
        await session.ask(graph, "hello")
        first = (await session.state(graph)).config
        await session.ask(graph, "look up a")
        latest = (await session.state(graph)).config
        await session.colour.call(graph, "update_state", latest, {"messages": [AIMessage("an update")]})
        notes.append(plain(await session.state(graph)))
        forked = await session.colour.call(
            graph, "update_state", first, {"messages": [HumanMessage("fork")]}, as_node="__start__"
        )
        notes.append(plain(await session.state(graph)))
        notes.append(plain(await session.state(graph, forked)))
        result = await session.colour.call(graph, "invoke", None, forked)
        notes.append(texts(result["messages"]))
        notes.append(plain(await session.state(graph)))
        notes.append(await states_of(session, graph))

    await same_on_both(session, scenario)


async def test_an_edit_of_an_old_message_forks_as_with_the_in_memory_saver(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = build_graph(kind, saver)
        await session.ask(graph, "hello")
        await session.ask(graph, "bye")
        asked = next(s for s in await session.states(graph) if s.next == ("model",) and len(s.values["messages"]) == 1)
        question = asked.values["messages"][0]
        forked = await session.colour.call(
            graph,
            "update_state",
            asked.config,
            {"messages": [HumanMessage("edited", id=question.id)]},
            as_node="__start__",
        )
        result = await session.colour.call(graph, "invoke", None, forked)
        notes.append(texts(result["messages"]))
        notes.append(await states_of(session, graph))

    await same_on_both(session, scenario)


@tool
def lookup(thing: str) -> str:
    """Look a thing up when a human allows it."""
    return f"{interrupt('may I?')} facts about {thing}"


@pytest.mark.parametrize("forks", [False, True], ids=["asked anew", "forked"])
async def test_a_question_to_a_person_that_was_left_behind_and_is_answered_leaves_behind_what_came_since(
    session: Session, kind: str, *, forks: bool
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        graph = build_graph(kind, saver, tools=[lookup])
        await session.ask(graph, "hello")
        after_hello = (await session.state(graph)).config
        await session.ask(graph, "look up whales")
        waiting = (await session.state(graph)).config
        since = {"messages": [HumanMessage("since")]}
        await session.colour.call(graph, "invoke", since, after_hello if forks else session.config)
        result = await session.colour.call(graph, "invoke", Command(resume="yes:"), waiting)
        notes.append(texts(result["messages"]))
        notes.append(plain(await session.state(graph)))
        notes.append(texts((await session.ask(graph, "on"))["messages"]))

    await same_on_both(session, scenario)


async def test_a_fork_does_not_drag_back_what_a_graph_left_behind(session: Session, kind: str) -> None:
    model = ScriptedModel()
    graph = build_graph(kind, session.buffer.checkpointer(), model)
    await session.ask(graph, "hello")
    fork_here = (await session.state(graph)).config
    await session.ask(graph, "left behind")
    await session.ask(graph, "look up left behind too")

    await session.colour.call(graph, "invoke", {"messages": [HumanMessage("new")]}, fork_here)

    assert await session.texts() == ["hello", "re: hello", "new", "re: new"]
    await session.ask(graph, "next")
    assert texts(model.inputs[-1]) == ["hello", "re: hello", "new", "re: new", "next"]


async def test_a_fork_does_not_drag_back_what_a_chain_said_after_the_fork_point(session: Session, kind: str) -> None:
    graph = build_graph(kind, session.buffer.checkpointer())
    chain = build_chain(session.buffer)
    await session.ask(graph, "hello")
    fork_here = (await session.state(graph)).config
    await session.ask(graph, "an agent's turn")
    await session.say(chain, "a chain's turn")
    await session.event("an event")

    await session.colour.call(graph, "invoke", {"messages": [HumanMessage("new")]}, fork_here)

    expected = ["hello", "re: hello", "new", "re: new"]
    assert await session.texts() == await session.seen_by(graph) == expected
    await session.say(chain, "later")
    assert await session.texts() == [*expected, "later", "re: later"]


async def test_a_fork_keeps_what_a_chain_had_said_before_the_fork_point(session: Session, kind: str) -> None:
    graph = build_graph(kind, session.buffer.checkpointer())
    chain = build_chain(session.buffer)
    await session.say(chain, "early")
    await session.ask(graph, "hello")
    fork_here = (await session.state(graph)).config
    await session.ask(graph, "left behind")
    await session.colour.call(graph, "invoke", {"messages": [HumanMessage("new")]}, fork_here)
    assert await session.texts() == ["early", "re: early", "hello", "re: hello", "new", "re: new"]


async def test_reading_an_older_checkpoint_never_forks(session: Session, kind: str) -> None:
    graph = build_graph(kind, session.buffer.checkpointer())
    await session.ask(graph, "hello")
    await session.ask(graph, "bye")
    await session.event("an event")
    expected = await session.texts()
    for snapshot in await session.states(graph):
        await session.state(graph, snapshot.config)
    assert await session.texts() == expected
    assert await session.seen_by(graph) == expected
    await session.ask(graph, "next")
    assert await session.texts() == [*expected, "next", "re: next"]


async def test_the_explicit_id_of_the_latest_checkpoint_is_the_head_with_later_entries(
    session: Session, kind: str
) -> None:
    graph = build_graph(kind, session.buffer.checkpointer())
    await session.ask(graph, "hello")
    config = (await session.state(graph)).config
    await session.event("an event")
    await session.say(build_chain(session.buffer), "a chain's turn")

    by_id = await session.state(graph, config)

    expected = ["hello", "re: hello", "an event", "a chain's turn", "re: a chain's turn"]
    assert texts(by_id.values["messages"]) == expected
    assert await session.seen_by(graph) == expected


async def test_update_state_with_the_config_of_get_state_keeps_later_entries(session: Session, kind: str) -> None:
    graph = build_graph(kind, session.buffer.checkpointer())
    await session.ask(graph, "hello")
    await session.event("before get_state")
    config = (await session.state(graph)).config
    await session.event("after get_state")

    await session.colour.call(graph, "update_state", config, {"messages": [AIMessage("an update")]})

    conversation = await session.texts()
    assert conversation[:2] == ["hello", "re: hello"]
    assert sorted(conversation[2:]) == ["after get_state", "an update", "before get_state"]
    assert await session.seen_by(graph) == conversation


async def test_an_older_checkpoint_shows_exactly_itself(session: Session, kind: str) -> None:
    graph = build_graph(kind, session.buffer.checkpointer())
    await session.ask(graph, "hello")
    older = (await session.state(graph)).config
    await session.ask(graph, "bye")
    await session.event("an event")

    shown = await session.state(graph, older)

    assert texts(shown.values["messages"]) == ["hello", "re: hello"]


async def test_an_edit_or_removal_now_does_not_change_what_an_older_checkpoint_shows(
    session: Session, kind: str
) -> None:
    graph = build_graph(kind, session.buffer.checkpointer())
    result = await session.ask(graph, "hello")
    older = (await session.state(graph)).config
    await session.ask(graph, "bye")
    await session.add(AIMessage("edited", id=result["messages"][-1].id))
    await session.ask(graph, "next")

    shown = await session.state(graph, older)

    assert texts(shown.values["messages"]) == ["hello", "re: hello"]
    assert (await session.texts())[1] == "edited"


def keys(config: Any) -> set[str]:
    assert set(config) == {"configurable"}, config
    return set(config["configurable"])


async def test_returned_configs_carry_the_users_key_exactly_when_the_caller_gave_one(
    session: Session, kind: str
) -> None:
    own = {"thread_id", "checkpoint_ns", "checkpoint_id"}
    for saver, configurable, expected in (
        (
            session.buffer.checkpointer(),
            {"thread_id": "t1", "user_id": "alice"},
            own | {"user_id"},
        ),
        (session.buffer.checkpointer(user_id="alice"), {"thread_id": "t2"}, own),
        (
            session.buffer.checkpointer(user_id="alice"),
            {"thread_id": "t3", "user_id": "alice"},
            own | {"user_id"},
        ),
        (
            session.buffer.checkpointer(user_key="who"),
            {"thread_id": "t4", "who": "alice"},
            own | {"who"},
        ),
    ):
        graph = build_graph(kind, saver)
        config = {"configurable": configurable}
        question = {"messages": [HumanMessage("look up a")]}
        await session.colour.call(graph, "invoke", question, config)
        tuples = await session.colour.collect(saver, "list", config)
        tuples.append(await session.colour.call(saver, "get_tuple", config))
        assert len(tuples) > 3
        for each in tuples:
            assert keys(each.config) == expected
            assert each.parent_config is None or keys(each.parent_config) == expected
        put = await session.colour.call(
            saver,
            "put",
            tuples[0].config,
            {**tuples[0].checkpoint, "id": "1f0fffff-0000-6000-8000-000000000000"},
            tuples[0].metadata,
            {},
        )
        assert keys(put) == expected
        for each in await session.colour.collect(graph, "get_state_history", config):
            assert keys(each.config) == expected
        again = await session.colour.call(saver, "get_tuple", tuples[0].config)
        assert keys(again.config) == expected


@pytest.mark.parametrize("how", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["copy", "pickle"])
async def test_a_returned_config_can_be_copied_and_pickled(
    session: Session, kind: str, how: Callable[[Any], Any]
) -> None:
    graph = build_graph(kind, session.buffer.checkpointer())
    await session.ask(graph, "hello")
    found = await session.state(graph)
    twin = how(found.config)
    assert twin == found.config
    assert texts((await session.state(graph, twin)).values["messages"]) == ["hello", "re: hello"]


async def test_a_session_with_only_a_log_returns_configs_of_the_same_shape(session: Session, kind: str) -> None:
    await session.event("an event")
    found = await session.colour.call(session.buffer.checkpointer(), "get_tuple", session.config)
    assert keys(found.config) >= {"thread_id", "checkpoint_ns", "checkpoint_id", "user_id"}
    assert keys(found.config) <= {"thread_id", "checkpoint_ns", "checkpoint_id", "user_id"}
    assert found.parent_config is None
    by_id = await session.colour.call(session.buffer.checkpointer(), "get_tuple", found.config)
    assert by_id is not None
    assert texts(by_id.checkpoint["channel_values"]["messages"]) == ["an event"]


async def test_how_a_run_is_remembered_never_piles_up_in_its_checkpoints(session: Session, kind: str) -> None:
    saver = session.buffer.checkpointer()
    graph = build_graph(kind, saver)
    await session.say(build_chain(session.buffer), "early")
    await session.ask(graph, "hello")
    await session.ask(graph, "bye")
    reference = build_graph(kind, (memory := InMemorySaver()))
    await session.ask(reference, "hello")
    await session.ask(reference, "bye")
    known = {name for each in memory.list(session.config) for name in each.checkpoint["versions_seen"]}
    listed = await session.colour.collect(saver, "list", session.config)
    for each in listed:
        beyond = each.checkpoint["versions_seen"].keys() - known
        assert len(beyond) <= 1
        assert all(len(each.checkpoint["versions_seen"][name]) <= 1 for name in beyond)
        assert set(each.checkpoint) <= {
            *("v", "id", "ts", "channel_values", "channel_versions", "versions_seen"),
            *("updated_channels", "pending_sends"),
        }
