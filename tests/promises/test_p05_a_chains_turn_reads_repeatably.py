"""P5 A chain's turn reads repeatably."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage

from langchain_ttl_history import SessionBuffer
from tests.shared.chats import texts
from tests.shared.gates import Gate
from tests.shared.graphs import GRAPH_KINDS, build_chain, build_graph
from tests.shared.models import ScriptedModel, StreamingModel
from tests.shared.sessions import Session


async def test_the_first_read_freezes_the_object_that_get_session_history_gave(
    session: Session,
) -> None:
    await session.add(HumanMessage("one"))
    turn = session.buffer.get_session_history("s1", user_id="alice")
    assert texts(await session.read(turn)) == ["one"]

    await session.event("two")
    await session.event("three")

    assert texts(await session.read(turn)) == ["one"]
    assert await session.texts() == ["one", "two", "three"]


async def test_before_its_first_read_the_object_is_not_frozen(session: Session) -> None:
    turn = session.buffer.get_session_history("s1", user_id="alice")
    await session.event("one")
    assert texts(await session.read(turn)) == ["one"]


async def test_a_frozen_read_of_an_empty_session_stays_empty(session: Session) -> None:
    turn = session.buffer.get_session_history("s1", user_id="alice")
    assert await session.read(turn) == []
    await session.event("one")
    assert await session.read(turn) == []


async def test_add_messages_ends_the_freeze(session: Session) -> None:
    await session.add(HumanMessage("one"))
    turn = session.buffer.get_session_history("s1", user_id="alice")
    await session.read(turn)
    await session.event("two")
    await session.colour.call(turn, "add_messages", [HumanMessage("q"), AIMessage("a")])
    assert texts(await session.read(turn)) == ["one", "two", "q", "a"]


async def test_sync_and_async_reads_of_one_frozen_object_agree(session: Session) -> None:
    await session.add(HumanMessage("one"))
    turn = session.buffer.get_session_history("s1", user_id="alice")
    first = texts(await turn.aget_messages()) if session.colour.is_async else texts(turn.messages)
    await session.event("two")
    assert texts(turn.messages) == texts(await turn.aget_messages()) == first


async def test_changing_the_list_of_a_frozen_read_does_not_change_the_next(
    session: Session,
) -> None:
    await session.add(HumanMessage("one"))
    turn = session.buffer.get_session_history("s1", user_id="alice")
    (await session.read(turn)).append(HumanMessage("mine"))
    turn.messages.append(HumanMessage("mine too"))
    assert texts(await session.read(turn)) == ["one"]


async def test_a_frozen_read_stays_the_same_over_an_expiry(session: Session, clock: object) -> None:
    await session.add(HumanMessage("one"))
    turn = session.buffer.get_session_history("s1", user_id="alice")
    await session.read(turn)
    clock.advance(3_600)  # type: ignore[attr-defined]  # a fixture has no type here
    assert texts(await session.read(turn)) == ["one"]


async def test_the_history_of_the_buffer_is_always_live(session: Session) -> None:
    history = session.history
    assert await session.read(history) == []
    await session.event("one")
    assert texts(await session.read(history)) == ["one"]
    await session.add(HumanMessage("two"))
    assert texts(await session.read(history)) == ["one", "two"]


@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_a_chain_keeps_its_question_though_the_history_grew_under_it(session: Session, style: str) -> None:
    gate = Gate()
    chain = build_chain(session.buffer, ScriptedModel(gates={"slow": gate}), style=style)
    await session.add(HumanMessage("old"), AIMessage("older"))
    slow = asyncio.create_task(session.say(chain, "slow", style=style))
    await gate.reached()
    for number in range(5):
        await session.event(f"event {number}")
    gate.release()
    await slow
    conversation = await session.texts()
    at = conversation.index("slow")
    assert conversation[at : at + 2] == ["slow", "re: slow"]
    assert sorted(conversation) == sorted(["old", "older", *(f"event {n}" for n in range(5)), "slow", "re: slow"])


@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_a_chain_stores_nothing_twice_though_the_history_shrank_under_it(session: Session, style: str) -> None:
    gate = Gate()
    chain = build_chain(session.buffer, ScriptedModel(gates={"slow": gate}), style=style)
    await session.add(HumanMessage("old"), AIMessage("older"), HumanMessage("o"), AIMessage("p"))
    slow = asyncio.create_task(session.say(chain, "slow", style=style))
    await gate.reached()
    await session.replace([SystemMessage("summary")])
    gate.release()
    await slow
    assert await session.texts() == ["summary", "slow", "re: slow"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_a_chain_keeps_its_question_though_an_agent_answered_under_it(
    session: Session, kind: str, style: str
) -> None:
    gate = Gate()
    chain = build_chain(session.buffer, ScriptedModel(gates={"slow": gate}), style=style)
    agent = build_graph(kind, session.buffer.checkpointer())
    await session.ask(agent, "hello")
    slow = asyncio.create_task(session.say(chain, "slow", style=style))
    await gate.reached()
    await session.ask(agent, "look up whales")
    gate.release()
    await slow
    assert await session.texts() == [
        *("hello", "re: hello"),
        *("look up whales", "call whales", "facts about whales", "answer: facts about whales"),
        *("slow", "re: slow"),
    ]


@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_one_call_reads_one_window_at_a_cap_that_cuts(session_with: object, style: str) -> None:
    session: Session = session_with(max_messages=4)  # type: ignore[operator]  # a fixture has no type here
    chain = build_chain(session.buffer, style=style)
    for turn in range(6):
        await session.say(chain, f"turn {turn}", style=style)
    assert await session.texts() == ["turn 4", "re: turn 4", "turn 5", "re: turn 5"]


async def test_each_call_of_a_chain_reads_anew(session: Session) -> None:
    model = ScriptedModel()
    chain = build_chain(session.buffer, model)
    await session.say(chain, "one")
    await session.event("an event")
    await session.say(chain, "two")
    assert texts(model.inputs[-1]) == ["one", "re: one", "an event", "two"]


@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_a_streamed_answer_is_stored_as_one_ai_message(session: Session, style: str) -> None:
    chain = build_chain(session.buffer, StreamingModel(), style=style)
    given = {"question": "tell me a story"} if style == "keyed" else [HumanMessage("tell me a story")]
    chunks = await session.colour.collect(chain, "stream", given, session.config)
    assert len(chunks) > 1
    stored = await session.messages()
    assert [type(message) for message in stored] == [HumanMessage, AIMessage]
    assert str(stored[1].content).strip() == "re: tell me a story"


class OwnChunk(AIMessageChunk):
    """A program's own class of chunks."""


