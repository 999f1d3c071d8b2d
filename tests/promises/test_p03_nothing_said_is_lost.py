"""P3 Nothing said is lost."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.types import Command, interrupt

from langchain_ttl_history import TypeNotAllowedError
from tests.shared.chats import assert_contiguous, assert_valid_chat, texts
from tests.shared.gates import Gate
from tests.shared.graphs import GRAPH_KINDS, Tools, build_chain, build_graph
from tests.shared.models import ScriptedModel
from tests.shared.sessions import Session

Opens = Callable[..., Any]


def said_by(question: str) -> list[str]:
    """The whole turn that a question makes the scripted agent take."""
    if not question.startswith("look up "):
        return [question, f"re: {question}"]
    things = question.removeprefix("look up ").split(", ")
    return [
        question,
        f"call {', '.join(things)}",
        *(f"facts about {thing}" for thing in things),
        f"answer: facts about {things[-1]}",
    ]


async def check(session: Session, *turns: list[str]) -> None:
    """The conversation holds exactly these turns, each of them whole."""
    conversation = await session.texts()
    for turn in turns:
        assert_contiguous(conversation, turn)
    assert len(conversation) == sum(map(len, turns)), conversation
    assert_valid_chat(await session.messages())


@pytest.mark.parametrize("other_worker", [False, True], ids=["one process", "two workers"])
@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_two_agent_turns_at_the_same_time_both_end_up_in_the_conversation(
    session: Session, open_buffer: Opens, kind: str, other_worker: bool
) -> None:
    gate = Gate()
    model = ScriptedModel(gates={"slow": gate})
    other = session.through(open_buffer()) if other_worker else session
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    others_agent = build_graph(kind, other.buffer.checkpointer())
    await session.ask(agent, "before")

    slow = session.begin(agent, "slow")
    await gate.reached()
    await other.ask(others_agent, "look up whales")
    gate.release()
    await slow

    await check(session, said_by("before"), said_by("slow"), said_by("look up whales"))
    assert await session.seen_by(agent) == await session.texts()
    await session.ask(agent, "after")
    assert len(model.inputs[-1]) == 2 + 2 + 4 + 1
    await check(
        session,
        *(said_by(each) for each in ("before", "slow", "look up whales", "after")),
    )


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_two_first_turns_of_a_session_at_the_same_time_both_end_up_in_it(session: Session, kind: str) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={"slow": gate}))
    slow = session.begin(agent, "slow")
    await gate.reached()
    await session.ask(agent, "quick")
    gate.release()
    await slow
    await check(session, said_by("slow"), said_by("quick"))


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_turn_that_overlaps_another_in_the_middle_of_its_tool_calls_stays_contiguous(
    session: Session, kind: str
) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), tools=Tools(gates={"slow": gate}).all)
    slow = session.begin(agent, "look up slow, other")
    await gate.reached()
    await session.ask(agent, "look up quick")
    await session.ask(agent, "hello")
    gate.release()
    await slow
    await check(session, said_by("look up slow, other"), said_by("look up quick"), said_by("hello"))
    assert await session.seen_by(agent) == await session.texts()


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("order", ["one two three", "two one three", "three two one", "one three two"])
async def test_turns_that_begin_inside_each_others_tool_calls_all_stay_whichever_ends_last(
    session: Session, kind: str, order: str
) -> None:
    gates = {name: Gate() for name in ("one", "two", "three")}
    agent = build_graph(kind, session.buffer.checkpointer(), tools=Tools(gates=gates).all)
    turns = {}
    for name, gate in gates.items():
        turns[name] = session.begin(agent, f"look up {name}, {name} again")
        await gate.reached()
    for name in order.split():
        gates[name].release()
        await turns[name]
    await check(session, *(said_by(f"look up {name}, {name} again") for name in gates))
    assert await session.seen_by(agent) == await session.texts()


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_three_overlapping_turns_that_end_in_another_order_all_stay(session: Session, kind: str) -> None:
    gates = {name: Gate() for name in ("one", "two", "three")}
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates=gates))
    turns = {}
    for name, gate in gates.items():
        turns[name] = session.begin(agent, name)
        await gate.reached()
    for name in ("two", "three", "one"):
        gates[name].release()
        await turns[name]
    await check(session, *(said_by(name) for name in gates))
    await session.ask(agent, "after")
    await check(session, *(said_by(name) for name in (*gates, "after")))


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("slow_one", ["agent", "chain"])
async def test_an_agent_and_a_chain_at_the_same_time_both_end_up_in_the_conversation(
    session: Session, kind: str, slow_one: str
) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={"agent slow": gate}))
    chain = build_chain(session.buffer, ScriptedModel(gates={"chain slow": gate}))
    await session.ask(agent, "before")

    if slow_one == "agent":
        slow = session.begin(agent, "agent slow")
        await gate.reached()
        await session.say(chain, "quick")
    else:
        slow = asyncio.create_task(session.say(chain, "chain slow"))
        await gate.reached()
        await session.ask(agent, "quick")
    gate.release()
    await slow

    await check(session, said_by("before"), said_by(f"{slow_one} slow"), said_by("quick"))
    assert await session.seen_by(agent) == await session.texts()


@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_two_chain_turns_at_the_same_time_both_end_up_in_the_conversation(session: Session, style: str) -> None:
    gate = Gate()
    chain = build_chain(session.buffer, ScriptedModel(gates={"slow": gate}), style=style)
    await session.say(chain, "before", style=style)
    slow = asyncio.create_task(session.say(chain, "slow", style=style))
    await gate.reached()
    await session.say(chain, "quick", style=style)
    gate.release()
    await slow
    await check(session, said_by("before"), said_by("slow"), said_by("quick"))


# Not over a `DeltaChannel`: LangGraph stores its input as a write of a task that is named after the checkpoint
# alone, so two runs that start from one checkpoint at the same instant overwrite each other's question.
@pytest.mark.parametrize("kind", [kind for kind in GRAPH_KINDS if kind != "delta"])
async def test_many_turns_at_once_through_both_doors_all_end_up_in_the_conversation(
    session: Session, kind: str
) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    chain = build_chain(session.buffer)
    questions = ["look up a", "look up b, c", "d"]
    await asyncio.gather(
        *(session.ask(agent, question) for question in questions),
        *(session.say(chain, f"chain {number}") for number in range(3)),
    )
    await check(
        session,
        *(said_by(question) for question in questions),
        *(said_by(f"chain {number}") for number in range(3)),
    )
    assert await session.seen_by(agent) == await session.texts()


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_events_during_a_turn_are_kept_outside_of_it(session: Session, kind: str) -> None:
    gate = Gate()
    model = ScriptedModel(gates={"slow": gate})
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    slow = session.begin(agent, "slow")
    await gate.reached()
    await session.event("one")
    await session.event("two")
    gate.release()
    await slow
    assert await session.texts() == ["slow", "re: slow", "one", "two"]
    await session.ask(agent, "next")
    assert texts(model.inputs[-1]) == ["slow", "re: slow", "one", "two", "next"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_removal_made_while_a_turn_runs_touches_only_what_it_had_seen(session: Session, kind: str) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={"slow": gate}))
    await session.ask(agent, "before")
    slow = session.begin(agent, "slow")
    await gate.reached()
    await session.replace([AIMessage("a summary")])
    gate.release()
    await slow
    conversation = await session.texts()
    assert "before" not in conversation
    assert conversation.count("a summary") == 1
    assert conversation.count("re: slow") == 1
    assert await session.seen_by(agent) == conversation


async def test_appends_from_many_threads_and_tasks_are_atomic(session: Session) -> None:
    def pair(worker: int, number: int) -> list[Any]:
        return [HumanMessage(f"{worker}/{number} q"), AIMessage(f"{worker}/{number} a")]

    async def work(worker: int) -> None:
        for number in range(5):
            await session.add(*pair(worker, number))

    await asyncio.gather(*(work(worker) for worker in range(8)))

    conversation = await session.texts()
    assert len(conversation) == 80
    for worker in range(8):
        for number in range(5):
            assert_contiguous(conversation, texts(pair(worker, number)))


async def test_an_append_of_which_one_message_cannot_be_stored_stores_none(
    session: Session,
) -> None:
    await session.add(HumanMessage("before"))
    with pytest.raises(TypeNotAllowedError):
        await session.add(
            HumanMessage("good"),
            AIMessage("bad", additional_kwargs={"call": lambda: None}),
            HumanMessage("also good"),
        )
    assert await session.texts() == ["before"]


# --- interrupts -------------------------------------------------------------------------------


@tool
def lookup(thing: str) -> str:
    """Look a thing up when a human allows it."""
    return f"{interrupt(f'may I look up {thing}?')} facts about {thing}"


async def interrupted(session: Session, kind: str) -> tuple[Any, ScriptedModel]:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model, [lookup])
    await session.ask(agent, "hello")
    await session.ask(agent, "look up whales")
    return agent, model


async def resume(session: Session, agent: Any) -> None:
    snapshot = await session.state(agent)
    assert snapshot.next == ("tools",)
    assert [each.value for each in snapshot.interrupts] == ["may I look up whales?"]
    result = await session.run(agent, Command(resume="granted:"))
    assert texts(result["messages"])[-2:] == [
        "granted: facts about whales",
        "answer: granted: facts about whales",
    ]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_interrupt_survives_turns_and_events_through_the_history(session: Session, kind: str) -> None:
    agent, _ = await interrupted(session, kind)
    await session.event("an event")
    await session.say(build_chain(session.buffer), "a chain's turn")
    await session.add(HumanMessage("more"), AIMessage("and more"))
    await resume(session, agent)
    await check(
        session,
        said_by("hello"),
        [
            *("look up whales", "call whales", "granted: facts about whales"),
            "answer: granted: facts about whales",
        ],
        ["an event"],
        said_by("a chain's turn"),
        ["more", "and more"],
    )


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_interrupt_survives_the_freeing_of_messages_and_bytes(
    session_with: Callable[..., Session], kind: str
) -> None:
    session = session_with(max_messages=4, max_checkpoints=1, max_bytes=4_000)
    agent, _ = await interrupted(session, kind)
    for number in range(30):
        await session.add(HumanMessage(f"question {number} " * 10), AIMessage("answer " * 20))
    await resume(session, agent)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_interrupt_survives_a_removal_and_an_edit_of_what_was_said_before(session: Session, kind: str) -> None:
    agent, model = await interrupted(session, kind)
    first = (await session.messages())[0]
    await session.add(HumanMessage("edited", id=first.id))
    await resume(session, agent)
    assert (await session.texts())[0] == "edited"
    await session.ask(agent, "next")
    assert texts(model.inputs[-1])[0] == "edited"


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_interrupt_survives_reading_by_anyone(session: Session, kind: str) -> None:
    agent, _ = await interrupted(session, kind)
    await session.messages()
    await session.states(agent)
    await session.info()
    await session.colour.call(session.buffer, "sweep")
    await resume(session, agent)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_interrupt_survives_another_worker_that_reads_it(
    session: Session, open_buffer: Opens, kind: str
) -> None:
    await interrupted(session, kind)
    other = session.through(open_buffer())
    agent = build_graph(kind, other.buffer.checkpointer(), tools=[lookup])
    await resume(other, agent)


# --- clocks -----------------------------------------------------------------------------------

_skew: ContextVar[float] = ContextVar("skew", default=0.0)
"""By how many seconds the clock of the worker that runs now is ahead."""


@pytest.fixture
def skewed_clocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Any]:
    """Lets each worker name its checkpoints by a clock of its own."""
    latest: dict[float, int] = {}
    original = checkpoint_ids.uuid6

    def uuid6(node: int | None = None, clock_seq: int | None = None) -> Any:
        skew = _skew.get()
        ticks = (time.time_ns() + int(skew * 1e9)) // 100 + 0x01B21DD213814000
        ticks = latest[skew] = max(ticks, latest.get(skew, 0) + 1)
        value = (ticks >> 12 & 0xFFFFFFFFFFFF) << 80 | (ticks & 0xFFF) << 64
        value |= ((clock_seq or 0) & 0x3FFF) << 48 | original().int & 0xFFFFFFFFFFFF
        return checkpoint_ids.UUID(int=value, version=6)

    for module in list(sys.modules.values()):
        if getattr(module, "uuid6", None) is original:
            monkeypatch.setattr(module, "uuid6", uuid6)

    @contextmanager
    def worker(seconds_ahead: float) -> Iterator[None]:
        token = _skew.set(seconds_ahead)
        yield
        _skew.reset(token)

    return worker


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_worker_whose_clock_is_behind_hides_nobodys_turn(
    session: Session, open_buffer: Opens, kind: str, skewed_clocks: Callable[[float], Any]
) -> None:
    other = session.through(open_buffer())
    agent = build_graph(kind, session.buffer.checkpointer())
    others_agent = build_graph(kind, other.buffer.checkpointer())
    expected: list[str] = []
    for turn in range(3):
        with skewed_clocks(7.0):
            await session.ask(agent, f"look up ahead{turn}")
        with skewed_clocks(-5.0):
            result = await other.ask(others_agent, f"behind {turn}")
        expected += [*said_by(f"look up ahead{turn}"), *said_by(f"behind {turn}")]
        assert texts(result["messages"]) == expected
        assert await session.texts() == expected
        assert await session.seen_by(agent) == expected


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_overlapping_turns_of_workers_whose_clocks_differ_both_stay(
    session: Session, open_buffer: Opens, kind: str, skewed_clocks: Callable[[float], Any]
) -> None:
    other = session.through(open_buffer())
    for slow_skew, quick_skew in ((6.0, -6.0), (-6.0, 6.0)):
        gate = Gate()
        question = f"slow {slow_skew}"
        agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={question: gate}))
        with skewed_clocks(slow_skew):
            slow = session.begin(agent, question)
        await gate.reached()
        with skewed_clocks(quick_skew):
            await other.ask(build_graph(kind, other.buffer.checkpointer()), f"quick {quick_skew}")
        gate.release()
        await slow
    await check(session, *(said_by(q) for q in ("slow 6.0", "quick -6.0", "slow -6.0", "quick 6.0")))


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_interrupt_of_a_worker_whose_clock_is_ahead_is_resumed_by_one_behind(
    session: Session, open_buffer: Opens, kind: str, skewed_clocks: Callable[[float], Any]
) -> None:
    with skewed_clocks(9.0):
        await interrupted(session, kind)
    other = session.through(open_buffer())
    agent = build_graph(kind, other.buffer.checkpointer(), tools=[lookup])
    with skewed_clocks(-3.0):
        await resume(other, agent)
        await other.ask(agent, "and on")
    assert (await session.texts())[-2:] == said_by("and on")
