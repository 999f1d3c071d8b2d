"""What a graph is handed as its messages, whether they are a conversation or not."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels.ephemeral_value import EphemeralValue
from langgraph.checkpoint.memory import InMemorySaver
from typing_extensions import TypedDict

from langchain_ttl_history import SessionBuffer
from tests.regressions.cases import (
    CONFIG,
    Counted,
    Numbered,
    Plain,
    ask,
    chained,
    plain_texts,
    says,
)


@pytest.mark.parametrize("messages", ["text", (HumanMessage("own", id="own"),)], ids=["text", "tuple"])
def test_a_graph_whose_messages_are_no_list_leaves_the_conversation_alone(messages: Any) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("q"), AIMessage("a")])
    graph = chained(buffer, Plain, first=lambda _: {"messages": messages}, second=lambda _: {})
    graph.invoke({"messages": "x"}, CONFIG, durability="sync")
    assert graph.get_state(CONFIG).values == {"messages": messages}
    assert plain_texts(history.messages) == ["q", "a"]


@pytest.mark.parametrize("messages", [[], "text"], ids=["none", "text"])
def test_the_messages_of_a_graph_are_the_same_after_turns_of_one_that_has_none(messages: Any) -> None:
    buffer = SessionBuffer(default_user="u")
    graph = chained(buffer, Plain, first=lambda _: {"messages": messages})
    graph.invoke({"messages": [HumanMessage("q")]}, CONFIG)
    for _ in range(2):
        chained(buffer, Numbered, first=lambda _: {"n": 1}).invoke({"n": 0}, CONFIG)
        assert graph.get_state(CONFIG).values == {"messages": messages}


def test_messages_that_last_for_one_step_are_gone_after_it_as_in_memory() -> None:
    state: Any = TypedDict("state", {"messages": Annotated[Any, EphemeralValue], "n": int})
    graph = chained(
        SessionBuffer(default_user="u"),
        state,
        first=lambda _: {"n": 1},
        second=lambda state: {"n": 2 + ("messages" in state)},
    )
    states = []
    for each in (graph, graph.builder.compile(checkpointer=InMemorySaver())):
        for durability in ("exit", "sync"):
            each.invoke({"messages": "text"}, CONFIG, durability=durability)
        states.append([snapshot.values for snapshot in each.get_state_history(CONFIG)])
    assert states[0] == states[1]


def test_a_step_that_says_nothing_hands_over_the_list_that_it_was_given() -> None:
    buffer = SessionBuffer(default_user="u")
    graph = chained(buffer, Counted, answers=says("a"), counts=lambda _: {"n": 1})
    for _ in range(2):
        ask(graph, "q")
    values = [found.checkpoint["channel_values"] for found in buffer.checkpointer().list(CONFIG)]
    assert {type(each["messages"]) for each in values if "messages" in each} == {list}


def test_a_graph_that_has_no_messages_yet_is_handed_a_list_of_what_a_chain_said() -> None:
    buffer = SessionBuffer(default_user="u")
    chained(buffer, Numbered, first=lambda _: {"n": 1}).invoke({"n": 0}, CONFIG)
    buffer.history(session_id="t").add_messages([HumanMessage("q"), AIMessage("a")])
    found = buffer.checkpointer().get_tuple(CONFIG)
    assert found is not None
    assert plain_texts(found.checkpoint["channel_values"]["messages"]) == ["q", "a"]