@pytest.mark.parametrize("kind", [AIMessageChunk, OwnChunk])
async def test_a_chunk_that_is_appended_is_stored_as_an_ai_message(
    session: Session, kind: type[AIMessageChunk]
) -> None:
    chunk = kind(
        "",
        id="m1",
        tool_call_chunks=[{"name": "lookup", "args": '{"thing": "x"}', "id": "c1", "index": 0}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        response_metadata={"model_name": "scripted"},
    )
    await session.add(chunk)
    (stored,) = await session.messages()
    assert type(stored) is AIMessage
    assert stored.id == "m1"
    assert [(c["name"], c["args"], c["id"]) for c in stored.tool_calls] == [("lookup", {"thing": "x"}, "c1")]
    assert stored.usage_metadata == chunk.usage_metadata
    assert stored.response_metadata == chunk.response_metadata


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_answer_streamed_by_an_agent_is_stored_as_an_ai_message(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer(), StreamingModel())
    await session.colour.collect(
        agent, "stream", {"messages": [HumanMessage("hi")]}, session.config, stream_mode="messages"
    )
    assert [type(message) for message in await session.messages()] == [HumanMessage, AIMessage]


def test_a_turn_that_another_thread_ends_in_the_middle_of_a_read_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    history = SessionBuffer(default_user="u").get_session_history("s")
    history.add_messages([HumanMessage("hello")])
    assert texts(history.messages) == ["hello"]
    looks = iter([history._turn, None, history._turn, None])
    monkeypatch.setattr(type(history), "_turn", property(lambda _: next(looks)), raising=False)
    assert texts(history.messages) == ["hello"]
    assert next(looks) is None
    assert str(history) == "Human: hello"
