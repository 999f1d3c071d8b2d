"""Sessions that go on and on: what they hold stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call

from langchain_ttl_history import Retention, SessionBuffer
from tests.replay.chat import Expected
from tests.replay.script import Step, Turn, playing, scripted_agent

CAP = 12


def turn(number: int) -> Turn:
    """A turn of four messages, as long as every other."""
    call = tool_call(id="call_1", name="look", args={"n": f"{number:05}"})
    result = ToolMessage(f"seen {number:05}", tool_call_id="call_1", name="look")
    answer = AIMessage(f"answer {number:05}")
    return Turn(HumanMessage(f"human {number:05}"), (Step(AIMessage("", tool_calls=[call]), (result,)), Step(answer)))


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(["agent"], id="agent"),
        pytest.param(["history"], id="history"),
        pytest.param(["agent", "history"], id="agent and history"),
        pytest.param(["agent", *["history"] * 1_000], id="history behind one turn of an agent"),
        pytest.param(["history", *["agent"] * 1_000], id="agent after one turn of a history"),
    ],
)
def test_a_session_holds_no_more_after_many_turns_than_after_some(ways: list[str]) -> None:
    buffer = SessionBuffer(retention=Retention(max_messages=CAP, max_checkpoints=10))
    agent = scripted_agent({"look"}, buffer.checkpointer())
    config = buffer.config("alice", "long")
    expected = Expected(CAP)

    def through_agent(next_: Turn) -> None:
        with playing(next_, expected):
            agent.invoke({"messages": next_.opening()}, config)

    def through_history(next_: Turn) -> None:
        buffer.history("alice", "long").add_messages([each.model_copy() for each in next_.messages()])
        expected.add(next_.messages())

    doors: dict[str, Callable[[Turn], None]] = {"agent": through_agent, "history": through_history}
    held: list[int] = []
    for number, way in zip(range(180), cycle(ways), strict=False):
        doors[way](turn(number))
        info = buffer.info("alice", "long")
        assert info is not None
        held.append(info.bytes)
    assert expected.refusal(buffer.history("alice", "long").messages) is None
    # What is freed in batches makes it go up and down, so the peaks are compared.
    assert max(held[120:]) <= 1.1 * max(held[60:120])
