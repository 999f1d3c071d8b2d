"""What the log says of a turn, which only those are shown that are the head: a turn beside it, stored at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.graph import MessagesState

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.storage import MemoryStorage
from tests.regressions.cases import (
    CALL,
    CONFIG,
    Counted,
    ask,
    calling,
    calls_while,
    chained,
    graph_of,
    plain_texts,
    says,
    stepping,
)


def begun_beside(buffer: SessionBuffer) -> Iterator[Any]:
    """A turn that has begun, and stores nothing before its end: it is the head then, and the log tells it of others."""
    beside: Iterator[Any] = graph_of(buffer, says("B!")).stream(
        {"messages": [HumanMessage("B?")]}, CONFIG, durability="exit", stream_mode="values"
    )
    next(beside)
    return beside


@pytest.mark.parametrize("way", ["input", "input that removes", "update_state"])
def test_what_comes_with_a_result_stands_with_its_call_for_a_turn_beside_it(way: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old")])
    agent = calling(buffer)
    ask(agent, "go")
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    beside = begun_beside(buffer)
    result = ToolMessage("result", tool_call_id=CALL["id"])
    if way == "update_state":
        agent.update_state(CONFIG, {"messages": [result, HumanMessage("also")]})
        said = ["also"]
    else:
        gone = [RemoveMessage(id="old")] if way == "input that removes" else []
        agent.invoke({"messages": [*gone, result, SystemMessage("note")]}, CONFIG)
        said = ["note", "to note"]
    list(beside)
    old = [] if way == "input that removes" else ["old"]
    assert plain_texts(history.messages) == [*old, "go", "call", "result", *said, "X?", "X!", "B?", "B!"]


def halting(buffer: SessionBuffer, before: str, **nodes: Any) -> Any:
    """A graph of these nodes, one after the other, that stops before one of them until it is told to go on."""
    return chained(buffer, **nodes).builder.compile(checkpointer=buffer.checkpointer(), interrupt_before=[before])


def test_a_turn_that_goes_on_without_an_answer_stays_in_one_piece_for_a_turn_beside_it() -> None:
    buffer = SessionBuffer(default_user="u")
    agent = halting(buffer, "second", first=says("A1"), second=says("A2"))
    ask(agent, "A?")
    beside = begun_beside(buffer)
    agent.invoke(None, CONFIG)
    list(beside)
    assert plain_texts(buffer.history(session_id="t").messages) == ["A?", "A1", "A2", "B?", "B!"]


def test_what_follows_a_draft_that_is_taken_back_stands_in_its_turn_for_a_turn_beside_it() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    agent = halting(
        buffer,
        "drafts",
        first=says("A1"),
        drafts=lambda _: {"messages": [AIMessage("draft", id="draft")]},
        again=lambda _: {"messages": [RemoveMessage(id="draft"), AIMessage("A2")]},
    )
    ask(agent, "A?")
    turn = agent.stream(None, CONFIG, durability="sync", stream_mode="values")
    assert plain_texts([next(turn), next(turn)][1]["messages"]) == ["A?", "A1", "draft"]
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    beside = begun_beside(buffer)
    list(turn)
    list(beside)
    assert plain_texts(history.messages) == ["A?", "A1", "A2", "X?", "X!", "B?", "B!"]


def test_a_removal_before_a_turn_says_anything_leaves_a_call_whose_result_came_meanwhile() -> None:
    buffer = SessionBuffer(default_user="u")
    turn = stepping(calls_while(buffer, lambda: None), HumanMessage("question"))
    assert plain_texts([next(turn), next(turn)][1]["messages"]) == ["question", "call"]

    def forgets(state: MessagesState) -> Any:
        next(turn)
        return {"messages": [RemoveMessage(id=message.id or "") for message in state["messages"]]}

    chained(buffer, Counted, forgets=forgets).invoke({"n": 1}, CONFIG)
    list(turn)
    assert plain_texts(buffer.history(session_id="t").messages) == ["call", "result", "answer"]


def test_of_what_a_client_sends_again_only_what_is_new_is_new_to_a_turn_beside_it() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=10))
    history = buffer.history(session_id="t")
    old: list[Any] = [HumanMessage("q", id="q"), AIMessage("a", id="a")]
    history.add_messages([*old, *(kind(f"{turn}") for turn in range(4) for kind in (HumanMessage, AIMessage))])
    agent = calling(buffer)
    ask(agent, "go")
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    beside = begun_beside(buffer)
    agent.invoke({"messages": [*old, ToolMessage("result", tool_call_id=CALL["id"]), HumanMessage("more")]}, CONFIG)
    list(beside)
    assert plain_texts(history.messages) == ["go", "call", "result", "X?", "X!", "more", "to more", "B?", "B!"]


@pytest.mark.parametrize("way", ["invoke", "update_state"])
def test_what_a_chain_said_is_removed_by_the_first_run_of_a_graph_for_a_turn_beside_it(way: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("older")])
    beside = begun_beside(buffer)
    said: Any = {"messages": [RemoveMessage(id="old"), AIMessage("A!")]}
    graph = graph_of(buffer, lambda _: said)
    if way == "invoke":
        ask(graph, "A?", "exit")
    else:
        graph.update_state(CONFIG, said)
    list(beside)
    assert plain_texts(history.messages) == ["older", "B?", "B!", *["A?"] * (way == "invoke"), "A!"]


@pytest.mark.parametrize("again", [False, True])
def test_a_result_stands_with_its_call_for_a_turn_beside_it_whatever_a_client_sends_again_behind_it(
    again: bool,
) -> None:
    """The window had cut the first turn."""
    storage = MemoryStorage()
    whole = SessionBuffer(storage, default_user="u")
    narrow = SessionBuffer(storage, default_user="u", retention=Retention(max_messages=3))
    history = whole.history(session_id="t")
    first = [HumanMessage("q1", id="q1"), AIMessage("a1", id="a1")]
    history.add_messages(first)
    ask(chained(whole, model=lambda _: {"messages": [AIMessage("call", tool_calls=[CALL])]}), "q2")
    asked = {"messages": [HumanMessage("beside?")]}
    beside = chained(whole, answers=says("beside!")).stream(asked, CONFIG, durability="sync", stream_mode="values")
    next(beside)
    sent = [ToolMessage("result", tool_call_id="c"), *(first if again else ())]
    chained(narrow, answers=says("done")).invoke({"messages": sent}, CONFIG, durability="sync")
    list(beside)
    assert plain_texts(history.messages) == ["q1", "a1", "q2", "call", "beside?", "result", "done", "beside!"]
