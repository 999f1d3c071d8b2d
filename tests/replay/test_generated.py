"""Generated conversations with parallel tool calls, recurring call ids and events between the turns."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call

from tests.replay.script import Step, Turn
from tests.replay.sessions import Cast, Door, Session

TOOLS = ["look", "ask", "wait"]
IDS = ["call_a", "call_b", "call_c", "call_d", "call_e"]
Plan = list[tuple[list[list[str]], Door, bool]]
"""Turns: the call ids of each of its steps, the door it goes through, whether an event comes before it."""

plans = st.lists(
    st.tuples(
        st.lists(st.lists(st.sampled_from(IDS), min_size=1, max_size=5, unique=True), max_size=4),
        st.sampled_from(["agent", "chain"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def turns(plan: Plan) -> list[Turn]:
    """The turns of a plan; no two messages of them have the same content."""
    number = count()

    def step(ids: list[str]) -> Step:
        calls = [tool_call(id=id_, name=TOOLS[IDS.index(id_) % len(TOOLS)], args={"n": next(number)}) for id_ in ids]
        results = [ToolMessage(f"result {next(number)}", tool_call_id=call["id"], name=call["name"]) for call in calls]
        return Step(AIMessage(f"calls {next(number)}", tool_calls=calls), tuple(results))

    return [
        Turn(
            HumanMessage(f"human {next(number)}"),
            (*map(step, steps), Step(AIMessage(f"answer {next(number)}"))),
        )
        for steps, _, _ in plan
    ]


@pytest.mark.parametrize("colour", ["sync", "async"])
@settings(max_examples=60)
@given(plan=plans, cap=st.integers(1, 40))
def test_a_generated_conversation_shows_valid_windows_through_both_doors(colour: str, plan: Plan, cap: int) -> None:
    session = Cast(cap, set(TOOLS)).session("generated")
    if colour == "sync":
        play(session, plan)
    else:
        asyncio.run(aplay(session, plan))


def play(session: Session, plan: Plan) -> None:
    session.event("be kind")
    for turn, (_, door, event) in zip(turns(plan), plan, strict=True):
        if event:
            session.event(f"before {turn.human.content}")
        session.turn(turn, door)
    session.check()


async def aplay(session: Session, plan: Plan) -> None:
    await session.aevent("be kind")
    for turn, (_, door, event) in zip(turns(plan), plan, strict=True):
        if event:
            await session.aevent(f"before {turn.human.content}")
        await session.aturn(turn, door)
    await session.acheck()
