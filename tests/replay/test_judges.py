"""The judges of the replays: what they accept, and that they refuse what they should."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from tests.replay.chat import Expected, complaints, said, window
from tests.replay.script import Conversation, Step, Turn, playing, scripted_agent


def calling(*ids: str) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[{"type": "tool_call", "id": id_, "name": "look", "args": {"n": id_}} for id_ in ids],
    )


def result(id_: str) -> ToolMessage:
    return ToolMessage(f"result {id_}", tool_call_id=id_, name="look")


SYSTEM, HUMAN, ANSWER = SystemMessage("be kind"), HumanMessage("hello"), AIMessage("hi")
TURN = [HUMAN, calling("a", "b"), result("a"), result("b"), ANSWER]


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([], id="nothing"),
        pytest.param([SYSTEM, HUMAN, ANSWER, HUMAN], id="plain"),
        pytest.param(TURN, id="parallel"),
        pytest.param([HUMAN, calling("a", "b"), result("b"), result("a")], id="results out of order"),
        pytest.param([HUMAN, calling("a"), result("a"), calling("a"), result("a")], id="recurring id"),
    ],
)
def test_a_valid_chat_raises_no_complaint(messages: list[BaseMessage]) -> None:
    assert complaints(messages) == []


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([result("a"), HUMAN], id="a result first"),
        pytest.param([HUMAN, calling("a"), HUMAN, result("a")], id="a human before the result"),
        pytest.param([HUMAN, calling("a"), SYSTEM, result("a")], id="an event before the result"),
        pytest.param([HUMAN, calling("a", "b"), result("a"), ANSWER], id="one of two answered"),
        pytest.param([HUMAN, calling("a"), result("a"), result("a")], id="a second result"),
        pytest.param([HUMAN, calling("a"), result("b")], id="the result of another call"),
        pytest.param(
            [HUMAN, calling("a"), calling("a"), result("a")],
            id="a recurring id answers only the nearest",
        ),
        pytest.param([HUMAN, calling("a")], id="a call at the end"),
    ],
)
def test_a_broken_chat_raises_a_complaint(messages: list[BaseMessage]) -> None:
    assert complaints(messages) != []


@pytest.mark.parametrize(
    ("messages", "cap", "kept"),
    [
        pytest.param([SYSTEM, *TURN], 6, [0, 1, 2, 3, 4, 5], id="what fits is unchanged"),
        pytest.param([SYSTEM, *TURN], 5, [1, 2, 3, 4, 5], id="a leading system message is cut like any other"),
        pytest.param([HUMAN, ANSWER, HUMAN, ANSWER, HUMAN], 4, [2, 3, 4], id="as many turns as fit"),
        pytest.param(TURN, 4, [0, 4], id="a group is kept whole or not at all"),
        pytest.param(TURN[:4], 3, [0, 1, 2, 3], id="at least one group stays"),
        pytest.param([HUMAN, ANSWER, *TURN], 3, [2, 6], id="only the newest turn is reduced"),
        pytest.param([SYSTEM, ANSWER, SYSTEM], 2, [1, 2], id="without a human message the newest stay"),
    ],
)
def test_the_window_is_what_the_promise_says(messages: list[BaseMessage], cap: int, kept: list[int]) -> None:
    assert window(messages, cap) == [messages[position] for position in kept]


def test_a_remnant_before_the_next_turn_is_one_of_two_expected_windows() -> None:
    expected = Expected(cap=4)
    expected.add(TURN)
    expected.add([HUMAN, ANSWER])
    assert expected.refusal([HUMAN, ANSWER]) is None
    assert expected.refusal([HUMAN, ANSWER, HUMAN, ANSWER]) is None
    assert expected.refusal([ANSWER, HUMAN, ANSWER]) is not None


def test_two_messages_with_the_same_words_and_other_calls_say_different_things() -> None:
    assert said([calling("a")]) != said([calling("b")])
    assert said([result("a")]) != said([ToolMessage("result a", tool_call_id="a", name="look", status="error")])
    assert said([HumanMessage("hi", id="1")]) == said([HumanMessage("hi", id="2")])


PLAY = Conversation(
    "parallel",
    "be kind",
    (
        Turn(HUMAN, (Step(calling("a", "b"), (result("a"), result("b"))), Step(ANSWER))),
        Turn(HUMAN, (Step(ANSWER),)),
    ),
)


def test_a_replay_through_langgraphs_own_saver_plays_every_line() -> None:
    agent = scripted_agent(PLAY.tools(), InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    expected = Expected(cap=80)
    for turn in PLAY.turns:
        with playing(turn, expected):
            agent.invoke({"messages": turn.opening()}, config)
    assert expected.refusal(agent.get_state(config).values["messages"]) is None
    assert len(expected.everything) == 7


def test_a_replay_fails_when_the_saver_shows_more_than_the_window() -> None:
    agent = scripted_agent(PLAY.tools(), InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    expected = Expected(cap=4)
    first, second = PLAY.turns
    with playing(first, expected):
        agent.invoke({"messages": first.opening()}, config)
    with (
        pytest.raises(AssertionError, match="cap 4: 6 messages shown, 3 expected"),
        playing(second, expected),
    ):
        agent.invoke({"messages": second.opening()}, config)
