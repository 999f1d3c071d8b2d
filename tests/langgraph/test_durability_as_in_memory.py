"""Every durability on our saver, note by note as on `InMemorySaver`."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.types import Command

from tests.langgraph.graphs import lookup
from tests.shared.as_in_memory import plain, same_on_both, states_of
from tests.shared.chats import texts
from tests.shared.graphs import GRAPH_KINDS, build_graph
from tests.shared.models import ScriptedModel
from tests.shared.sessions import Session


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_every_durability_leaves_the_same_checkpoints_as_in_memory(
    session: Session, kind: str, durability: str
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver)
        for question in ("look up a, b", "hello"):
            result = await session.ask(agent, question, durability=durability)
            notes.append(texts(result["messages"]))
        notes.append(await states_of(session, agent))

    await same_on_both(session, scenario)
    assert (await session.texts())[-2:] == ["hello", "re: hello"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_interrupt_with_durability_exit_is_resumed_as_in_memory(session: Session, kind: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver, tools=[lookup])
        await session.ask(agent, "look up a", durability="exit")
        notes.append(plain(await session.state(agent))["interrupts"])
        result = await session.run(agent, Command(resume="yes:"), durability="exit")
        notes.append(texts(result["messages"]))

    await same_on_both(session, scenario)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_turn_with_durability_exit_sees_and_keeps_what_chains_said(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    await session.event("before")
    await session.ask(agent, "hello", durability="exit")
    await session.event("between")
    await session.ask(agent, "look up a", durability="exit")
    assert texts(model.inputs[1]) == ["before", "hello", "re: hello", "between", "look up a"]
    expected = [
        *("before", "hello", "re: hello", "between"),
        *("look up a", "call a", "facts about a", "answer: facts about a"),
    ]
    assert await session.texts() == await session.seen_by(agent) == expected
