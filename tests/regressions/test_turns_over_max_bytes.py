"""What once went wrong where a turn, or a part of the state, alone outgrows `max_bytes`: each write freed it anew."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.base import Change, Outcome, Query, Snapshot
from langchain_ttl_history.testing import Clock
from tests.promises.helpers import Colour
from tests.regressions.cases import CONFIG, chained, ids, texts

_BOUND, _RESULT = 20_000, 2_000
_CALLS = 40


class Metered(MemoryStorage):
    """A storage that counts the payload bytes that it is sent, and those it answers with."""

    sent = read_back = outlines = 0

    def write(self, key: SessionKey, change: Change) -> Outcome:
        self.sent += sum(len(blob.payload) for blob in change.blobs.values())
        return super().write(key, change)

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        snapshot = super().read(key, query)
        self.read_back += sum(len(blob.payload) for blob in snapshot.blobs.values())
        self.outlines += query.outline
        return snapshot


def calling(buffer: SessionBuffer, meanwhile: Callable[[int], list[BaseMessage]] = lambda _: []) -> Any:
    """An agent that calls a tool again and again; `meanwhile` says at each call what else its result comes with."""

    def model(state: MessagesState) -> Any:
        done = sum(isinstance(each, ToolMessage) for each in state["messages"])
        calls = [{"name": "look", "args": {}, "id": f"c{done}"}] if done < _CALLS else []
        return {"messages": [AIMessage("", id=f"call {done}", tool_calls=calls)]}

    def tools(state: MessagesState) -> Any:
        call = state["messages"][-1].tool_calls[0]["id"]  # type: ignore[union-attr]  # an answer that calls
        result = ToolMessage(call.ljust(_RESULT, "."), tool_call_id=call, id=f"result {call}")
        return {"messages": [result, *meanwhile(int(call[1:]))]}

    graph = StateGraph(MessagesState).add_node("model", model).add_node("tools", tools).add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else "__end__")
    return graph.add_edge("tools", "model").compile(checkpointer=buffer.checkpointer())


def opened(storage: MemoryStorage) -> SessionBuffer:
    return SessionBuffer(storage, default_user="u", retention=Retention(max_bytes=_BOUND, max_messages=None))


async def run(colour: Colour, agent: Any, durability: str = "sync") -> list[BaseMessage]:
    config = {**CONFIG, "recursion_limit": 500}
    given = {"messages": [HumanMessage("go", id="q")]}
    held = await colour.call(agent, "invoke", given, config, durability=durability)
    return list(held["messages"])


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_turn_over_max_bytes_sends_and_reads_in_proportion_to_what_it_says(
    colour: Colour, durability: str
) -> None:
    storage = Metered()
    buffer = opened(storage)
    held = await run(colour, calling(buffer), durability)
    assert len(held) == 2 + 2 * _CALLS
    said = _CALLS * _RESULT
    assert storage.sent < 3 * said, "what was cut is sent again at each step"
    # The session, of at most the bound, for each tenth of that which it grows by; perhaps by two writers at once.
    assert storage.read_back < 2.5 * 10 * said
    info = buffer.info(session_id="t")
    assert info is not None
    assert info.bytes <= _BOUND
    shown = ids(buffer.history(session_id="t").messages)
    assert shown[0] == "q"
    assert shown[1:] == ids(held)[-len(shown) + 1 :]
    assert len(shown) > 10
    assert ids((await colour.call(calling(buffer), "get_state", CONFIG)).values["messages"]) == shown


async def test_what_another_process_freed_of_a_turn_over_max_bytes_is_not_brought_back(colour: Colour) -> None:
    storage = Metered()
    others = opened(storage).history(session_id="t")

    def event(call: int) -> list[BaseMessage]:
        if call % 10 == 9:
            others.add_messages([SystemMessage("event " * 400, id=f"event {call}")])
        return []

    held = await run(colour, calling(opened(storage), event))
    assert storage.sent < 5 * _CALLS * _RESULT
    shown = ids(others.messages)
    own = [each for each in shown if not str(each).startswith("event")]
    assert own[0] == "q"
    assert own[1:] == ids(held)[-len(own) + 1 :]


@pytest.mark.parametrize("what", ["edited", "removed"])
async def test_a_turn_over_max_bytes_may_edit_and_remove_what_was_cut(colour: Colour, what: str) -> None:
    storage = Metered()
    buffer = opened(storage)

    def changes(call: int) -> list[BaseMessage]:
        if call not in (20, 30):
            return []
        changed = f"note {call - 19}"
        return [AIMessage("edited", id=changed) if what == "edited" else RemoveMessage(id=changed)]

    def notes(call: int) -> list[BaseMessage]:
        return [AIMessage("note", id=f"note {call}"), *changes(call)]

    held = await run(colour, calling(buffer, notes))
    history = buffer.history(session_id="t")
    shown = ids(history.messages)
    assert shown[0] == "q"
    assert shown[1:] == ids(held)[-len(shown) + 1 :]
    info = buffer.info(session_id="t")
    assert info is not None
    assert info.bytes <= _BOUND
    # Only the steps that change what is there send all that the run holds.
    assert storage.sent < 4 * _CALLS * _RESULT
    assert texts(history.messages)[-2] == "note"


@pytest.mark.parametrize("asks", [False, True], ids=["goes on", "waits"])
async def test_a_turn_over_max_bytes_whose_session_expires_stores_again_what_was_cut_as_well(
    colour: Colour, asks: bool
) -> None:
    clock = Clock()
    storage = Metered(clock=clock)
    buffer = opened(storage)
    whole = 0

    def expires(call: int) -> list[BaseMessage]:
        nonlocal whole
        if call == _CALLS - 1:
            clock.advance(7_200)
            whole = -storage.sent
            if asks:
                interrupt("go on?")
        return []

    await run(colour, calling(buffer, expires))
    assert whole + storage.sent > (_CALLS - 1) * _RESULT
    info = buffer.info(session_id="t")
    assert info is not None
    assert info.bytes <= _BOUND


class Report(MessagesState):
    report: str


def answering(buffer: SessionBuffer, report: str | None = None) -> Any:
    """A graph of three steps, the first of which may write a report."""
    graph = StateGraph(Report)
    graph.add_node(
        "first", lambda _: {"messages": [AIMessage("one")], **({} if report is None else {"report": report})}
    )
    graph.add_node("second", lambda _: {"messages": [AIMessage("two")]})
    graph.add_node("third", lambda _: {"messages": [AIMessage("three")]})
    graph.add_edge(START, "first").add_edge("first", "second").add_edge("second", "third")
    return graph.compile(checkpointer=buffer.checkpointer())


def size(buffer: SessionBuffer) -> int:
    info = buffer.info(session_id="t")
    assert info is not None
    return info.bytes


async def test_a_session_whose_state_alone_is_over_max_bytes_is_not_freed_in_vain_at_every_write(
    colour: Colour,
) -> None:
    storage = Metered()
    buffer = opened(storage)
    given = {"messages": [HumanMessage("q")]}
    await colour.call(answering(buffer, "r" * 2 * _BOUND), "invoke", given, CONFIG)
    before = storage.outlines
    for _ in range(10):
        await colour.call(answering(buffer), "invoke", given, CONFIG)
    assert storage.outlines - before < 10, "it is read whole at each write"
    assert 2 * _BOUND < size(buffer) < 2.4 * _BOUND
    assert (await colour.call(answering(buffer), "get_state", CONFIG)).values["report"] == "r" * 2 * _BOUND
    await colour.call(answering(buffer, "short"), "invoke", given, CONFIG)
    assert size(buffer) <= _BOUND, "it is still held for a session that has to be over"


@pytest.mark.parametrize("end", ["a question", "an edit", "a removal"])
@pytest.mark.parametrize("door", ["history", "graph"])
async def test_a_session_whose_question_alone_is_over_max_bytes_is_not_freed_in_vain_at_every_write(
    colour: Colour, door: str, end: str
) -> None:
    storage = Metered()
    buffer = opened(storage)
    history = buffer.history(session_id="t")
    question = HumanMessage("?" * 2 * _BOUND, id="q")
    if door == "graph":
        await colour.call(answering(buffer), "invoke", {"messages": [question]}, CONFIG)
        assert storage.outlines <= 4
    else:
        await colour.call(history, "add_messages", [question])
    before = storage.outlines
    for number in range(20):
        await colour.call(history, "add_messages", [AIMessage(f"{number}")])
    assert storage.outlines - before <= 2, "it is read whole at each write"
    assert history.messages[0].id == "q"
    assert texts(history.messages)[-1] == "19"
    before = storage.outlines
    last = {"a question": HumanMessage("?"), "an edit": HumanMessage("?", id="q"), "a removal": RemoveMessage(id="q")}
    await colour.call(history, "add_messages", [last[end]])
    assert storage.outlines == before + 1, "it is not looked at though it may be freed now"
    assert end != "a question" or size(buffer) <= _BOUND


async def test_a_group_over_max_bytes_is_freed_by_the_answer_to_it(colour: Colour) -> None:
    buffer = opened(Metered())
    history = buffer.history(session_id="t")
    call = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "c"}])
    await colour.call(
        history, "add_messages", [HumanMessage("q"), call, ToolMessage("r" * 2 * _BOUND, tool_call_id="c")]
    )
    assert size(buffer) > _BOUND
    await colour.call(history, "add_messages", [AIMessage("answer")])
    assert size(buffer) <= _BOUND
    assert texts(history.messages) == ["q", "answer"]


@pytest.mark.parametrize("seed", [2, 9, 11, 23, 34, 44, 47, 63])
def test_of_turns_that_overlap_none_is_shown_without_its_question_where_bytes_are_short(seed: int) -> None:
    chance = Random(seed)
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=8_000, max_messages=None))

    def turn() -> Any:
        sizes = [chance.randint(0, 700) for _ in range(chance.randint(1, 25))]
        says = {
            f"step {at}": lambda _, size=size: {"messages": [AIMessage("x" * size)]} for at, size in enumerate(sizes)
        }
        given = {"messages": [HumanMessage("?")]}
        return chained(buffer, **says).stream(given, CONFIG, stream_mode="values", durability="sync")

    under_way = [turn(), turn()]
    for _ in range(80):
        at = chance.randrange(2)
        if next(under_way[at], None) is None:
            under_way[at] = turn()
        shown = buffer.history(session_id="t").messages
        assert not shown or isinstance(shown[0], HumanMessage)
