"""Mistakes found in other savers and histories, each a test here that says what holds instead."""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_ttl_history import CorruptRecordError, SessionBuffer, StorageError, TypeNotAllowedError
from langchain_ttl_history.testing import Clock
from tests.regressions.cases import Veil
from tests.shared.chats import assert_contiguous, assert_valid_chat, dumps, texts
from tests.shared.fixtures import StorageCase
from tests.shared.gates import PATIENCE, Gate
from tests.shared.graphs import GRAPH_KINDS, build_chain, build_graph, with_history
from tests.shared.models import ScriptedModel, lookup_call
from tests.shared.samples import Point, same
from tests.shared.sessions import Session
from tests.shared.tampering import Interposed


def compiled(saver: Any, **nodes: Callable[[Any], dict[str, Any]]) -> Any:
    """A graph of these nodes, one after the other."""
    graph = StateGraph(MessagesState)
    for name, node in nodes.items():
        graph.add_node(name, node)
    names = [START, *nodes, END]
    for left, right in itertools.pairwise(names):
        graph.add_edge(left, right)
    return graph.compile(checkpointer=saver)


def asking(question: str) -> Callable[[Any], dict[str, Any]]:
    """A node that asks a human."""

    def node(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{question}: {interrupt(question)}")]}

    return node


async def new_checkpoint(session: Session, saver: Any, **values: Any) -> Any:
    """Put a checkpoint of the test's own making; its config."""
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = dict.fromkeys(values, 1)
    return await session.colour.call(
        saver,
        "put",
        {"configurable": {**session.config["configurable"], "checkpoint_ns": ""}},
        checkpoint,
        {"source": "loop", "step": 0, "parents": {}},
        checkpoint["channel_versions"],
    )


async def found(session: Session, saver: Any, config: Any = None) -> CheckpointTuple:
    each = await session.colour.call(saver, "get_tuple", config or session.config)
    assert each is not None
    return each  # type: ignore[no-any-return]  # what a list of any type holds


# --- 1 ----------------------------------------------------------------------------------------


async def test_01_resuming_one_interrupt_approves_no_other(session: Session) -> None:
    graph = compiled(session.buffer.checkpointer(), a=asking("A?"), b=asking("B?"))
    await session.ask(graph, "go")
    at_a = (await session.state(graph)).config
    await session.run(graph, Command(resume="yes to A"))
    state = await session.state(graph)
    assert [each.value for each in state.interrupts] == ["B?"]
    assert state.next == ("b",)
    back = await session.state(graph, at_a)
    assert back.next == ("a",)
    await session.run(graph, Command(resume="yes to B"))
    assert await session.texts() == ["go", "A?: yes to A", "B?: yes to B"]


async def test_01_a_fork_of_an_interrupt_is_not_resumed_with_the_original(
    session: Session,
) -> None:
    graph = compiled(session.buffer.checkpointer(), a=asking("A?"))
    await session.ask(graph, "go")
    first = (await session.state(graph)).config
    forked = await session.colour.call(
        graph, "update_state", first, {"messages": [HumanMessage("else")]}, as_node="__start__"
    )
    result = await session.colour.call(graph, "invoke", None, forked)
    assert "__interrupt__" in result
    result = await session.colour.call(graph, "invoke", Command(resume="to the fork"), session.config)
    assert texts(result["messages"])[-1] == "A?: to the fork"


# --- 2 ----------------------------------------------------------------------------------------


async def test_02_a_put_after_the_put_writes_of_its_checkpoint_keeps_the_writes(
    session: Session,
) -> None:
    saver = session.buffer.checkpointer()
    checkpoint = {**empty_checkpoint(), "id": str(uuid6(clock_seq=1))}
    config = {"configurable": {**session.config["configurable"], "checkpoint_ns": ""}}
    early = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}
    await session.colour.call(saver, "put_writes", early, [("__interrupt__", "hold")], "task")
    await session.colour.call(saver, "put", config, checkpoint, {"source": "loop", "step": 0, "parents": {}}, {})
    assert (await found(session, saver)).pending_writes == [("task", "__interrupt__", "hold")]
    await session.colour.call(saver, "put", config, checkpoint, {"source": "loop", "step": 0, "parents": {}}, {})
    assert (await found(session, saver)).pending_writes == [("task", "__interrupt__", "hold")]


# --- 3 ----------------------------------------------------------------------------------------


