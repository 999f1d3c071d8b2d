"""Streaming on our saver, note by note as on `InMemorySaver`."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.shared.as_in_memory import plain_value, same_on_both
from tests.shared.chats import texts
from tests.shared.graphs import GRAPH_KINDS, build_graph
from tests.shared.models import StreamingModel
from tests.shared.sessions import Session


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "debug", "tasks", "checkpoints"])
@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_streaming_yields_the_same_shapes_as_in_memory(session: Session, kind: str, mode: str) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph(kind, saver, StreamingModel())
        for question in ("hello", "and again"):
            parts = await session.colour.collect(
                agent,
                "stream",
                {"messages": [HumanMessage(question)]},
                session.config,
                stream_mode=mode,
            )
            if mode == "values":
                notes.append([texts(part["messages"]) for part in parts])
            elif mode == "updates":
                notes.append(plain_value(parts))
            elif mode == "messages":
                notes.append([str(part[0].content) for part in parts])
            else:
                notes.append([part.get("type", sorted(part)) for part in parts])

    await same_on_both(session, scenario)


async def test_streamed_checkpoints_name_checkpoints_that_are_stored(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    parts = await session.colour.collect(
        agent,
        "stream",
        {"messages": [HumanMessage("look up a")]},
        session.config,
        stream_mode="checkpoints",
    )
    assert len(parts) == 5
    for part in parts:
        state = await session.state(agent, part["config"])
        assert texts(state.values.get("messages", [])) == texts(part["values"].get("messages", []))
