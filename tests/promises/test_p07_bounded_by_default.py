"""P7 Bounded by default."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.testing import Clock
from tests.shared.chats import assert_valid_chat, texts
from tests.shared.graphs import GRAPH_KINDS, Desk, build_graph
from tests.shared.models import ScriptedModel, lookup_call
from tests.shared.sessions import Colour, Session

Opens = Callable[..., Session]


def test_messages_checkpoints_and_bytes_per_session_have_a_finite_default() -> None:
    retention = Retention()
    assert retention.max_messages == 80
    assert retention.max_checkpoints == 100
    assert retention.max_bytes == 8 * 1024 * 1024
    assert retention.idle_ttl == 1_800
    assert retention.max_age is None
    assert retention.max_tokens is None
    names = {each.name for each in dataclasses.fields(retention)}
    assert names >= {"idle_ttl", "max_age", "max_messages", "max_tokens", "max_bytes"}


async def test_a_buffer_keeps_eighty_messages_of_a_session_by_default(session: Session) -> None:
    for number in range(101):
        await session.add(HumanMessage(f"q{number}"), AIMessage(f"a{number}"))
    shown = await session.texts()
    assert len(shown) == 80
    assert shown[0] == "q61"
    assert (await session.info()).messages == 80


async def test_a_buffer_keeps_a_hundred_root_checkpoints_of_a_session_by_default(
    session: Session,
) -> None:
    saver = session.buffer.checkpointer()
    graph = counting_graph(saver)
    for _ in range(40):
        await session.run(graph, {"count": 1})
    assert len(await session.colour.collect(saver, "list", session.config)) == 100
    assert (await session.info()).checkpoints == 100


class Counter(TypedDict):
    count: Annotated[int, operator.add]


def counting_graph(saver: Any) -> Any:
    """Three checkpoints a turn."""
    graph = StateGraph(Counter)
    graph.add_node("count", lambda state: {"count": 1})
    graph.add_edge(START, "count")
    graph.add_edge("count", END)
    return graph.compile(checkpointer=saver)


async def test_slack_in_freeing_messages_is_never_visible(session_with: Opens) -> None:
    session = session_with(max_messages=10)
    agent = build_graph("agent", session.buffer.checkpointer())
    for number in range(40):
        if number % 2:
            await session.ask(agent, f"q{number}")
        else:
            await session.add(HumanMessage(f"q{number}"), AIMessage(f"a{number}"))
        expected = min(10, 2 * (number + 1))
        assert len(await session.messages()) == expected
        assert (await session.info()).messages == expected
        assert len((await session.state(agent)).values["messages"]) == expected


async def test_a_message_that_was_edited_keeps_its_place_when_others_are_freed(session_with: Opens) -> None:
    session = session_with(max_messages=4)
    said: list[str] = []
    for number in range(40):
        for message in (HumanMessage(f"h{number}"), AIMessage(f"a{number}")):
            await session.add(message)
            said.append(str(message.content))
        oldest = (await session.messages())[0]
        await session.add(HumanMessage(f"edited in {number}", id=oldest.id))
        said = [f"edited in {number}", *said[-4:][1:]]
        assert await session.texts() == said


@pytest.mark.parametrize("graph_first", [False, True])
async def test_what_was_put_down_anew_is_not_freed_with_what_it_was(session_with: Opens, graph_first: bool) -> None:
    session = session_with(max_messages=4)
    if graph_first:
        await session.ask(build_graph("agent", session.buffer.checkpointer()), "a turn")
    again = HumanMessage("again", id="again")
    await session.add(again)
    for number in range(5):
        await session.add(HumanMessage(f"h{number}"))
    await session.add(RemoveMessage(id="again"))
    for number in range(5, 40):
        if number % 6 == 0:
            await session.add(RemoveMessage(id="again"))
            await session.add(again)
        await session.add(HumanMessage(f"h{number}"))
        if number % 6 < 3:
            assert "again" in await session.texts()


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_an_older_checkpoint_shows_the_window_and_a_fork_from_it_keeps_the_order(
    session_with: Opens, kind: str, durability: str
) -> None:
    session = session_with(max_messages=3)
    graph = build_graph(kind, session.buffer.checkpointer())
    await session.ask(graph, "research a, b")
    await session.ask(graph, "research c, d")
    older = await session.states(graph)
    assert all(len(state.values.get("messages", [])) <= 3 for state in older)
    fork = next(state for state in older[2:] if len(state.values["messages"]) == 3 and state.next == ("model",))
    shown = texts(fork.values["messages"])
    assert shown[0] == "research c, d"
    given = {"messages": [HumanMessage("another")]}
    result = await session.colour.call(graph, "invoke", given, fork.config, durability=durability)
    told = texts(result["messages"])
    assert told == [*shown, "another", "re: another"]
    uncapped = session_with(max_messages=None)
    assert (await uncapped.texts())[-5:] == told


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_slack_in_freeing_checkpoints_is_never_visible(session_with: Opens, kind: str) -> None:
    session = session_with(max_checkpoints=7)
    saver = session.buffer.checkpointer()
    agent = build_graph(kind, saver)
    made = 0
    for number in range(12):
        await session.ask(agent, f"q{number}")
        made += 3
        expected = min(7, made)
        tuples = await session.colour.collect(saver, "list", session.config)
        assert len(tuples) == expected
        assert (await session.info()).checkpoints == expected
        assert len(await session.states(agent)) == expected
        assert tuples[0].metadata["step"] > tuples[-1].metadata["step"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_checkpoint_beyond_the_cap_is_not_found_by_its_id(session_with: Opens, kind: str) -> None:
    session = session_with(max_checkpoints=4)
    saver = session.buffer.checkpointer()
    agent = build_graph(kind, saver)
    await session.ask(agent, "first")
    old = (await session.state(agent)).config
    for number in range(3):
        await session.ask(agent, f"q{number}")
    assert await session.colour.call(saver, "get_tuple", old) is None


def nested_graph(saver: Any, *, persistent: bool) -> Any:
    """A graph whose one node is a subgraph of two nodes."""
    inner = StateGraph(Counter)
    inner.add_node("one", lambda state: {"count": 10})
    inner.add_node("two", lambda state: {"count": 100})
    inner.add_edge(START, "one")
    inner.add_edge("one", "two")
    compiled = inner.compile(checkpointer=True if persistent else None)
    outer = StateGraph(Counter)
    outer.add_node("inner", compiled)
    outer.add_edge(START, "inner")
    return outer.compile(checkpointer=saver)


@pytest.mark.parametrize("persistent", [True, False])
async def test_subgraph_checkpoints_do_not_count_and_go_with_their_root(
    session_with: Opens, persistent: bool, case: Any, storage: Any
) -> None:
    session = session_with(max_checkpoints=6)
    saver = session.buffer.checkpointer()
    graph = nested_graph(saver, persistent=persistent)
    held = []
    for _ in range(30):
        # Puts that overtake each other put off what was to be freed, by as many turns as it happens.
        await session.run(graph, {"count": 1}, durability="sync")
        held.append((await session.info()).bytes)
        roots = [
            each
            for each in await session.colour.collect(saver, "list", session.config)
            if not each.config["configurable"]["checkpoint_ns"]
        ]
        assert len(roots) <= 6
    assert (await session.info()).checkpoints == 6
    assert max(held[15:]) <= 1.6 * max(held[:10]), "subgraph checkpoints pile up"


async def test_bytes_stay_flat_once_the_caps_are_reached(session_with: Opens) -> None:
    session = session_with(max_messages=20, max_checkpoints=12)
    agent = build_graph("agent", session.buffer.checkpointer())
    held = []
    for number in range(40):
        await session.ask(agent, f"look up thing {number:03}")
        held.append((await session.info()).bytes)
    # What a turn plans to free waits for the next one when another write came in between; unbounded it were 1.6 times.
    assert max(held[25:]) <= 1.25 * max(held[10:25])


async def test_bytes_grow_with_what_is_new_not_with_steps_times_length(
    session_with: Opens,
) -> None:
    session = session_with(max_messages=None, max_checkpoints=None)
    agent = build_graph("agent", session.buffer.checkpointer())
    held = [0]
    for number in range(30):
        await session.ask(agent, f"look up thing {number:03} " + "x" * 1_000)
        held.append((await session.info()).bytes)
    first, last = held[5] - held[4], held[30] - held[29]
    assert last <= 1.5 * first


async def test_a_question_is_held_once_though_it_gets_its_id_only_after_it_was_stored(session: Session) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("node", lambda state: {"messages": [AIMessage("yes")]})
    graph.add_edge(START, "node")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    await session.run(compiled, {"messages": [HumanMessage("x" * 10_000)]})
    assert 10_000 < (await session.info()).bytes < 15_000


# --- max_bytes --------------------------------------------------------------------------------


async def test_bytes_are_bounded_as_info_reports_them(session_with: Opens) -> None:
    session = session_with(max_bytes=20_000, max_messages=None, max_checkpoints=None)
    agent = build_graph("agent", session.buffer.checkpointer())
    for number in range(30):
        await session.ask(agent, f"look up {number} " + "x" * 500)
        await session.add(HumanMessage("y" * 500), AIMessage("z" * 500))
        assert (await session.info()).bytes <= 20_000
        assert_valid_chat(await session.messages())
    assert (await session.texts())[-2:] == ["y" * 500, "z" * 500]


async def test_what_is_left_pending_by_the_last_step_is_bounded_as_well(session_with: Opens) -> None:
    session = session_with(max_bytes=20_000)

    def node(state: MessagesState) -> dict[str, Any]:
        if state["messages"][-1].content == "now":
            return {"messages": [AIMessage(str(interrupt("hold " * 1_600)))]}
        return {"messages": [AIMessage("answer " * 300)]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    for number in range(8):
        await session.ask(compiled, f"q{number}")
    await session.ask(compiled, "now")
    assert (await session.info()).bytes <= 20_000
    assert (await session.run(compiled, Command(resume="yes")))["messages"][-1].content == "yes"


async def test_bytes_are_bounded_though_old_messages_share_what_a_newer_one_holds(session_with: Opens) -> None:
    session = session_with(max_bytes=10_000)
    for number in range(6):
        await session.add(
            HumanMessage(f"q{number}"),
            AIMessage("", tool_calls=[lookup_call("a", "c0")]),
            ToolMessage("the same " * 200, tool_call_id="c0"),
        )
    for number in range(6):
        await session.add(HumanMessage(f"then {number}"), AIMessage(f"{number}" * 2_000))
        assert (await session.info()).bytes <= 10_000
    assert (await session.texts())[-1] == "5" * 2_000


async def test_bytes_are_bounded_whoever_writes_while_they_are_freed(open_buffer: Callable[..., SessionBuffer]) -> None:
    buffer = open_buffer(max_bytes=20_000)
    saver = buffer.checkpointer()
    config = saver.put(
        {"configurable": {"user_id": "alice", "thread_id": "s1", "checkpoint_ns": ""}}, empty_checkpoint(), {}, {}
    )
    storage = saver._storage
    real, written = storage.read, []

    def read(key: Any, query: Any) -> Any:
        found = real(key, query)
        if query.outline and not written:
            # A task of the run's last step comes in between what is planned to be freed and the freeing.
            written.append(query)
            saver.put_writes(config, [("note", "n")], "task")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "read", read)
        history = buffer.history("alice", "s1")
        while not written:
            history.add_messages([HumanMessage("q"), AIMessage("answer " * 300)])
    info = buffer.info("alice", "s1")
    assert info is not None
    assert info.bytes <= 20_000


@pytest.mark.parametrize("where", ["message", "channel", "metadata", "writes", "artifact"])
async def test_every_payload_byte_of_a_session_is_counted(session_with: Opens, where: str) -> None:
    class State(MessagesState):
        blob: str

    big = "payload " * 5_000
    session = session_with(max_bytes=None)
    graph = StateGraph(State)

    def node(state: State) -> dict[str, Any]:
        if where == "writes" and not interrupt("hold"):
            return {}
        return {}

    def other(state: State) -> dict[str, Any]:
        return {"blob": big} if where == "writes" else {}

    graph.add_node("node", node)
    graph.add_node("other", other)
    graph.add_edge(START, "node")
    graph.add_edge(START, "other")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    await session.run(compiled, {"messages": [HumanMessage("small")], "blob": "small"})
    if where != "writes":
        assert (await session.info()).bytes < 20_000
    config = session.config
    if where == "message":
        await session.event(big)
    elif where == "artifact":
        await session.add(
            AIMessage("", tool_calls=[lookup_call("x", "x")]),
            ToolMessage("ok", tool_call_id="x", artifact={"raw": big}),
        )
    elif where == "channel":
        await session.colour.call(compiled, "update_state", config, {"blob": big}, as_node="node")
    elif where == "metadata":
        await session.colour.call(
            compiled, "update_state", {**config, "metadata": {"note": big}}, {"blob": ""}, as_node="node"
        )
    assert (await session.info()).bytes >= len(big)


async def test_oldest_checkpoints_go_before_messages_do(session_with: Opens) -> None:
    session = session_with(max_bytes=60_000, max_messages=None, max_checkpoints=None)
    saver = session.buffer.checkpointer()

    class State(MessagesState):
        blob: str

    graph = StateGraph(State)
    graph.add_node("node", lambda state: {"blob": "b" * 8_000, "messages": [AIMessage("a")]})
    graph.add_edge(START, "node")
    compiled = graph.compile(checkpointer=saver)
    for number in range(20):
        await session.run(compiled, {"messages": [HumanMessage(f"q{number}")], "blob": f"{number}" * 4_000})
    assert len(await session.messages()) == 40
    steps = [each.metadata["step"] for each in await session.colour.collect(saver, "list", session.config)]
    assert 0 < len(steps) < 60
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == 58
    assert (await session.info()).bytes <= 60_000


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_the_head_and_the_newest_group_stay_even_over_the_cap_on_bytes(session_with: Opens, kind: str) -> None:
    session = session_with(max_bytes=1_000)
    model = ScriptedModel(answer=lambda messages: AIMessage("big answer " * 500))
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    for number in range(3):
        await session.ask(agent, f"big question {number} " * 300)
    shown = await session.texts()
    assert shown[-1] == "big answer " * 500
    assert await session.seen_by(agent) == shown
    saver = session.buffer.checkpointer()
    assert await session.colour.call(saver, "get_tuple", session.config) is not None


@pytest.mark.parametrize("size", [1, 1_500, 3_000, 6_000])
@pytest.mark.parametrize("kind", [*GRAPH_KINDS, "chain"])
async def test_a_message_that_was_edited_is_as_old_as_before_where_bytes_are_short(
    session_with: Opens, kind: str, size: int
) -> None:
    session = session_with(max_bytes=size)
    whole = session_with(max_bytes=None)
    agent = build_graph(kind if kind in GRAPH_KINDS else "agent", whole.buffer.checkpointer())
    said = []
    for question in ("first " + "x" * 400, "second " + "x" * 400, "third"):
        if kind == "chain":
            await whole.add(HumanMessage(question), AIMessage(f"re: {question}"))
        else:
            await whole.ask(agent, question)
        said += [question, f"re: {question}"]
    oldest = (await whole.messages())[0]
    await session.add(HumanMessage("edited", id=oldest.id))
    shown = await session.texts()
    expected = ["edited", *said[1:]]
    assert shown == expected[-len(shown) :], "the oldest go first, and nothing moves"
    assert shown[-2:] == ["third", "re: third"]


async def test_the_newest_group_of_a_history_alone_stays_over_the_cap_on_bytes(
    session_with: Opens,
) -> None:
    session = session_with(max_bytes=1_000)
    await session.add(HumanMessage("small"))
    await session.add(
        AIMessage("", tool_calls=[lookup_call("x", "x")]),
        ToolMessage("big " * 1_000, tool_call_id="x"),
    )
    assert (await session.texts())[-2:] == ["call x", "big " * 1_000]


# --- pruning ----------------------------------------------------------------------------------


@tool
def lookup(thing: str) -> str:
    """Look a thing up when a human allows it."""
    return f"{interrupt('may I?')} facts about {thing}"


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("cap", [1, 2, 5])
async def test_pruning_never_drops_what_a_pending_interrupt_needs(session_with: Opens, kind: str, cap: int) -> None:
    session = session_with(max_checkpoints=cap, max_messages=6)
    saver = session.buffer.checkpointer()
    agent = build_graph(kind, saver, tools=[lookup])
    for number in range(6):
        await session.ask(agent, f"hello {number}")
    await session.ask(agent, "look up whales")
    for number in range(20):
        await session.event(f"event {number}")
    await session.colour.call(saver.for_user("alice"), "prune", ["s1"], strategy="keep_latest")
    assert [each.value for each in (await session.state(agent)).interrupts] == ["may I?"]
    result = await session.run(agent, Command(resume="yes:"))
    assert texts(result["messages"])[-2:] == [
        "yes: facts about whales",
        "answer: yes: facts about whales",
    ]


@pytest.mark.parametrize("cap", [1, 3])
async def test_info_counts_what_waits_beyond_the_cap_as_it_is_listed(session_with: Opens, cap: int) -> None:
    session = session_with(max_checkpoints=cap)
    agent = build_graph("agent", session.buffer.checkpointer(), tools=[lookup])
    await session.ask(agent, "hello")
    before = (await session.state(agent)).config
    await session.ask(agent, "look up whales")
    fork = {"messages": [HumanMessage("never mind")]}
    await session.colour.call(agent, "invoke", fork, before)
    for number in range(12):
        listed = await session.states(agent)
        assert listed[-1].interrupts
        assert len(listed) == cap + 1 == (await session.info()).checkpoints
        await session.ask(agent, f"hello {number}")


@pytest.mark.parametrize("cap", [1, 2, 4, 9])
async def test_pruning_keeps_a_delta_channel_down_to_its_nearest_snapshot(session_with: Opens, cap: int) -> None:
    session = session_with(max_checkpoints=cap, max_messages=None)
    agent = build_graph("delta", session.buffer.checkpointer())
    expected: list[str] = []
    for number in range(15):
        result = await session.ask(agent, f"q{number}")
        expected += [f"q{number}", f"re: q{number}"]
        assert texts(result["messages"]) == expected
        assert await session.texts() == expected
        assert await session.seen_by(agent) == expected
    for snapshot in await session.states(agent):
        shown = texts(snapshot.values["messages"])
        assert shown == expected[: len(shown)]
        assert shown


async def test_prune_keep_latest_keeps_a_delta_channel_whole(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("delta", saver)
    for number in range(5):
        await session.ask(agent, f"q{number}")
    before = await session.texts()
    await session.colour.call(saver.for_user("alice"), "prune", ["s1"], strategy="keep_latest")
    assert len(await session.colour.collect(saver, "list", session.config)) == 1
    assert await session.texts() == await session.seen_by(agent) == before


async def test_a_delta_channel_keeps_no_checkpoints_until_it_is_written_to_and_nothing_from_before_that(
    session_with: Opens,
) -> None:
    session = session_with(max_checkpoints=2, max_messages=4)

    def model(state: dict[str, Any]) -> dict[str, Any]:
        question = state["messages"][-1].text
        return {"messages": [AIMessage("a" * 500)], **({"files": [question]} if question.startswith("write") else {})}

    graph = StateGraph(Desk).add_node("model", model).add_edge(START, "model")
    agent = graph.compile(checkpointer=session.buffer.checkpointer())
    sizes = []
    for _ in range(30):
        await session.ask(agent, "q")
        sizes.append((await session.info()).bytes)
    # What is freed goes in batches, so the size goes up and down.
    assert max(sizes[20:]) < 2 * max(sizes[:10])
    for number in range(3):
        assert (await session.ask(agent, f"write {number}"))["files"] == [f"write {each}" for each in range(number + 1)]
        assert (await session.ask(agent, "q"))["files"] == [f"write {each}" for each in range(number + 1)]
    states = await session.states(agent)
    assert [each.values["files"] for each in states] == [["write 0", "write 1", "write 2"]] * 2
    # All turns from before would be ten times as much.
    assert (await session.info()).bytes < 5 * max(sizes)


async def test_a_delta_channel_keeps_its_value_while_a_graph_without_it_has_its_turns(session_with: Opens) -> None:
    session = session_with(max_checkpoints=3)
    saver = session.buffer.checkpointer()

    def desk(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [AIMessage("filed")], "files": [state["messages"][-1].text]}

    filing = StateGraph(Desk).add_node("model", desk).add_edge(START, "model").compile(checkpointer=saver)
    chat = StateGraph(MessagesState).add_node("model", lambda _: {"messages": [AIMessage("a" * 500)]})
    chatting = chat.add_edge(START, "model").compile(checkpointer=saver)
    await session.ask(chatting, "hello")
    for number in range(3):
        files = (await session.ask(filing, f"report {number}"))["files"]
        assert files == [f"report {each}" for each in range(number + 1)]
        for _ in range(4):
            await session.ask(chatting, "q")
    assert (await session.state(filing)).values["files"] == files


# --- memory -----------------------------------------------------------------------------------


def memory(colour: Colour, **limits: Any) -> Session:
    return Session(SessionBuffer(MemoryStorage(clock=Clock(), **limits)), colour)


async def test_memory_bounds_the_number_of_sessions_least_recently_used_first(
    colour: Colour,
) -> None:
    session = memory(colour, max_sessions=3)
    for name in ("a", "b", "c"):
        await session("alice", name).event(name)
    await session("alice", "a").messages()
    await session("bob", "d").event("d")
    assert sorted(each.session_id for each in await session.sessions(all_users=True)) == [
        "a",
        "c",
        "d",
    ]
    assert await session("alice", "b").messages() == []


async def test_administration_does_not_save_a_session_from_eviction(colour: Colour) -> None:
    session = memory(colour, max_sessions=2)
    await session("alice", "a").event("a")
    await session("alice", "b").event("b")
    await session("alice", "a").info()
    await session.sessions("alice")
    await session("alice", "c").event("c")
    assert await session("alice", "a").info() is None


async def test_memory_bounds_its_total_bytes_least_recently_used_first(colour: Colour) -> None:
    session = memory(colour, max_bytes=50_000)
    for number in range(40):
        await session("alice", f"s{number}").event("x" * 5_000)
    infos = await session.sessions("alice")
    assert 0 < sum(each.bytes for each in infos) <= 50_000
    kept = sorted(int(each.session_id[1:]) for each in infos)
    assert kept == list(range(40 - len(kept), 40))
    assert len(kept) >= 5


async def test_memory_has_finite_defaults(colour: Colour) -> None:
    session = Session(SessionBuffer(), colour)
    for number in range(10_050):
        session.buffer.history("alice", f"s{number}").add_messages([HumanMessage("hi")])
    assert len(await session.sessions("alice")) == 10_000
    assert await session("alice", "s0").info() is None
    assert await session("alice", "s10049").texts() == ["hi"]


async def test_eviction_takes_a_whole_session(colour: Colour) -> None:
    session = memory(colour, max_sessions=1)
    agent = build_graph("agent", session.buffer.checkpointer())
    await session.ask(agent, "look up whales")
    await session("alice", "other").event("x")
    assert (await session.state(agent)).values == {}
    assert await session.states(agent) == []
    assert await session.messages() == []
    await session.ask(agent, "anew")
    assert await session.texts() == ["anew", "re: anew"]


async def test_probing_unknown_sessions_creates_nothing(colour: Colour) -> None:
    session = memory(colour, max_sessions=1)
    await session.event("mine")
    saver = session.buffer.checkpointer()
    for number in range(20):
        unknown = session("alice", f"unknown {number}")
        assert await unknown.messages() == []
        assert await unknown.info() is None
        assert await unknown.delete() is False
        await unknown.add(RemoveMessage(id="unknown"))
        await unknown.replace([])
        assert await unknown.colour.call(saver, "get_tuple", unknown.config) is None
        assert await unknown.colour.collect(saver, "list", unknown.config) == []
    assert await session.texts() == ["mine"]
    assert len(await session.sessions(all_users=True)) == 1


async def test_writes_of_a_run_over_an_old_checkpoint_that_was_freed_leave_nothing_behind(session_with: Opens) -> None:
    session = session_with(max_checkpoints=3, max_messages=None)
    graph = counting_graph(session.buffer.checkpointer())
    await session.run(graph, {"count": 1})
    # By another worker, which knows the checkpoint only from reading it.
    other = session_with(max_checkpoints=3, max_messages=None)
    saver = other.buffer.checkpointer()
    old = (await other.colour.collect(saver, "list", other.config))[1]
    old = await other.colour.call(saver, "get_tuple", old.config)
    for _ in range(12):
        await session.run(graph, {"count": 1})
    before = (await session.info()).bytes
    await other.colour.call(saver, "put_writes", old.config, [("count", 1)], "late")
    assert (await session.info()).bytes == before


async def test_writes_that_come_after_their_checkpoint_was_freed_leave_nothing_behind(session_with: Opens) -> None:
    session = session_with(max_checkpoints=1, max_messages=None)
    saver = session.buffer.checkpointer()
    graph = counting_graph(saver)
    await session.run(graph, {"count": 1})
    (first,) = await session.colour.collect(saver, "list", session.config)
    for _ in range(3):
        await session.run(graph, {"count": 1})
    before = (await session.info()).bytes
    await session.colour.call(saver, "put_writes", first.config, [("count", 1)], "late")
    assert (await session.info()).bytes == before
    (latest,) = await session.colour.collect(saver, "list", session.config)
    await session.colour.call(saver, "put_writes", latest.config, [("count", 1)], "in time")
    assert (await session.info()).bytes > before