async def test_03_an_active_session_never_loses_its_early_state(
    session_with: Callable[..., Session], clock: Clock
) -> None:
    session = session_with(idle_ttl=100)

    class State(MessagesState):
        set_once: str

    graph = StateGraph(State)
    graph.add_node("node", lambda state: {"messages": [AIMessage("a")]})
    graph.add_edge(START, "node")
    agent = graph.compile(checkpointer=session.buffer.checkpointer())
    await session.run(agent, {"messages": [HumanMessage("first")], "set_once": "kept"})
    for number in range(10):
        clock.advance(60)
        await session.ask(agent, f"q{number}")
    state = await session.state(agent)
    assert state.values["set_once"] == "kept"
    assert (await session.texts())[0] == "first"
    assert len(await session.states(agent)) == 33


# --- 4 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["put_writes", "put", "event"])
async def test_04_a_write_after_expiry_leaves_nothing_without_a_deadline(
    session_with: Callable[..., Session], clock: Clock, case: StorageCase, write: str
) -> None:
    session = session_with(idle_ttl=100)
    saver = session.buffer.checkpointer()
    config = await new_checkpoint(session, saver, x=1)
    clock.advance(101 + 100 * case.lateness)
    if write == "put_writes":
        await session.colour.call(saver, "put_writes", config, [("x", 2)], "task")
    elif write == "put":
        await new_checkpoint(session, saver, x=2)
    else:
        await session.event("late")
    for each in await session.sessions(all_users=True):
        assert each.expires_at is not None
        assert each.expires_at.timestamp() <= clock.now + 100 * (1 + case.lateness)
    clock.advance(101 + 100 * case.lateness)
    await session.colour.call(session.buffer, "sweep")
    assert await session.sessions(all_users=True) == []


# --- 5 ----------------------------------------------------------------------------------------


async def test_05_a_storage_that_is_down_never_reads_as_no_such_thread(session: Session, storage: Any) -> None:
    flaky = Interposed(storage)
    mine = session.through(SessionBuffer(flaky))
    agent = build_graph("agent", mine.buffer.checkpointer())
    await mine.ask(agent, "hello")
    flaky.down = True
    with pytest.raises(StorageError):
        await mine.ask(agent, "afresh")
    flaky.down = False
    assert await mine.texts() == ["hello", "re: hello"]


# --- 6 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["*", "?", "s*", "[s]1", "s1*", "", "%"])
async def test_06_deleting_a_pattern_deletes_no_other_thread(session: Session, pattern: str) -> None:
    for name in ("s1", "s2"):
        await session("alice", name).event(name)
    saver = session.buffer.checkpointer(user_id="alice")
    if pattern:
        await session.colour.call(saver, "delete_thread", pattern)
    else:
        with pytest.raises(ValueError, match="empty"):
            await session.colour.call(saver, "delete_thread", pattern)
    assert sorted(each.session_id for each in await session.sessions("alice")) == ["s1", "s2"]


async def test_06_one_user_and_thread_never_read_as_another_pair(session: Session) -> None:
    await session("bob:x", "alice").event("secret")
    assert await session("bob", "x:alice").messages() == []
    await session("bob", "x:alice").event("other")
    assert await session("bob:x", "alice").texts() == ["secret"]


# --- 7 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"lc": 2, "type": "constructor", "id": ["no_such_thing", "X"], "kwargs": {}},
        Decimal("1.5"),
        (1, (2, 3)),
        math.nan,
        "a\ud800b",
    ],
    ids=["dict like a constructor", "decimal", "tuple", "nan", "lone surrogate"],
)
async def test_07_a_value_comes_back_as_itself_and_imports_nothing(session: Session, value: Any) -> None:
    saver = session.buffer.checkpointer()
    await new_checkpoint(session, saver, x=value)
    await session.add(HumanMessage("q", additional_kwargs={"x": value}))
    assert same((await found(session, saver)).checkpoint["channel_values"]["x"], value)
    assert same((await session.messages())[-1].additional_kwargs["x"], value)
    assert "no_such_thing" not in sys.modules


# --- 8 ----------------------------------------------------------------------------------------


