"""P6 Expiry is whole and exact."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta, timezone
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Command, interrupt

from langchain_ttl_history import Retention, SessionBuffer, cache, recent_names
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.testing import Clock
from tests.shared.chats import texts
from tests.shared.fixtures import StorageCase
from tests.shared.gates import Gate
from tests.shared.graphs import GRAPH_KINDS, DeltaState, Tools, build_chain, build_graph
from tests.shared.models import ScriptedModel, echo
from tests.shared.sessions import Colour, Session

IDLE = 100.0
MOMENT = 0.01


@pytest.fixture
def session(session_with: Callable[..., Session]) -> Session:
    """A session that lives for 100 idle seconds."""
    return session_with(idle_ttl=IDLE)


def past(case: StorageCase) -> float:
    """Seconds after the last use at which a session is surely gone."""
    return IDLE * (1 + case.lateness) + MOMENT


async def assert_gone(session: Session, graph: Any = None) -> None:
    saver = session.buffer.checkpointer()
    assert await session.info() is None
    assert await session.sessions("alice") == []
    assert await session.messages() == []
    assert await session.colour.call(saver, "get_tuple", session.config) is None
    assert await session.colour.collect(saver, "list", session.config) == []
    if graph is not None:
        assert (await session.state(graph)).values == {}
        assert await session.states(graph) == []
    assert await session.info() is None, "reading brought something back"


async def test_the_idle_time_is_thirty_minutes_unless_told_otherwise(
    session_with: Callable[..., Session], clock: Clock, case: StorageCase
) -> None:
    session = session_with()
    await session.add(HumanMessage("hello"))
    clock.advance(1_800 - MOMENT)
    assert await session.info() is not None
    clock.advance(1_800 * case.lateness + 2 * MOMENT)
    await assert_gone(session)


async def test_a_session_is_readable_until_its_idle_time_is_over_and_then_gone(
    session: Session, clock: Clock, case: StorageCase
) -> None:
    await session.add(HumanMessage("hello"))
    clock.advance(IDLE - MOMENT)
    assert await session.texts() == ["hello"]
    clock.advance(past(case))
    await assert_gone(session)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_it_goes_in_one_instant_with_its_checkpoints_writes_and_log(
    session: Session, clock: Clock, case: StorageCase, kind: str
) -> None:
    @tool
    def lookup(thing: str) -> str:
        """Look a thing up when a human allows it."""
        return str(interrupt("may I?"))

    agent = build_graph(kind, session.buffer.checkpointer(), tools=[lookup])
    await session.ask(agent, "first")
    clock.advance(IDLE / 2)
    await session.ask(agent, "look up whales")
    clock.advance(IDLE / 4)
    await session.event("an event")

    clock.advance(IDLE - MOMENT)
    assert len(await session.states(agent)) > 4
    assert (await session.state(agent)).interrupts
    assert (await session.texts())[-1] == "an event"

    clock.advance(past(case))
    await assert_gone(session, agent)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_after_expiry_a_turn_starts_clean(session: Session, clock: Clock, case: StorageCase, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    await session.ask(agent, "first")
    clock.advance(past(case))
    await session.ask(agent, "second")
    assert texts(model.inputs[-1]) == ["second"]
    assert await session.texts() == ["second", "re: second"]


Use = Callable[[Session, Any, Any], Awaitable[Any]]

USES: dict[str, Use] = {
    "reading the history": lambda s, graph, saver: s.messages(),
    "appending": lambda s, graph, saver: s.add(HumanMessage("more")),
    "an event": lambda s, graph, saver: s.event("an event"),
    "setting the messages": lambda s, graph, saver: s.replace([HumanMessage("other")]),
    "setting them as they are": lambda s, graph, saver: s.replace([HumanMessage("other", id="other")]),
    "get_tuple": lambda s, graph, saver: s.colour.call(saver, "get_tuple", s.config),
    "list": lambda s, graph, saver: s.colour.collect(saver, "list", s.config),
    "get_state": lambda s, graph, saver: s.state(graph),
    "get_state_history": lambda s, graph, saver: s.states(graph),
    "update_state": lambda s, graph, saver: s.colour.call(
        graph, "update_state", s.config, {"messages": [AIMessage("more")]}
    ),
    "an agent's turn": lambda s, graph, saver: s.ask(graph, "more"),
    "a chain's turn": lambda s, graph, saver: s.say(build_chain(s.buffer), "more"),
}


@pytest.mark.parametrize("use", list(USES))
async def test_reading_or_writing_through_a_door_is_use(
    session: Session, clock: Clock, case: StorageCase, use: str
) -> None:
    saver = session.buffer.checkpointer()
    graph = build_graph("agent", saver)
    await session.ask(graph, "hello")
    for _ in range(3):
        clock.advance(IDLE - MOMENT)
        await USES[use](session, graph, saver)
    clock.advance(IDLE - MOMENT)
    assert await session.info() is not None
    clock.advance(IDLE * case.lateness + 2 * MOMENT)
    await assert_gone(session)


@pytest.mark.parametrize("administration", ["info", "sessions", "all sessions", "stats", "sweep"])
async def test_administration_is_not_use(
    session: Session, clock: Clock, case: StorageCase, administration: str
) -> None:
    await session.add(HumanMessage("hello"))
    clock.advance(IDLE - MOMENT)
    if administration == "info":
        before = await session.info()
        assert before == await session.info()
    elif administration == "sessions":
        assert len(await session.sessions("alice")) == 1
    elif administration == "all sessions":
        assert len(await session.sessions(all_users=True)) == 1
    else:
        await session.colour.call(session.buffer, administration)
    clock.advance(IDLE * case.lateness + 2 * MOMENT)
    await assert_gone(session)


async def test_one_session_expires_without_the_others(session: Session, clock: Clock, case: StorageCase) -> None:
    await session.add(HumanMessage("one"))
    clock.advance(IDLE / 2)
    other = session("alice", "s2")
    await other.add(HumanMessage("two"))
    clock.advance(IDLE / 2 * (1 + 2 * case.lateness) + MOMENT)
    assert await session.info() is None
    assert [each.session_id for each in await session.sessions("alice")] == ["s2"]
    assert await other.texts() == ["two"]


async def test_info_tells_when_a_session_was_made_last_used_and_will_expire(session: Session, clock: Clock) -> None:
    await session.add(HumanMessage("hello"))
    made = clock.now
    clock.advance(40)
    await session.event("later")
    info = await session.info()
    assert info.created_at.timestamp() == pytest.approx(made)
    assert info.last_used_at.timestamp() == pytest.approx(made + 40)
    assert info.expires_at.timestamp() == pytest.approx(made + 40 + IDLE)
    for moment in (info.created_at, info.last_used_at, info.expires_at):
        assert moment.utcoffset() is not None


async def test_a_session_that_expired_and_began_anew_has_a_new_birthday(
    session: Session, clock: Clock, case: StorageCase
) -> None:
    await session.add(HumanMessage("hello"))
    clock.advance(past(case))
    await session.add(HumanMessage("hello again"))
    info = await session.info()
    assert info.created_at.timestamp() == pytest.approx(clock.now)
    assert await session.texts() == ["hello again"]


# --- the idle time of one session -------------------------------------------------------------


async def test_set_idle_ttl_changes_this_session_only(session: Session, clock: Clock, case: StorageCase) -> None:
    other = session("alice", "s2")
    await session.add(HumanMessage("one"))
    await other.add(HumanMessage("two"))
    assert await session.colour.call(session.buffer, "set_idle_ttl", *session.key, timedelta(seconds=500)) is True
    clock.advance(past(case))
    assert await other.info() is None
    assert await session.texts() == ["one"]
    clock.advance(500 - MOMENT)
    assert await session.texts() == ["one"]
    clock.advance(500 * (1 + case.lateness) + MOMENT)
    await assert_gone(session)


async def test_a_session_without_an_idle_time_is_pinned(session: Session, clock: Clock) -> None:
    await session.add(HumanMessage("one"))
    await session.colour.call(session.buffer, "set_idle_ttl", *session.key, None)
    clock.advance(10_000_000)
    assert await session.texts() == ["one"]
    await session.event("more")
    clock.advance(10_000_000)
    assert await session.texts() == ["one", "more"]


async def test_a_retention_without_an_idle_time_keeps_sessions(
    session_with: Callable[..., Session], clock: Clock
) -> None:
    session = session_with(idle_ttl=None)
    await session.add(HumanMessage("one"))
    clock.advance(10_000_000)
    assert await session.texts() == ["one"]
    assert (await session.info()).expires_at is None


@pytest.mark.parametrize("seconds", [1e12, 1e300, timedelta.max])
async def test_a_session_that_outlives_the_calendar_can_be_looked_at(session: Session, seconds: float) -> None:
    other = session("alice", "s2")
    await session.add(HumanMessage("one"))
    await other.add(HumanMessage("two"))
    await session.colour.call(session.buffer, "set_idle_ttl", *session.key, seconds)
    info = await session.info()
    assert info.expires_at > info.last_used_at + timedelta(days=50_000)
    assert info.expires_at.astimezone(timezone(timedelta(hours=14))).tzinfo is not None
    assert len(await session.sessions(all_users=True)) == 2
    assert session.buffer._repr_html_()


async def test_set_idle_ttl_of_an_unknown_session_creates_nothing(session: Session) -> None:
    assert await session.colour.call(session.buffer, "set_idle_ttl", "alice", "unknown", 500) is False
    assert await session.sessions("alice") == []


# --- max_age ----------------------------------------------------------------------------------


async def test_a_max_age_applies_at_once_to_sessions_that_were_allowed_more(
    session_with: Callable[..., Session], clock: Clock, storage: Any
) -> None:
    session = session_with(idle_ttl=None)
    await session.add(HumanMessage("secret"))
    for name in ("s2", "s3"):
        await session("alice", name).add(HumanMessage("secret"))
    clock.advance(1_000)
    bounded = session.through(SessionBuffer(storage, retention=Retention(max_age=100)))
    assert await bounded.info() is None
    model = ScriptedModel()
    await bounded.ask(build_graph("agent", bounded.buffer.checkpointer(), model), "hello")
    assert texts(model.inputs[-1]) == ["hello"]
    assert await bounded.texts() == ["hello", "re: hello"]
    assert await bounded("alice", "s2").texts() == []
    await bounded("alice", "s3").add(HumanMessage("new"))
    assert await bounded("alice", "s3").texts() == ["new"]


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_max_age_ends_a_session_however_busy_it_is_pinned_or_not(
    session_with: Callable[..., Session], clock: Clock, kind: str, pinned: bool
) -> None:
    session = session_with(idle_ttl=IDLE, max_age=timedelta(seconds=250))
    agent = build_graph(kind, session.buffer.checkpointer())
    await session.ask(agent, "hello")
    if pinned:
        await session.colour.call(session.buffer, "set_idle_ttl", *session.key, None)
    for _ in range(4):
        clock.advance(60)
        await session.ask(agent, "more")
    clock.advance(10 - MOMENT)
    assert len(await session.messages()) == 10
    clock.advance(2 * MOMENT)
    await assert_gone(session, agent)


# --- in the middle of a turn ------------------------------------------------------------------


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_expiring_in_the_middle_of_a_turn_loses_nothing_of_what_the_turn_holds(
    session: Session, clock: Clock, case: StorageCase, kind: str
) -> None:
    gate = Gate()
    model = ScriptedModel(gates={"slow": gate})
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    await session.say(build_chain(session.buffer), "hello")
    await session.ask(agent, "look up whales")
    slow = session.begin(agent, "slow")
    await gate.reached()
    clock.advance(past(case))
    assert await session.info() is None
    gate.release()
    result = await slow

    assert await session.texts() == [
        *("hello", "re: hello"),
        *("look up whales", "call whales", "facts about whales", "answer: facts about whales"),
        *("slow", "re: slow"),
    ]
    assert await session.texts() == texts(result["messages"])
    await session.ask(agent, "next")
    assert texts(model.inputs[-1]) == [*texts(result["messages"]), "next"]


class Noted(MessagesState):
    """The state of a graph that has more to lose than its conversation."""

    long: str
    short: int
    said: AIMessage


class DeltaNoted(Noted):
    """The same, with a channel that hands over only what is new."""

    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=50)]


@pytest.mark.parametrize("state", [Noted, DeltaNoted])
@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("ends", ["interrupt", "error"])
@pytest.mark.parametrize("max_age", [None, 10_000.0])
async def test_a_turn_that_an_interrupt_or_an_error_ends_loses_nothing_though_its_session_expired(
    session_with: Callable[..., Session],
    clock: Clock,
    case: StorageCase,
    max_age: float | None,
    ends: str,
    durability: str,
    state: type[Noted],
) -> None:
    session = session_with(idle_ttl=IDLE, max_age=max_age)
    slow = [past(case)]

    def begin(_: Any) -> dict[str, Any]:
        return {"long": "x" * 10_000, "short": 1, "said": AIMessage("kept", id="kept")}

    def work(_: Any) -> dict[str, Any]:
        while slow:
            clock.advance(slow.pop())
            if ends == "error":
                raise ValueError("down")
        return {"messages": [AIMessage("done" if ends == "error" else interrupt("sure?"))]}

    graph = StateGraph(state).add_node("begin", begin).add_node("work", work)
    graph.add_edge(START, "begin").add_edge("begin", "work")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    await session.add(HumanMessage("hello"), AIMessage("hi"))
    if ends == "error":
        with pytest.raises(ValueError, match="down"):
            await session.ask(compiled, "now", durability=durability)
    else:
        await session.ask(compiled, "now", durability=durability)

    found = await session.state(compiled)
    assert await session.texts() == ["hello", "hi", "now"]
    assert texts(found.values["messages"]) == ["hello", "hi", "now"]
    assert found.next == ("work",)
    assert len(found.values["long"]) == 10_000
    assert (found.values["short"], found.values["said"].text) == (1, "kept")
    await session.event("meanwhile")
    given = None if ends == "error" else Command(resume="done")
    result = await session.run(compiled, given, durability=durability)
    assert await session.texts() == texts(result["messages"]) == ["hello", "hi", "now", "meanwhile", "done"]


@pytest.mark.parametrize("ends", ["interrupt", "error"])
async def test_what_was_said_is_kept_of_an_interrupted_turn_though_another_began_its_expired_session_anew(
    session: Session, clock: Clock, case: StorageCase, ends: str
) -> None:
    saver = session.buffer.checkpointer()
    other = build_graph("agent", saver)

    async def work(_: Any) -> dict[str, Any]:
        clock.advance(past(case))
        await session.ask(other, "meanwhile")
        if ends == "error":
            raise ValueError("down")
        return {"messages": [AIMessage(interrupt("sure?"))]}

    graph = StateGraph(MessagesState).add_node("work", work).add_edge(START, "work").compile(checkpointer=saver)
    await session.add(HumanMessage("hello"), AIMessage("hi"))
    with suppress(ValueError):
        await graph.ainvoke({"messages": [HumanMessage("now")]}, session.config, durability="sync")
    assert await session.texts() == ["meanwhile", "re: meanwhile", "hello", "hi", "now"]
    assert await session.seen_by(other) == await session.texts()


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_turn_loses_nothing_however_often_its_session_expires(
    session: Session, clock: Clock, case: StorageCase, kind: str
) -> None:
    gates = {thing: Gate() for thing in ("whales", "squid", "krill")}
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model, Tools(gates=gates).all)
    await session.say(build_chain(session.buffer), "hello")
    for question in ("research whales, squid", "look up krill"):
        slow = session.begin(agent, question)
        for thing, gate in gates.items():
            if thing in question:
                await gate.reached()
                clock.advance(past(case))
                gate.release()
        result = await slow
        assert texts(result["messages"])[:2] == ["hello", "re: hello"]
        assert await session.texts() == texts(result["messages"])
    await session.ask(agent, "next")
    assert texts(model.inputs[-1]) == [*texts(result["messages"]), "next"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_turn_loses_nothing_where_its_expired_session_was_begun_and_read_anew_meanwhile(
    session: Session, clock: Clock, case: StorageCase, kind: str
) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={"slow": gate}))
    await session.ask(agent, "look up krill")
    slow = session.begin(agent, "slow")
    await gate.reached()
    clock.advance(past(case))
    await session.event("signed in again")
    assert await session.seen_by(agent) == ["signed in again"]
    gate.release()
    result = await slow
    assert len(result["messages"]) == 6
    assert await session.texts() == [*texts(result["messages"]), "signed in again"]
    assert await session.seen_by(agent) == await session.texts()


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_turn_loses_nothing_that_was_removed_of_its_session_before_that_expired(
    session: Session, clock: Clock, case: StorageCase, kind: str
) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={"slow": gate}))
    await session.ask(agent, "look up krill")
    slow = session.begin(agent, "slow")
    await gate.reached()
    question = (await session.messages())[0]
    removal = {"messages": [RemoveMessage(id=str(question.id))]}
    await session.colour.call(agent, "update_state", session.config, removal, "model")
    assert "look up krill" not in await session.texts()
    clock.advance(past(case))
    gate.release()
    result = await slow
    assert len(result["messages"]) == 6
    assert await session.texts() == texts(result["messages"])


@pytest.mark.parametrize("kind", [*GRAPH_KINDS, "appending"])
async def test_past_max_age_only_what_the_running_turn_added_is_kept(
    session_with: Callable[..., Session], clock: Clock, kind: str
) -> None:
    session = session_with(idle_ttl=None, max_age=500)
    gate = Gate()
    model = ScriptedModel(gates={"slow": gate})
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    await session.say(build_chain(session.buffer), "hello")
    await session.ask(agent, "look up whales")
    await session.ask(agent, "more")
    clock.advance(499)
    slow = session.begin(agent, "slow")
    await gate.reached()
    clock.advance(2)
    gate.release()
    result = await slow

    assert len(result["messages"]) == 10
    assert await session.texts() == ["slow", "re: slow"]
    assert await session.seen_by(agent) == ["slow", "re: slow"]
    await session.ask(agent, "next")
    assert texts(model.inputs[-1]) == ["slow", "re: slow", "next"]


async def test_expiring_in_the_middle_of_a_chains_turn_keeps_its_question_and_answer(
    session: Session, clock: Clock, case: StorageCase
) -> None:
    gate = Gate()
    chain = build_chain(session.buffer, ScriptedModel(gates={"slow": gate}))
    await session.say(chain, "hello")
    slow = asyncio.create_task(session.say(chain, "slow"))
    await gate.reached()
    clock.advance(past(case))
    gate.release()
    await slow
    assert await session.texts() == ["slow", "re: slow"]


async def test_an_interrupt_lives_as_long_as_its_session(session: Session, clock: Clock, case: StorageCase) -> None:
    @tool
    def lookup(thing: str) -> str:
        """Look a thing up when a human allows it."""
        return str(interrupt("may I?"))

    agent = build_graph("agent", session.buffer.checkpointer(), tools=[lookup])
    await session.ask(agent, "look up whales")
    for _ in range(5):
        clock.advance(IDLE - MOMENT)
        await session.messages()
    result = await session.run(agent, Command(resume="yes"))
    assert texts(result["messages"])[-1] == "answer: yes"


class Steps(TypedDict):
    done: int


@pytest.mark.parametrize("ends", ["asking", "failing", "answering"])
@pytest.mark.parametrize("state", [MessagesState, DeltaState])
async def test_a_turn_outlives_its_session_again_and_again_within_one_step(
    session: Session, clock: Clock, case: StorageCase, state: Any, ends: str
) -> None:
    """The steps of an agent in its tool each begin the session anew, and all the turn holds is what was before."""

    def slowly(state: Steps) -> dict[str, Any]:
        clock.advance(past(case))
        return {"done": state["done"] + 1}

    steps = StateGraph(Steps).add_node("slowly", slowly).add_edge(START, "slowly")
    steps.add_conditional_edges("slowly", lambda state: "slowly" if state["done"] < 3 else END)
    inner = steps.compile()

    async def work(_: Any) -> dict[str, Any]:
        await session.colour.call(inner, "invoke", {"done": 0})
        return ending(ends)

    await asks_and_outlives(session, state, work, ends)


@pytest.mark.parametrize("ends", ["asking", "failing", "answering"])
@pytest.mark.parametrize("state", [MessagesState, DeltaState])
async def test_a_turn_outlives_its_session_however_many_others_the_process_used(
    session: Session, clock: Clock, case: StorageCase, state: Any, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SESSIONS", 2)
    monkeypatch.setattr(recent_names, "_RECENT", 8)
    quick = build_graph("state_graph", session.buffer.checkpointer(), ScriptedModel(answer=echo))

    async def work(_: Any) -> dict[str, Any]:
        clock.advance(past(case))
        for other in range(8):
            await session("bob", f"s{other}").ask(quick, "hello")
        return ending(ends)

    await asks_and_outlives(session, state, work, ends)


def ending(ends: str) -> dict[str, Any]:
    """What a node of a graph does at last."""
    if ends == "failing":
        raise TimeoutError("the model took too long")
    return {"messages": [AIMessage(interrupt("sure?") if ends == "asking" else "worked")]}


async def asks_and_outlives(session: Session, state: Any, work: Callable[[Any], Any], ends: str) -> None:
    """A turn of a graph whose one node does some work, under which its session ends."""
    graph: Any = StateGraph(state)
    graph.add_node("work", work if session.colour.is_async else lambda state: asyncio.run(work(state)))
    agent = graph.add_edge(START, "work").compile(checkpointer=session.buffer.checkpointer())
    await session.add(HumanMessage("earlier"), AIMessage("answer"))
    with suppress(TimeoutError):
        # So that its first checkpoint is stored before time passes.
        await session.ask(agent, "go", durability="sync")
    said = ["earlier", "answer", "go", *["worked"] * (ends == "answering")]
    assert await session.seen_by(agent) == said
    found = await session.state(agent)
    assert found.next == (() if ends == "answering" else ("work",))
    assert [each.value for each in found.interrupts] == ["sure?"] * (ends == "asking")


async def test_the_instant_comes_in_real_time_too(colour: Colour) -> None:
    idle = 0.4
    buffer = SessionBuffer(MemoryStorage(), retention=Retention(idle_ttl=idle))
    session = Session(buffer, colour)
    agent = build_graph("agent", buffer.checkpointer())
    started = time.monotonic()
    await session.ask(agent, "hello")
    await asyncio.sleep(idle / 4)  # the one test in real time
    shown = await session.texts()
    if time.monotonic() - started < idle:
        assert shown == ["hello", "re: hello"]
    await asyncio.sleep(idle + 0.1)  # as above
    await assert_gone(session, agent)
