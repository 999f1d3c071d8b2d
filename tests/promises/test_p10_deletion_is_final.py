"""P10 Deletion is final."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.types import Command, interrupt

from langchain_ttl_history import SessionBuffer, SessionDeletedError, TypeNotAllowedError
from langchain_ttl_history.storage.types import Status
from langchain_ttl_history.testing import Clock
from tests.shared.chats import texts
from tests.shared.fixtures import StorageCase
from tests.shared.gates import Gate
from tests.shared.graphs import GRAPH_KINDS, Tools, build_chain, build_graph
from tests.shared.models import ScriptedModel
from tests.shared.sessions import Session

Deletion = Callable[[Session], Awaitable[Any]]

DELETIONS: dict[str, Deletion] = {
    "delete": lambda s: s.delete(),
    "clear": lambda s: s.clear(),
    "delete_thread": lambda s: s.colour.call(s.buffer.checkpointer(user_id=s.user_id), "delete_thread", s.session_id),
    "prune": lambda s: s.colour.call(
        s.buffer.checkpointer(user_id=s.user_id), "prune", [s.session_id], strategy="delete"
    ),
    "forget": lambda s: s.colour.call(s.buffer, "forget", s.user_id),
}

deletions = pytest.mark.parametrize("deletion", list(DELETIONS))
kinds = pytest.mark.parametrize("kind", GRAPH_KINDS)

USER, NAME, SECRET = "uniquely-named-user", "uniquely-named-session", "the-secret-word"


async def assert_gone(session: Session) -> None:
    saver = session.buffer.checkpointer()
    assert await session.info() is None
    assert await session.messages() == []
    assert await session.sessions(session.user_id) == []
    assert await session.colour.call(saver, "get_tuple", session.config) is None
    assert await session.colour.collect(saver, "list", session.config) == []


def refused(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("langchain_ttl_history")]


@deletions
async def test_nothing_of_a_deleted_session_can_be_found_in_the_storage(
    session: Session, case: StorageCase, storage: Any, deletion: str
) -> None:
    mine = session(USER, NAME)
    agent = build_graph("agent", session.buffer.checkpointer())
    await mine.ask(agent, f"look up {SECRET}")
    await mine.say(build_chain(session.buffer), SECRET)
    await mine.event(SECRET)
    held = b"\n".join(case.contents(storage))
    assert SECRET.encode() in held

    await DELETIONS[deletion](mine)

    held = b"\n".join(case.contents(storage))
    for word in (SECRET, NAME, USER):
        assert word.encode() not in held
    await assert_gone(mine)


@deletions
async def test_other_sessions_stay(session: Session, deletion: str) -> None:
    mine = session(USER, NAME)
    await mine.event("mine")
    await session("other", NAME).event("theirs")
    await DELETIONS[deletion](mine)
    assert await session("other", NAME).texts() == ["theirs"]


async def test_delete_tells_whether_there_was_something_to_delete(session: Session) -> None:
    assert await session.delete() is False
    await session.event("x")
    assert await session.delete() is True
    assert await session.delete() is False


@deletions
@kinds
async def test_an_agents_turn_that_was_running_answers_but_cannot_bring_the_session_back(
    session: Session, deletion: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), tools=Tools(gates={"whales": gate}).all)
    await session.ask(agent, "hello")
    with caplog.at_level(logging.DEBUG):
        turn = session.begin(agent, "look up whales")
        await gate.reached()
        await DELETIONS[deletion](session)
        gate.release()
        result = await turn
    assert texts(result["messages"])[-1] == "answer: facts about whales"
    await assert_gone(session)
    lines = refused(caplog)
    assert lines
    for line in lines:
        assert "\n" not in line
        assert "s1" in line
    assert not any("whales" in line for line in lines), "a log line must not tell what was said"


@kinds
async def test_the_very_first_turn_of_a_session_cannot_bring_it_back_either(session: Session, kind: str) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), tools=Tools(gates={"whales": gate}).all)
    turn = session.begin(agent, "look up whales")
    await gate.reached()
    assert await session.delete() is True
    gate.release()
    await turn
    await assert_gone(session)


@kinds
async def test_a_turn_with_durability_exit_cannot_bring_back_what_was_deleted(session: Session, kind: str) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), tools=Tools(gates={"whales": gate}).all)
    await session.ask(agent, "the old secret")
    turn = session.begin(agent, "look up whales", durability="exit")
    await gate.reached()
    await session.delete()
    gate.release()
    await turn
    assert not [text for text in await session.texts() if "secret" in text]
    assert not [
        text
        for snapshot in await session.states(agent)
        for text in texts(snapshot.values.get("messages", []))
        if "secret" in text
    ]


@pytest.mark.parametrize("order", ["put first", "put_writes first"])
async def test_late_puts_and_writes_are_refused_in_whichever_order_they_arrive(
    session: Session, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    await session.ask(agent, "hello")
    call = session.colour.call
    found = await call(saver, "get_tuple", session.config)
    late = {**found.checkpoint, "id": "1f0fffff-0000-6000-8000-000000000000"}
    late_config = {"configurable": {**found.config["configurable"], "checkpoint_id": late["id"]}}

    async def put() -> None:
        await call(saver, "put", found.config, late, found.metadata, {})

    async def put_writes() -> None:
        await call(saver, "put_writes", late_config, [("messages", "x")], "task-1")
        await call(saver, "put_writes", found.config, [("messages", "x")], "task-2")

    await session.delete()
    with caplog.at_level(logging.DEBUG):
        for late_one in (put, put_writes) if order == "put first" else (put_writes, put):
            await late_one()
            await assert_gone(session)
    assert refused(caplog)


@kinds
async def test_a_late_interrupt_cannot_bring_the_session_back(session: Session, kind: str) -> None:
    gate = Gate()

    @tool
    def lookup(thing: str) -> str:
        """Look a thing up when a human allows it."""
        gate.stop()
        return str(interrupt("may I?"))

    agent = build_graph(kind, session.buffer.checkpointer(), tools=[lookup])
    turn = session.begin(agent, "look up whales")
    await gate.reached()
    await session.delete()
    gate.release()
    await turn
    await assert_gone(session)
    assert (await session.state(agent)).interrupts == ()


@deletions
async def test_a_chains_turn_that_was_running_gets_an_error_on_its_write(session: Session, deletion: str) -> None:
    await session.event("before")
    turn = session.buffer.get_session_history("s1", user_id="alice")
    await session.read(turn)
    await DELETIONS[deletion](session)
    with pytest.raises(SessionDeletedError) as error:
        await session.colour.call(turn, "add_messages", [HumanMessage("late")])
    assert "s1" in str(error.value)
    await assert_gone(session)


async def test_a_chains_turn_that_was_running_cannot_bring_back_what_it_read_by_setting_it(session: Session) -> None:
    await session.event("secret")
    turn = session.buffer.get_session_history("s1", user_id="alice")
    summary = [SystemMessage(f"summary: {text}") for text in texts(await session.read(turn))]
    await session.delete()
    with pytest.raises(SessionDeletedError):
        await session.replace(summary, turn)
    await assert_gone(session)


@pytest.mark.parametrize("clears", [True, False], ids=["clears", "removes"])
async def test_a_chains_turn_that_only_takes_away_learns_of_the_deletion_too(session: Session, clears: bool) -> None:
    await session.event("secret")
    turn = session.buffer.get_session_history("s1", user_id="alice")
    (event,) = await session.read(turn)
    await session.delete()
    write = session.replace([], turn)
    if not clears:
        write.close()
        write = session.colour.call(turn, "add_messages", [RemoveMessage(event.id or "")])
    with pytest.raises(SessionDeletedError):
        await write
    await assert_gone(session)


async def test_a_chain_that_clears_its_own_history_begins_a_new_turn(session: Session) -> None:
    await session.event("secret")
    turn = session.buffer.get_session_history("s1", user_id="alice")
    assert texts(await session.read(turn)) == ["secret"]
    await session.colour.call(turn, "clear")
    assert await session.read(turn) == []
    await session.colour.call(turn, "clear")
    await session.colour.call(turn, "add_messages", [HumanMessage("a new turn")])
    assert await session.texts() == ["a new turn"]


async def test_a_chains_turn_whose_first_write_failed_is_refused_when_it_tries_again(session: Session) -> None:
    await session.event("secret")
    turn = session.buffer.get_session_history("s1", user_id="alice")
    said = texts(await session.read(turn))
    await session.delete()
    with pytest.raises(TypeNotAllowedError):
        await session.colour.call(turn, "add_messages", [AIMessage("", additional_kwargs={"o": object()})])
    with pytest.raises(SessionDeletedError):
        await session.colour.call(turn, "add_messages", [SystemMessage(f"summary: {said}")])
    await assert_gone(session)
    await session.colour.call(turn, "add_messages", [HumanMessage("a new turn")])
    assert await session.texts() == ["a new turn"]


@pytest.mark.parametrize("style", ["keyed", "sliced"])
async def test_a_runnable_that_was_running_answers_but_cannot_bring_the_session_back(
    session: Session, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    chain = build_chain(session.buffer, ScriptedModel(gates={"slow": gate}), style=style)
    await session.event("before")
    turn = asyncio.create_task(session.say(chain, "slow", style=style))
    await gate.reached()
    await session.delete()
    gate.release()
    answer = await turn
    assert answer.content == "re: slow"
    await assert_gone(session)


@deletions
@kinds
async def test_a_later_new_turn_starts_clean(session: Session, deletion: str, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    chain = build_chain(session.buffer)
    await session.ask(agent, "first")
    await session.say(chain, "second")
    await DELETIONS[deletion](session)

    await session.ask(agent, "anew")
    assert texts(model.inputs[-1]) == ["anew"]
    await session.say(chain, "and on")
    assert await session.texts() == ["anew", "re: anew", "and on", "re: and on"]
    assert await session.seen_by(agent) == await session.texts()
    await DELETIONS[deletion](session)
    await session.event("once more")
    assert await session.texts() == ["once more"]


@kinds
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_later_turn_that_a_chain_went_before_is_kept(session: Session, kind: str, durability: str) -> None:
    await session.event("deleted")
    await session.delete()
    await session.event("anew")
    agent = build_graph(kind, session.buffer.checkpointer())
    # With "exit" a `DeltaChannel` is first written to on the checkpoint that the chain's session shows.
    for question in ("hello", "again"):
        await session.ask(agent, question, durability=durability)
    assert await session.texts() == ["anew", "hello", "re: hello", "again", "re: again"]
    assert await session.seen_by(agent) == await session.texts()


@kinds
async def test_a_new_turn_works_while_the_deleted_one_still_runs(session: Session, kind: str) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), tools=Tools(gates={"whales": gate}).all)
    await session.ask(agent, "hello")
    old = session.begin(agent, "look up whales")
    await gate.reached()
    await session.delete()
    await session.ask(agent, "anew")
    gate.release()
    await old
    assert await session.texts() == ["anew", "re: anew"]
    assert await session.seen_by(agent) == ["anew", "re: anew"]
    await session.ask(agent, "on")
    assert await session.texts() == ["anew", "re: anew", "on", "re: on"]


async def test_a_chains_turn_from_before_the_deletion_is_refused_in_the_new_session_too(
    session: Session,
) -> None:
    await session.event("before")
    turn = session.buffer.get_session_history("s1", user_id="alice")
    await session.read(turn)
    await session.delete()
    await session.event("anew")
    with pytest.raises(SessionDeletedError):
        await session.colour.call(turn, "add_messages", [HumanMessage("late")])
    assert await session.texts() == ["anew"]


async def test_a_chains_turn_that_had_stored_nothing_in_a_new_session_counts_as_new(
    session: Session,
) -> None:
    turn = session.buffer.get_session_history("s1", user_id="alice")
    assert await session.read(turn) == []
    await session.delete()
    await session.colour.call(turn, "add_messages", [HumanMessage("hello")])
    assert await session.texts() == ["hello"]


@kinds
async def test_an_agents_turn_that_had_stored_nothing_counts_as_new(session: Session, kind: str) -> None:
    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(gates={"slow": gate}))
    turn = session.begin(agent, "slow", durability="exit")
    await gate.reached()
    assert await session.delete() is False
    gate.release()
    await turn
    assert await session.texts() == ["slow", "re: slow"]
    assert await session.seen_by(agent) == ["slow", "re: slow"]


async def test_a_tombstone_holds_for_a_day_and_for_the_idle_time_if_that_is_longer(
    session_with: Callable[..., Session], clock: Clock
) -> None:
    for idle, waiting in ((1_800, 86_000), (200_000, 199_000)):
        session = session_with(idle_ttl=idle)(f"user {idle}", "s1")
        agent = build_graph("agent", session.buffer.checkpointer())
        await session.ask(agent, "hello")
        history = session.buffer.get_session_history("s1", user_id=session.user_id)
        await session.read(history)
        await session.delete()
        clock.advance(waiting)
        await session.colour.call(session.buffer, "sweep")
        with pytest.raises(SessionDeletedError):
            await session.colour.call(history, "add_messages", [HumanMessage("late")])
        await assert_gone(session)


async def test_a_tombstone_is_a_digest_without_content_and_goes_in_the_end(
    session: Session, case: StorageCase, storage: Any, clock: Clock
) -> None:
    await session.event("something")
    await session.delete()
    await session.colour.call(session.buffer, "sweep")
    afterwards = b"".join(case.contents(storage))
    assert len(afterwards) < 2_000
    for number in range(50):
        other = session("alice", f"s{number}")
        await other.event("x")
        await other.delete()
    with_tombstones = len(b"".join(case.contents(storage)))
    assert with_tombstones > len(afterwards)
    clock.advance(86_401)
    await session.event("now")
    await session.delete()
    await session.colour.call(session.buffer, "sweep")
    assert len(b"".join(case.contents(storage))) < with_tombstones


async def test_an_interrupt_that_was_deleted_cannot_be_resumed(session: Session) -> None:
    @tool
    def lookup(thing: str) -> str:
        """Look a thing up when a human allows it."""
        return str(interrupt("may I?"))

    agent = build_graph("agent", session.buffer.checkpointer(), tools=[lookup])
    await session.ask(agent, "look up whales")
    await session.delete()
    assert (await session.state(agent)).interrupts == ()
    await session.run(agent, Command(resume="yes"))
    assert "call whales" not in await session.texts()


async def test_a_copy_of_a_deleted_session_is_its_own(session: Session) -> None:
    agent = build_graph("agent", session.buffer.checkpointer())
    await session.ask(agent, "hello")
    saver = session.buffer.checkpointer(user_id="alice")
    await session.colour.call(saver, "copy_thread", "s1", "s2")
    await session.delete()
    assert await session("alice", "s2").texts() == ["hello", "re: hello"]


@pytest.mark.parametrize("order", ["forget copy", "forget copy turn", "copy forget turn"])
async def test_a_copy_cannot_bring_back_what_was_forgotten_while_it_was_made(
    session: Session, storage: Any, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    await session.event("secret")
    write, awrite, buffer = storage.write, storage.awrite, session.buffer
    outcomes: list[Any] = []

    def overtaken(*args: Any) -> Any:
        monkeypatch.undo()
        for step in order.split():
            if step == "copy":
                outcomes.append(write(*args))
            elif step == "forget":
                assert buffer.forget("alice") == 1 + len(outcomes)
            else:
                buffer.history("alice", "s2").add_system_message("new")
        return outcomes[0]

    async def aovertaken(*args: Any) -> Any:
        monkeypatch.undo()
        for step in order.split():
            if step == "copy":
                outcomes.append(await awrite(*args))
            elif step == "forget":
                assert await buffer.aforget("alice") == 1 + len(outcomes)
            else:
                await buffer.history("alice", "s2").aadd_system_message("new")
        return outcomes[0]

    monkeypatch.setattr(storage, "write", overtaken)
    monkeypatch.setattr(storage, "awrite", aovertaken)
    await session.colour.call(buffer.checkpointer(user_id="alice"), "copy_thread", "s1", "s2")
    # What is said on a copy of what was forgotten goes with it.
    assert await session("alice", "s2").texts() == (["new"] if order == "copy forget turn" else [])


class Overtaken:
    """A storage whose answer to a refused write comes only after something else was done."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def write(self, *args: Any) -> Any:
        outcome = self._storage.write(*args)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            assert outcome.status is Status.DELETED
            asyncio.run(meanwhile())
        return outcome

    async def awrite(self, *args: Any) -> Any:
        outcome = await self._storage.awrite(*args)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            assert outcome.status is Status.DELETED
            await meanwhile()
        return outcome


async def test_writes_refused_a_moment_before_their_checkpoint_was_stored_are_not_lost(
    session: Session, storage: Any
) -> None:
    """LangGraph sends both at once; the refusal may arrive after the checkpoint's own answer."""
    await session.event("before")
    await session.delete()
    overtaken = Overtaken(storage)
    saver = SessionBuffer(overtaken).checkpointer()
    checkpoint: Any = {**empty_checkpoint(), "channel_values": {"x": 1}, "channel_versions": {"x": "1"}}
    config: Any = {"configurable": {**session.config["configurable"], "checkpoint_ns": ""}}
    stored: Any = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}
    metadata = {"source": "loop", "step": 0, "parents": {}}
    overtaken.meanwhile = lambda: session.colour.call(saver, "put", config, checkpoint, metadata, {"x": "1"})
    await session.colour.call(saver, "put_writes", stored, [("y", 2)], "task")
    found = await session.colour.call(saver, "get_tuple", stored)
    assert found.pending_writes == [("task", "y", 2)]