async def test_08_with_encryption_on_nothing_that_was_said_or_set_stays_in_plaintext(
    session_with: Callable[..., Session], storage: Any, case: StorageCase
) -> None:
    session = session_with(serde=EncryptedSerializer(Veil(), JsonPlusSerializer()))
    saver = session.buffer.checkpointer()

    class State(MessagesState):
        word: str

    graph = StateGraph(State)
    graph.add_node("node", lambda state: {"word": "secret-in-a-write"})
    graph.add_node("hold", asking("secret-in-an-interrupt"))
    graph.add_edge(START, "node")
    graph.add_edge("node", "hold")
    agent = graph.compile(checkpointer=saver)
    config = {**session.config, "metadata": {"note": "secret-in-metadata"}}
    await session.colour.call(
        agent,
        "invoke",
        {"messages": [HumanMessage("secret-in-a-message")], "word": "secret-in-a-channel"},
        config,
    )
    await session.event("secret-in-an-event")
    assert b"secret" not in b"\n".join(case.contents(storage))
    assert (await session.state(agent)).values["word"] == "secret-in-a-write"
    assert (await session.texts()) == ["secret-in-a-message", "secret-in-an-event"]


async def test_08_with_encryption_on_stored_plaintext_is_not_accepted(
    session: Session, session_with: Callable[..., Session]
) -> None:
    await session.ask(build_graph("agent", session.buffer.checkpointer()), "in plain")
    await session("alice", "log").event("in plain")
    veiled = session_with(serde=EncryptedSerializer(Veil(), JsonPlusSerializer()))
    with pytest.raises(CorruptRecordError):
        await veiled.messages()
    with pytest.raises(CorruptRecordError):
        await found(veiled, veiled.buffer.checkpointer())
    with pytest.raises(CorruptRecordError):
        await veiled("alice", "log").messages()


# --- 9 ----------------------------------------------------------------------------------------


async def test_09_a_history_keeps_tool_calls_ids_names_and_usage(session: Session) -> None:
    said = [
        HumanMessage("q", id="1", name="bob"),
        AIMessage(
            "",
            id="2",
            name="agent",
            tool_calls=[lookup_call("x", "c1")],
            usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        ),
        ToolMessage("ok", id="3", tool_call_id="c1", name="lookup", status="error"),
    ]
    await session.add(*said)
    assert dumps(await session.messages()) == dumps(said)


async def test_09_concurrent_appends_are_all_kept(session: Session) -> None:
    await asyncio.gather(*(session.add(HumanMessage(f"m{number}")) for number in range(8)))
    assert sorted(await session.texts()) == [f"m{number}" for number in range(8)]


@pytest.mark.parametrize("cap", range(1, 8))
async def test_09_a_cap_never_leaves_a_tool_message_first(session_with: Callable[..., Session], cap: int) -> None:
    session = session_with(max_messages=cap)
    for turn in range(4):
        await session.add(
            HumanMessage(f"q{turn}"),
            AIMessage("", tool_calls=[lookup_call("a", "a"), lookup_call("b", "b")]),
            ToolMessage("A", tool_call_id="a"),
            ToolMessage("B", tool_call_id="b"),
            AIMessage(f"a{turn}"),
        )
        assert_valid_chat(await session.messages())
        assert not isinstance((await session.messages())[0], ToolMessage)


# --- 10 ---------------------------------------------------------------------------------------


async def test_10_reading_inside_a_list_loop_does_not_deadlock(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    await session.ask(agent, "look up x")

    async def read_inside() -> int:
        seen = 0
        if session.colour.is_async:
            async for each in saver.alist(session.config):
                assert await saver.aget_tuple(each.config) is not None
                await session.event("inside")
                seen += 1
        else:
            for each in saver.list(session.config):
                assert saver.get_tuple(each.config) is not None
                session.history.add_system_message("inside")
                seen += 1
        return seen

    assert await asyncio.wait_for(read_inside(), PATIENCE) == 5


async def test_10_breaking_off_a_list_early_releases_everything(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    await session.ask(agent, "look up x")
    if session.colour.is_async:
        unfinished: Any = saver.alist(session.config)
        assert await anext(unfinished)
    else:
        unfinished = iter(saver.list(session.config))
        assert next(unfinished)
    await asyncio.wait_for(session.ask(agent, "next"), PATIENCE)
    assert (await session.texts())[-1] == "re: next"


# --- 11 ---------------------------------------------------------------------------------------


async def test_11_pending_writes_come_in_the_order_of_their_paths(session: Session) -> None:
    saver = session.buffer.checkpointer()
    config = await new_checkpoint(session, saver, x=1)
    tasks = [
        ("task-b", "~__pregel_pull, 0000000010"),
        ("task-a", "~__pregel_pull, 0000000002"),
        ("task-d", ""),
        ("task-c", ""),
    ]
    for task, path in tasks:
        writes = [("x", f"{task} {number}") for number in range(12)]
        await session.colour.call(saver, "put_writes", config, writes, task, path)
    expected = [
        (task, "x", f"{task} {number}") for task in ("task-c", "task-d", "task-a", "task-b") for number in range(12)
    ]
    assert (await found(session, saver)).pending_writes == expected
    (listed,) = await session.colour.collect(saver, "list", session.config)
    assert listed.pending_writes == expected


# --- 12 ---------------------------------------------------------------------------------------


async def test_12_reading_an_unknown_thread_does_not_create_it(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    await session.state(agent)
    await session.states(agent)
    await session.messages()
    assert await session.colour.call(saver, "get_tuple", session.config) is None
    assert await session.sessions(all_users=True) == []
    assert (await session.colour.call(session.buffer, "stats")).sessions == 0


async def test_12_deleting_one_thread_asks_for_that_thread_only(session: Session, storage: Any) -> None:
    verbs: list[str] = []

    class Noting(Interposed):
        def __getattr__(self, verb: str) -> Any:
            verbs.append(verb.removeprefix("a"))
            return super().__getattr__(verb)

    mine = session.through(SessionBuffer(Noting(storage)))
    for number in range(20):
        await mine("alice", f"s{number}").event("x")
    verbs.clear()
    await mine.delete()
    await session.colour.call(mine.buffer.checkpointer(user_id="alice"), "delete_thread", "s2")
    assert set(verbs) == {"delete"}
    assert len(verbs) == 2


# --- 13 ---------------------------------------------------------------------------------------


async def test_13_an_empty_namespace_is_the_root_and_no_other(session: Session) -> None:
    saver = session.buffer.checkpointer()
    root = await new_checkpoint(session, saver, x="root")
    checkpoint = {**empty_checkpoint(), "id": str(uuid6(clock_seq=5))}
    checkpoint["channel_values"] = {"x": "child"}
    checkpoint["channel_versions"] = {"x": 1}
    child_config = {"configurable": {**session.config["configurable"], "checkpoint_ns": "child"}}
    await session.colour.call(saver, "put", child_config, checkpoint, {"source": "loop", "step": 0}, {"x": 1})
    in_root = {"configurable": {**session.config["configurable"], "checkpoint_ns": ""}}
    assert (await found(session, saver, in_root)).config == root
    assert (await found(session, saver)).config == root
    listed = await session.colour.collect(saver, "list", in_root)
    assert [each.checkpoint["channel_values"]["x"] for each in listed] == ["root"]
    everywhere = await session.colour.collect(saver, "list", session.config)
    assert {each.checkpoint["channel_values"]["x"] for each in everywhere} == {"root", "child"}
    in_child = await session.colour.collect(saver, "list", child_config)
    assert [each.checkpoint["channel_values"]["x"] for each in in_child] == ["child"]


async def test_13_a_limit_of_zero_lists_nothing(session: Session) -> None:
    saver = session.buffer.checkpointer()
    await session.ask(build_graph("agent", saver), "hello")
    for limit in (0, 1, 2):
        listed = await session.colour.collect(saver, "list", session.config, limit=limit)
        assert len(listed) == limit


async def test_13_before_is_honoured(session: Session) -> None:
    saver = session.buffer.checkpointer()
    await session.ask(build_graph("agent", saver), "look up x")
    everything = await session.colour.collect(saver, "list", session.config)
    assert len(everything) == 5
    for place, each in enumerate(everything):
        older = await session.colour.collect(saver, "list", session.config, before=each.config)
        assert [x.config for x in older] == [x.config for x in everything[place + 1 :]]


async def test_13_an_int_thread_id_reads_and_lists_what_it_wrote(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    config: Any = {"configurable": {"user_id": "alice", "thread_id": 42}}
    await session.colour.call(agent, "invoke", {"messages": [HumanMessage("hello")]}, config)
    assert len(await session.colour.collect(saver, "list", config)) == 3
    as_text: Any = {"configurable": {"user_id": "alice", "thread_id": "42"}}
    assert len(await session.colour.collect(saver, "list", as_text)) == 3
    assert (await found(session, saver, config)).checkpoint["id"]


# --- 14 ---------------------------------------------------------------------------------------


async def test_14_a_copy_with_an_allow_list_follows_in_everything(session: Session, storage: Any) -> None:
    mine = session.through(SessionBuffer(Interposed(storage, private=False)))
    saver = mine.buffer.checkpointer(user_id="alice")
    copied = saver.with_allowlist([(Point.__module__, "Point")])
    assert copied is not saver
    await new_checkpoint(mine, copied, x=Point(1), y=(Point(2),))
    shown = await found(mine, copied)
    assert shown.checkpoint["channel_values"] == {"x": Point(1), "y": (Point(2),)}
    scoped = copied.for_user("alice") if hasattr(copied, "for_user") else copied
    listed = await session.colour.collect(scoped, "list", None)
    assert listed[0].checkpoint["channel_values"]["x"] == Point(1)
    with pytest.raises(TypeNotAllowedError, match="Point"):
        await found(mine, saver)


async def test_14_a_checkpointer_that_allows_all_of_a_list_is_no_copy(session: Session, storage: Any) -> None:
    """LangGraph announces types at each run; what a subclass notes on itself in one would be lost in the next."""
    mine = session.through(SessionBuffer(Interposed(storage, private=False), allow_types=[Point]))
    saver = mine.buffer.checkpointer(user_id="alice")
    allowed = [(Point.__module__, "Point"), (HumanMessage.__module__, "HumanMessage")]
    assert saver.with_allowlist(allowed) is saver
    copied = saver.with_allowlist([*allowed, ("another", "Type")])
    assert copied is not saver
    assert copied.with_allowlist([("another", "Type")]) is copied


# --- 15 ---------------------------------------------------------------------------------------


async def test_15_a_sync_method_on_the_event_loops_own_thread_does_not_deadlock(
    session: Session,
) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    await session.ask(agent, "hello")
    assert saver.get_tuple(session.config) is not None
    assert len(list(saver.list(session.config))) == 3
    assert texts(session.history.messages) == ["hello", "re: hello"]
    session.history.add_system_message("from the loop")
    agent.invoke({"messages": [HumanMessage("from the loop")]}, session.config)
    assert len(await session.messages()) == 5


async def test_15_an_async_method_lets_the_loop_run(session: Session) -> None:
    gate = Gate()
    agent = build_graph("agent", session.buffer.checkpointer(), ScriptedModel(gates={"slow": gate}))
    slow = session.begin(agent, "slow")
    await gate.reached()
    for number in range(5):
        await asyncio.wait_for(session.event(f"event {number}"), PATIENCE)
    gate.release()
    await slow
    assert len(await session.messages()) == 7


# --- 16 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_16_a_turn_that_overlaps_another_loses_no_answer(session: Session, kind: str) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={"slow": gate}))
    slow = session.begin(agent, "slow")
    await gate.reached()
    await session.ask(agent, "quick")
    gate.release()
    await slow
    conversation = await session.texts()
    assert_contiguous(conversation, ["slow", "re: slow"])
    assert_contiguous(conversation, ["quick", "re: quick"])


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_16_a_turn_still_running_when_its_thread_is_deleted_does_not_bring_it_back(
    session: Session, kind: str
) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={"slow": gate}))
    await session.ask(agent, "hello")
    slow = session.begin(agent, "slow")
    await gate.reached()
    await session.colour.call(session.buffer.checkpointer(user_id="alice"), "delete_thread", "s1")
    gate.release()
    await slow
    assert await session.info() is None
    assert (await session.state(agent)).values == {}


# --- 17 ---------------------------------------------------------------------------------------


async def test_17_a_history_around_an_agent_stores_only_what_was_said(session: Session) -> None:
    agent = build_graph("agent", session.buffer.checkpointer())
    wrapped = with_history(agent, session.buffer, input_messages_key="messages", output_messages_key="messages")
    for question in ("look up a", "look up b", "look up c"):
        await session.run(wrapped, {"messages": [HumanMessage(question)]})
    assert len(await session.messages()) == 12


@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_17_two_calls_at_once_keep_the_first_ones_question(session: Session, style: str) -> None:
    gate = Gate()
    chain = build_chain(session.buffer, ScriptedModel(gates={"slow": gate}), style=style)
    slow = asyncio.create_task(session.say(chain, "slow", style=style))
    await gate.reached()
    await session.say(chain, "quick", style=style)
    gate.release()
    await slow
    assert sorted(await session.texts()) == ["quick", "re: quick", "re: slow", "slow"]
