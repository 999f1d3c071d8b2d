"""What once went wrong where something was deleted, or came in another order than it was made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Interrupt, interrupt

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.checkpointing import late_writes
from langchain_ttl_history.checkpointing.late_writes import LateWrites
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage, SQLiteStorage
from langchain_ttl_history.storage.types import Blob, Change, Guard, Lease, Query
from langchain_ttl_history.stored.names import checkpoint_name
from langchain_ttl_history.testing import Clock
from tests.regressions.cases import (
    CONFIG,
    KEY,
    LOOP,
    Hooked,
    ask,
    at,
    calls_while,
    chained,
    graph_of,
    ids,
    plain_texts,
    says,
)
from tests.shared.checkpoints import checkpoint


def stores_root(change: Change) -> bool:
    return any(name.startswith("c\0") for name in change.blobs)


def subgraph_checkpoints(change: Change) -> list[str]:
    return [name for name in change.blobs if name[0] == "c" and name[1] != "\0"]


def deleted(buffer: SessionBuffer) -> None:
    """Leave a tombstone."""
    buffer.history(session_id="t").add_messages([HumanMessage("x")])
    buffer.delete("u", "t")


@pytest.mark.parametrize("by_another_worker", [False, True])
@pytest.mark.parametrize("asks", [False, True])
def test_a_write_that_waited_for_its_checkpoint_does_not_bring_back_what_is_deleted_by_then(
    *, asks: bool, by_another_worker: bool
) -> None:
    storage = Hooked()
    buffer, other = (SessionBuffer(storage, default_user="u") for _ in range(2))
    saver = buffer.checkpointer()
    deleted(buffer)
    made = checkpoint(HumanMessage("secret", id="h"))
    written = (INTERRUPT, [Interrupt("sure?", id="i")]) if asks else ("messages", [AIMessage("said after", id="a")])
    saver.put_writes(at(made), [written], "task")

    def delete(change: Change) -> None:
        if stores_root(change):
            storage.after_write = None
            (other if by_another_worker else buffer).delete("u", "t")

    storage.after_write = delete
    saver.put(CONFIG, made, {"source": "input", "step": -1, "parents": {}}, {"messages": 1})
    assert list(buffer.sessions("u")) == []
    assert not storage._sessions


def test_a_write_that_waited_for_its_checkpoint_is_whole() -> None:
    """Although this process knew its messages of a session that another worker deleted."""
    storage = MemoryStorage()
    buffer, other = (SessionBuffer(storage, default_user="u") for _ in range(2))
    saver = buffer.checkpointer()
    said = [HumanMessage("hi", id="h"), AIMessage("Welcome!", id="w")]
    first, second = checkpoint(*said), checkpoint(*said, version=2)
    saver.put(CONFIG, first, {"source": "input", "step": -1, "parents": {}}, {"messages": 1})
    saver.put(at(first), second, {"source": "loop", "step": 0, "parents": {}}, {"messages": 2})
    other.delete("u", "t")
    anew = checkpoint(HumanMessage("new", id="n"))
    saver.put_writes(at(anew), [("messages", [AIMessage("Welcome!", id="w")])], "task")
    saver.put(CONFIG, anew, {"source": "input", "step": -1, "parents": {}}, {"messages": 1})
    found = saver.get_tuple(at(anew))
    assert found is not None
    assert found.pending_writes == [("task", "messages", [AIMessage("Welcome!", id="w")])]


@pytest.mark.parametrize("deletion", [True, False])
def test_a_subgraph_that_is_faster_than_its_roots_checkpoint_is_kept_after_a_deletion(
    deletion: bool, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u")
    calls: list[str] = []

    def look(state: MessagesState) -> dict[str, Any]:
        calls.append("look")
        return {"messages": [AIMessage("looked", id="looked")]}

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"asked: {interrupt('go?')}", id="asked")]}

    inner = StateGraph(MessagesState)
    inner.add_node("look", look)
    inner.add_node("ask", ask)
    inner.add_edge(START, "look")
    inner.add_edge("look", "ask")
    outer = StateGraph(MessagesState)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    graph = outer.compile(checkpointer=buffer.checkpointer())
    if deletion:
        deleted(buffer)

    overtaken = threading.Event()
    puts: set[str] = set()

    def hold_up(change: Change) -> None:
        if stores_root(change):
            assert overtaken.wait(10), "the subgraph waited for its root"

    def overtake(change: Change) -> None:
        puts.update(subgraph_checkpoints(change))
        if len(puts) == 3:  # Its input, its start, and what it looked up.
            overtaken.set()

    storage.before_write, storage.after_write = hold_up, overtake
    config: Any = {"configurable": {"thread_id": "t"}}
    graph.invoke({"messages": [HumanMessage("hi", id="h")]}, config)
    (task,) = graph.get_state(config, subgraphs=True).tasks
    assert task.state is not None
    assert ids(task.state.values["messages"]) == ["h", "looked"]
    assert ids(graph.invoke(Command(resume="yes"), config)["messages"]) == ["h", "looked", "asked"]
    assert calls == ["look"]
    assert not caplog.records


def test_a_subgraph_of_a_turn_that_was_deleted_stores_nothing_in_whichever_order_it_comes() -> None:
    storage = MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u")
    saver = buffer.checkpointer()
    first = checkpoint(HumanMessage("hi", id="h"))
    saver.put(CONFIG, first, {"source": "input", "step": -1, "parents": {}}, {"messages": 1})
    buffer.delete("u", "t")
    root, sub = checkpoint(HumanMessage("secret", id="s")), checkpoint(HumanMessage("secret", id="s"))
    inner: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "inner:1"}}
    inner_at: Any = {"configurable": {**inner["configurable"], "checkpoint_id": sub["id"]}}
    saver.put_writes(inner_at, [("messages", [AIMessage("secret")])], "task")
    saver.put(inner, sub, {"source": "input", "step": -1, "parents": {"": root["id"]}}, {"messages": 1})
    saver.put(at(first), root, {"source": "loop", "step": 0, "parents": {}}, {"messages": 1})
    assert not storage._sessions
    saver.put_writes(inner_at, [("messages", [AIMessage("secret")])], "task")
    assert not storage._sessions
    assert not saver._late._waiting, "nobody waits for what was refused"


@pytest.mark.parametrize(("cap", "others"), [(1, 1), (3, 2)])
def test_a_first_turn_after_a_deletion_is_kept_though_others_push_its_checkpoint_out(
    cap: int, others: int, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=cap))
    deleted(buffer)
    other = graph_of(buffer, lambda state: {"messages": [AIMessage("b")]}, lambda state: {"messages": []})

    def first(state: MessagesState) -> dict[str, Any]:
        for _ in range(others):
            other.invoke({"messages": [HumanMessage("o")]}, CONFIG)
        return {"messages": [AIMessage("1", id="a1")]}

    agent = graph_of(buffer, first, lambda state: {"messages": [AIMessage("2", id="a2")]})
    agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG)
    assert {"a1", "a2"} <= {*ids(buffer.history(session_id="t").messages)}
    assert not caplog.records


def test_what_was_written_to_a_subgraph_waits_no_longer_than_its_checkpoint() -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u")
    saver = buffer.checkpointer()
    deleted(buffer)
    root, sub = checkpoint(HumanMessage("hi", id="h")), checkpoint(HumanMessage("hi", id="h"))
    inner: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "inner:1"}}
    inner_at: Any = {"configurable": {**inner["configurable"], "checkpoint_id": sub["id"]}}
    said = [("messages", [AIMessage("w", id="w")])]
    hold, waiting = saver._late.hold, []

    def later(key: SessionKey, change: Change) -> bool:
        if change.append[0][0].startswith("winner"):
            waiting.append((key, change))
            return True
        return hold(key, change)

    # Of two threads, that with the write is interrupted between its refusal and its wait ...
    saver._late.hold = later  # type: ignore[method-assign]  # watched for the test
    saver.put_writes(inner_at, said, "task")

    tries: list[Change] = []

    def overtaken(change: Change) -> None:
        if any(name.startswith("cinner:1") for name in change.blobs):
            tries.append(change)
        if len(tries) == 2:  # It was planned anew from a read, and refused again.
            storage.after_write = None
            saver.put(CONFIG, root, {"source": "input", "step": -1, "parents": {}}, {"messages": 1})

    # ... while the subgraph's checkpoint is refused, its root's is stored, and it is tried once more.
    storage.after_write = overtaken
    saver.put(inner, sub, {"source": "input", "step": -1, "parents": {"": root["id"]}}, {"messages": 1})
    ((key, change),) = waiting
    assert not hold(key, change), "it is to be tried once more, since nobody will release it"


@pytest.mark.parametrize("is_deleted", [False, True])
def test_what_was_written_to_a_subgraph_that_waits_is_stored_with_its_checkpoint_or_goes_with_it(
    is_deleted: bool,
) -> None:
    storage = Hooked()
    buffer, other = (SessionBuffer(storage, default_user="u") for _ in range(2))
    saver = buffer.checkpointer()
    deleted(buffer)
    root, sub = checkpoint(HumanMessage("hi", id="h")), checkpoint(HumanMessage("hi", id="h"))
    inner: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "inner:1"}}
    inner_at: Any = {"configurable": {**inner["configurable"], "checkpoint_id": sub["id"]}}
    saver.put_writes(inner_at, [("messages", [AIMessage("w", id="w")])], "task")
    saver.put(inner, sub, {"source": "input", "step": -1, "parents": {"": root["id"]}}, {"messages": 1})

    def delete(_: Change) -> None:
        storage.after_write = None
        other.delete("u", "t")

    if is_deleted:
        storage.after_write = delete
    saver.put(CONFIG, root, {"source": "input", "step": -1, "parents": {}}, {"messages": 1})
    found = saver.get_tuple(inner_at)
    assert (found is None) == is_deleted
    if found is not None:
        assert found.pending_writes == [("task", "messages", [AIMessage("w", id="w")])]
    else:
        assert not storage._sessions
    assert not saver._late._waiting


def needing(name: str) -> Change:
    return Change(Lease(60.0, None), Guard(needs=name))


def test_a_turn_ends_well_that_hands_over_an_answer_and_a_question_once_its_session_is_deleted() -> None:
    """It is looked up then whether they had been cut."""
    buffer = SessionBuffer(default_user="u")
    ask(chained(buffer, answers=says("a1")), "q1")

    def deletes(_: Any) -> dict[str, Any]:
        buffer.delete("u", "t")
        return {"messages": [AIMessage("a2"), HumanMessage("q3")]}

    assert ask(chained(buffer, deletes=deletes, answers=says("a3")), "q2") == ["q1", "a1", "q2", "a2", "q3", "a3"]
    assert buffer.history(session_id="t").messages == []


def test_a_checkpoint_of_a_deleted_run_does_not_come_back_with_one_that_had_loaded_it() -> None:
    storage = MemoryStorage()
    buffer, forgetful = (SessionBuffer(storage, default_user="u") for _ in range(2))
    saver = buffer.checkpointer()
    chained(buffer, answers=says("a")).invoke(
        {"messages": [HumanMessage("q")]}, {**CONFIG, "metadata": {"run_id": "r"}}
    )
    loaded = saver.get_tuple(CONFIG)
    assert loaded is not None
    buffer.history(session_id="t").add_messages([HumanMessage("event")])
    saver.delete_for_runs(["r"])
    made = checkpoint(*loaded.checkpoint["channel_values"]["messages"], HumanMessage("late"), version=9)
    made["versions_seen"] = loaded.checkpoint["versions_seen"]
    written = forgetful.checkpointer().put(loaded.config, made, LOOP, {"messages": 9})
    assert [each.config for each in saver.list(CONFIG)] == [written]


def test_that_writes_are_refused_is_logged_once_until_one_is_stored(caplog: pytest.LogCaptureFixture) -> None:
    late = LateWrites(SessionCache())
    for _ in range(3):
        assert late.hold(KEY, Change(Lease(60.0, None), Guard(1))), "it is not to be tried again"
    assert len(caplog.records) == 1
    assert late.released(KEY, "c\0stored") == []
    late.warn(KEY)
    assert len(caplog.records) == 2


def test_only_so_many_checkpoints_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_writes, "_WAITING", 2)
    late = LateWrites(SessionCache())
    for each in "abc":
        assert late.hold(KEY, needing(each))
    assert [len(late.released(KEY, each)) for each in "abc"] == [0, 1, 1]


def test_only_so_many_refused_checkpoints_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_writes, "_REFUSED", 2)
    late = LateWrites(SessionCache())
    for each in "abc":
        late.refuse(KEY, each)
    assert [late.hold(KEY, needing(each)) for each in "abc"] == [True, False, False]


def put_with(
    storage: Hooked, meanwhile: Callable[[Any, Checkpoint], None], *, was_deleted: bool
) -> tuple[Any, Checkpoint]:
    """Put a checkpoint, while something happens that frees it before its put has returned.

    Args:
        storage: Where it is put.
        meanwhile: What happens, given the checkpointer and the checkpoint.
        was_deleted: Whether there was a session before that was deleted.
    """
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_checkpoints=1))
    saver = buffer.checkpointer()
    if was_deleted:
        deleted(buffer)
    saver.put(CONFIG, checkpoint(HumanMessage("m", id="m")), LOOP, {"messages": 1})
    made = checkpoint(HumanMessage("sure?", id="sure?"))

    def at_once(_: Change) -> None:
        storage.after_write = None
        meanwhile(saver, made)

    storage.after_write = at_once
    saver.put(CONFIG, made, LOOP, {"messages": 1})
    return saver, made


@pytest.mark.parametrize("was_deleted", [False, True])
@pytest.mark.parametrize("asks", [True, False])
def test_an_interrupt_stays_whose_checkpoint_was_freed_before_its_put_returned_and_other_writes_go(
    caplog: pytest.LogCaptureFixture, *, was_deleted: bool, asks: bool
) -> None:
    def freed(saver: Any, made: Checkpoint) -> None:
        for each in "abcd":
            saver.put(CONFIG, checkpoint(HumanMessage(each, id=each)), LOOP, {"messages": 1})
        written = (INTERRUPT, [Interrupt("sure?", id="i")]) if asks else ("messages", [AIMessage("yes", id="yes")])
        saver.put_writes(at(made), [written], "task")

    saver, made = put_with(Hooked(), freed, was_deleted=was_deleted)
    waiting = [each for each in saver.list(CONFIG) if each.pending_writes]
    assert [each.checkpoint["id"] for each in waiting] == [made["id"]] * asks
    assert [record.levelname for record in caplog.records] == []


def test_an_interrupt_stays_whose_checkpoint_was_put_and_freed_while_it_was_stored() -> None:
    storage = Hooked()
    saver = SessionBuffer(storage, default_user="u", retention=Retention(max_checkpoints=1)).checkpointer()
    saver.put(CONFIG, checkpoint(HumanMessage("m", id="m")), LOOP, {"messages": 1})
    made = checkpoint(HumanMessage("sure?", id="sure?"))

    def put_and_free(_: Change) -> None:
        storage.before_write = None
        for each in (made, *(checkpoint(HumanMessage(each, id=each)) for each in "abcd")):
            saver.put(CONFIG, each, LOOP, {"messages": 1})

    storage.before_write = put_and_free
    saver.put_writes(at(made), [(INTERRUPT, [Interrupt("sure?", id="i")])], "task")
    waiting = [each for each in saver.list(CONFIG) if each.pending_writes]
    assert [each.checkpoint["id"] for each in waiting] == [made["id"]]


@pytest.mark.parametrize("comes", [True, False])
def test_an_interrupt_that_was_deleted_before_its_checkpoint_came_is_remembered_nowhere(comes: bool) -> None:
    buffer = SessionBuffer(default_user="u")
    saver = buffer.checkpointer()
    made = checkpoint(HumanMessage("q", id="q"))
    saver.put_writes(at(made), [(INTERRUPT, [Interrupt("secret", id="i")])], "task")
    early = saver._sessions.cache.early
    assert early._early
    buffer.delete("u", "t")
    if comes:
        saver.put(CONFIG, made, LOOP, {"messages": 1})
    assert not early._early


def test_a_message_with_a_set_is_stored_again_with_an_interrupt_whose_checkpoint_was_freed() -> None:
    """A set is packed in its own order, which need not be that of an equal one."""
    buffer = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1, max_messages=2))
    saver = buffer.checkpointer()
    tags = {*range(100)}
    for each in range(100):
        if each not in (2, 9):
            tags.discard(each)
    assert [*tags] != [*{*[*tags]}]
    made = checkpoint(HumanMessage("q", id="q", additional_kwargs={"tags": tags}))
    saver.put(CONFIG, made, LOOP, {"messages": 1})
    for each in "abcd":
        saver.put(CONFIG, checkpoint(HumanMessage(each, id=each)), LOOP, {"messages": 1})
    saver.put_writes(at(made), [(INTERRUPT, [Interrupt("sure?", id="i")])], "task")
    found = saver.get_tuple(at(made))
    assert found is not None
    assert found.checkpoint["channel_values"]["messages"][0].additional_kwargs == {"tags": tags}
    assert found.pending_writes


@pytest.mark.parametrize("ns", ["", "inner:1"])
def test_a_checkpoint_does_not_bring_back_the_session_its_writes_were_deleted_with(
    ns: str, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = SessionBuffer(default_user="u")
    saver = buffer.checkpointer()
    made = checkpoint(HumanMessage("secret", id="h"))
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ns}}
    written: Any = {"configurable": {**config["configurable"], "checkpoint_id": made["id"]}}
    saver.put_writes(written, [("messages", [AIMessage("secret", id="a")])], "task")
    assert buffer.delete("u", "t")
    saver.put(config, made, LOOP, {"messages": 1})
    assert buffer.info("u", "t") is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("url", ["memory", "sqlite"])
def test_forgetting_a_user_reaches_a_turn_whose_session_is_over(url: str, tmp_path: Path) -> None:
    clock = Clock()
    storage = MemoryStorage(clock=clock) if url == "memory" else SQLiteStorage(tmp_path / "s.db", clock=clock)
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(idle_ttl=100))

    def forgets() -> None:
        clock.advance(1_000)
        buffer.sweep()
        # Finds nothing, unless LangGraph's thread stored only now what the step before wrote.
        buffer.forget("u")

    assert ask(calls_while(buffer, forgets), "question")[-1] == "answer"
    assert list(buffer.sessions()) == []
    assert ask(chained(buffer, answers=lambda _: {"messages": [AIMessage("answer")]}), "new") == ["new", "answer"]
    assert plain_texts(buffer.history(session_id="t").messages) == ["new", "answer"]
    storage.close()


@pytest.mark.parametrize("was_deleted", [False, True])
def test_an_interrupt_goes_whose_checkpoint_was_freed_if_others_have_built_on_it(*, was_deleted: bool) -> None:
    def built_on_and_freed(saver: Any, made: Checkpoint) -> None:
        for each in "abcd":
            saver.put(at(made), checkpoint(HumanMessage(each, id=each)), LOOP, {"messages": 1})
        saver.put_writes(at(made), [(INTERRUPT, [Interrupt("sure?", id="i")])], "task")

    storage = Hooked()
    saver, made = put_with(storage, built_on_and_freed, was_deleted=was_deleted)
    assert made["id"] not in [each.checkpoint["id"] for each in saver.list(CONFIG)]
    assert [name for name in storage.read(KEY, Query(outline=True)).lists if name[0] == "w"] == []


def test_an_interrupt_over_no_messages_stays_where_it_was_though_its_checkpoint_was_freed() -> None:
    saver = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1)).checkpointer()
    saver.put(CONFIG, checkpoint(), LOOP, {"messages": 1})
    made = [checkpoint() for _ in "abc"]
    for each in made:
        saver.put(CONFIG, each, LOOP, {"messages": 1})
        saver.put_writes(at(each), [("messages", [])], "task")
    for each in "abcdefgh":
        saver.put(CONFIG, checkpoint(HumanMessage(each, id=each)), LOOP, {"messages": 1})
    # The younger one first: the older is listed before it nevertheless.
    for each in reversed(made[:2]):
        saver.put_writes(at(each), [(INTERRUPT, [Interrupt("sure?", id="i")])], "asking")
    listed = [each.checkpoint["id"] for each in saver.list(CONFIG)]
    assert listed[1:] == [made[1]["id"], made[0]["id"]]


def test_an_interrupt_goes_whose_freed_checkpoint_is_not_remembered() -> None:
    saver = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1)).checkpointer()
    made = checkpoint(HumanMessage("sure?", id="sure?"))
    saver.put(CONFIG, made, LOOP, {"messages": 1})
    for each in "abcdefgh":
        saver.put(CONFIG, checkpoint(HumanMessage(each, id=each)), LOOP, {"messages": 1})
    saver.put(at(made), checkpoint(HumanMessage("built on it", id="built")), LOOP, {"messages": 2})
    saver.put_writes(at(made), [(INTERRUPT, [Interrupt("sure?", id="i")])], "task")
    assert made["id"] not in [each.checkpoint["id"] for each in saver.list(CONFIG)]


def test_an_interrupt_goes_whose_freed_checkpoint_is_remembered_without_its_messages() -> None:
    saver = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1)).checkpointer()
    made = checkpoint(HumanMessage("sure?", id="sure?"))
    saver.put(CONFIG, made, LOOP, {"messages": 1})
    for number in range(30):
        saver.put(CONFIG, checkpoint(HumanMessage("x", id=f"x{number}")), LOOP, {"messages": 1})
    saver.put_writes(at(made), [(INTERRUPT, [Interrupt("sure?", id="i")])], "task")
    assert [each.pending_writes for each in saver.list(CONFIG)] == [[]]


@pytest.mark.parametrize(
    ("put", "before", "listed"),
    [
        ("abc", "a", ".ba"),  # Between an older one and newer ones.
        ("bc", "c", ".cb"),  # As the first of all.
        # Workers whose clocks differ made these, so their ids are in another order than they came in.
        ("bac", "ac", ".cab"),
        ("cb", "c", ".bc"),
        ("cab", "ca", ".bac"),
        ("b", "", ".b"),
    ],
)
def test_a_freed_checkpoint_that_asks_is_listed_where_there_is_room_but_never_as_the_latest(
    put: str, before: str, listed: str
) -> None:
    """Those that have asked before are not freed."""
    saver = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1)).checkpointer()
    made = {letter: checkpoint() for letter in "abc"}
    others = [checkpoint(HumanMessage("x", id=f"x{number}")) for number in range(8)]
    if len(put) == 1:
        made["b"] = checkpoint()

    def ask_person(letter: str) -> None:
        saver.put_writes(at(made[letter]), [(INTERRUPT, [Interrupt("sure?", id="i")])], "asking")

    for letter in put:
        saver.put(CONFIG, made[letter], LOOP, {"messages": 1})
    for letter in before:
        ask_person(letter)
    for other in others:
        saver.put(CONFIG, other, LOOP, {"messages": 1})
    assert made["b"]["id"] not in [each.checkpoint["id"] for each in saver.list(CONFIG)]
    ask_person("b")
    found = saver.get_tuple(CONFIG)
    assert found is not None
    assert found.checkpoint["id"] == others[-1]["id"]
    letters = {each["id"]: letter for letter, each in made.items()}
    assert [letters.get(each.checkpoint["id"], ".") for each in saver.list(CONFIG)] == [*listed]


@pytest.mark.parametrize("ns", ["", "inner:1"])
def test_a_pruned_checkpoint_comes_back_for_nothing_but_what_its_root_asks(ns: str) -> None:
    saver = SessionBuffer(default_user="u").checkpointer()
    roots = [checkpoint(HumanMessage(each, id=each)) for each in "abc"]
    put = [saver.put(CONFIG, each, LOOP, {"messages": 1}) for each in roots]
    if ns:
        inner: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ns}}
        metadata: Any = {**LOOP, "parents": {"": roots[-1]["id"]}}
        put = [saver.put(inner, checkpoint(), metadata, {"messages": 1}) for _ in "ab"]
    saver.for_user("u").prune(["t"], strategy="keep_latest")
    everywhere: Any = {"configurable": {"thread_id": "t"}}
    listed = [*saver.list(everywhere)]
    saver.put_writes(put[0], [(INTERRUPT, [Interrupt("sure?", id="i")]) if ns else ("n", 1)], "task")
    assert saver.get_tuple(put[0]) is None
    assert [*saver.list(everywhere)] == listed


@pytest.mark.parametrize("steps", range(1, 7))
def test_what_another_turn_stored_stays_though_a_freed_checkpoint_asks_whose_worker_has_a_fast_clock(
    steps: int,
) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1))
    saver, other = buffer.checkpointer(), graph_of(buffer, *(says(str(number)) for number in range(steps)))
    running = other.stream({"messages": [HumanMessage("other")]}, CONFIG, durability="sync", stream_mode="values")
    next(running)
    made = checkpoint(HumanMessage("q", id="q"))
    made["id"] = f"2{made['id'][1:]}"
    saver.put(CONFIG, made, LOOP, {"messages": 1})
    list(running)
    latest = other.get_state(CONFIG).config
    saver.put_writes(at(made), [(INTERRUPT, [Interrupt("sure?", id="i")])], "task")
    assert other.get_state(CONFIG).config == latest
    assert plain_texts(buffer.history(session_id="t").messages) == ["other", *map(str, range(steps)), "q"]
    assert [bool(each.pending_writes) for each in saver.list(CONFIG)] == [False, True]


def test_an_interrupt_does_not_come_into_a_session_that_began_anew_while_its_freed_checkpoint_is_looked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_checkpoints=1))
    saver, made = buffer.checkpointer(), checkpoint(HumanMessage("secret", id="secret"))
    saver.put(CONFIG, made, LOOP, {"messages": 1})
    for each in "abcd":
        saver.put(CONFIG, checkpoint(HumanMessage(each, id=each)), LOOP, {"messages": 1})

    def begin_anew(_: Change) -> None:
        storage.after_write = None
        other = SessionBuffer(storage, default_user="u")
        other.delete("u", "t")
        other.history(session_id="t").add_messages([HumanMessage("new")])

    storage.after_write = begin_anew
    saver.put_writes(at(made), [(INTERRUPT, [Interrupt("sure?", id="i")])], "task")
    assert plain_texts(buffer.history(session_id="t").messages) == ["new"]
    assert "secret" not in str(storage.read(KEY, Query(outline=True)))
    assert len(caplog.records) == 1


def joined(before: Any, writes: Any) -> Any:
    return [*(before or []), *(each for written in writes for each in written)]


class Noted(MessagesState):
    """A state that holds more than its conversation."""

    long: str
    whole: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=1)]
    spread: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=50)]


@pytest.mark.parametrize(
    ("written", "stays"),
    [({}, True), ({"long": "x" * 1_000}, True), ({"whole": ["x"]}, True), ({"spread": ["x"]}, False)],
    ids=["nothing", "a long text", "a snapshot", "what needs the writes before it"],
)
def test_an_interrupt_whose_checkpoint_was_freed_stays_with_all_that_its_state_holds_or_goes(
    written: dict[str, Any], *, stays: bool
) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1))
    other = graph_of(buffer, says("1"), says("2"))
    running = other.stream({"messages": [HumanMessage("other")]}, CONFIG, durability="sync", stream_mode="values")
    next(running)

    def asks(_: Any) -> Any:
        list(running)
        return {"messages": [AIMessage(interrupt("sure?"))]}

    graph = chained(buffer, Noted, writes=lambda _: written, draft=says("draft"), asks=asks)
    ask(graph, "question")
    waiting = [each for each in graph.get_state_history(CONFIG) if each.interrupts]
    assert len(waiting) == stays
    for found in waiting:
        assert plain_texts(found.values["messages"]) == ["other", "question", "draft"]
        assert {channel: found.values[channel] for channel in written} == written


@pytest.mark.parametrize("is_used", [True, False])
def test_a_copy_goes_with_its_source_that_is_deleted_meanwhile_unless_a_turn_was_taken_on_it(*, is_used: bool) -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u")
    buffer.history(session_id="t").add_messages([HumanMessage("x")])

    def at_once(_: Change) -> None:
        storage.after_write = None
        if is_used:
            buffer.history(session_id="copy").add_messages([HumanMessage("y")])
        buffer.delete("u", "t")

    storage.after_write = at_once
    buffer.checkpointer().copy_thread("t", "copy")
    assert plain_texts(buffer.history(session_id="copy").messages) == (["x", "y"] if is_used else [])


def test_a_question_to_a_person_goes_if_the_turns_of_others_hold_all_that_its_freed_checkpoint_does() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1))
    others = chained(buffer, a=says("a"))

    def asks(_: Any) -> Any:
        for each in "12345":
            ask(others, each)
        return {"messages": [AIMessage(interrupt("sure?"))]}

    graph = chained(buffer, asks=asks)
    ask(graph, "q")
    assert [each.interrupts for each in graph.get_state_history(CONFIG)] == [()]


def test_an_interrupt_that_came_before_its_checkpoint_stays() -> None:
    saver = SessionBuffer(default_user="u").checkpointer()
    made = checkpoint(HumanMessage("q", id="q"))
    saver.put_writes(at(made), [(INTERRUPT, [Interrupt("sure?", id="i")])], "task")
    saver.put(CONFIG, made, LOOP, {"messages": 1})
    found = saver.get_tuple(CONFIG)
    assert found is not None
    assert [channel for _, channel, _ in found.pending_writes or ()] == [INTERRUPT]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_writes_before_their_checkpoint_bring_messages_that_another_worker_has_freed(is_deleted: bool) -> None:
    storage = MemoryStorage()
    worker, other = (SessionBuffer(storage, default_user="u", retention=Retention(max_messages=2)) for _ in range(2))
    said = AIMessage("said before", id="said")
    ask(chained(worker, says=lambda _: {"messages": [said]}), "q")
    other.history(session_id="t").add_messages([RemoveMessage(id="said")])
    for number in range(40):
        ask(chained(other, b=says(f"b{number}")), f"q{number}")
    assert not any(name.endswith("said") for name in storage.read(KEY, Query(outline=True)).blobs)
    saver = worker.checkpointer()
    made = checkpoint(said)
    saver.put_writes(at(made), [("messages", [said]), (INTERRUPT, [Interrupt("sure?", id="i")])], "task")
    if is_deleted:
        other.delete("u", "t")
    saver.put(CONFIG, made, LOOP, {"messages": 1})
    found = saver.get_tuple(at(made))
    pending = None if found is None else [channel for _, channel, _ in found.pending_writes or ()]
    assert pending == (None if is_deleted else [INTERRUPT, "messages"])


def test_a_question_to_a_person_that_is_not_stored_since_its_session_was_deleted_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    buffer = SessionBuffer(default_user="u")

    def asks(_: Any) -> Any:
        buffer.delete("u", "t")
        return {"messages": [AIMessage(interrupt("sure?"))]}

    ask(chained(buffer, asks=asks), "q")
    assert buffer.info("u", "t") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_writes_whose_checkpoint_never_comes_are_held_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_writes, "_BYTES", 5_000)
    buffer = SessionBuffer(default_user="u")
    saver = buffer.checkpointer()
    late = saver._late
    deleted(buffer)
    made = [checkpoint(HumanMessage("question", id="q")) for _ in range(20)]
    for each in made:
        saver.put_writes(at(each), [("messages", [AIMessage("x" * 1_000)])], "task")
    assert 3 <= len(late._waiting) <= 5
    assert late._bytes <= 5_000
    saver.put(CONFIG, made[-1], LOOP, {"messages": 1})
    found = saver.get_tuple(CONFIG)
    assert found is not None
    assert found.pending_writes
    for each in made:
        late.refuse(KEY, checkpoint_name("", each["id"]))
    assert (len(late._waiting), late._bytes) == (0, 0)


def waiting(size: int, *, for_: str, makes: str = "b") -> Change:
    return Change(Lease(60.0, None), Guard(needs=for_), blobs={makes: Blob(b"x" * size)})


def test_a_late_write_that_is_too_large_to_wait_is_refused_and_pushes_out_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(late_writes, "_BYTES", 5_000)
    late = LateWrites(SessionCache())
    for each in "ab":
        assert late.hold(KEY, waiting(1_000, for_=each))
    assert not caplog.records
    for large in (waiting(6_000, for_="c"), waiting(4_500, for_="b")):  # Alone, and with the one before.
        assert late.hold(KEY, large), "it is not to be tried again"
    assert ["not stored" in record.getMessage() for record in caplog.records] == [True]
    assert [len(late.released(KEY, each)) for each in "abc"] == [1, 1, 0]
    assert (len(late._waiting), late._bytes) == (0, 0)


def test_what_waits_for_a_checkpoint_that_is_too_large_to_wait_is_refused_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(late_writes, "_BYTES", 5_000)
    late = LateWrites(SessionCache())
    assert late.hold(KEY, waiting(1_000, for_="csub"))
    assert late.hold(KEY, waiting(6_000, for_="croot", makes="csub"))
    assert (len(late._waiting), late._bytes) == (0, 0)
    assert not late.hold(KEY, waiting(1_000, for_="csub")), "nobody would release it"


@pytest.mark.parametrize("session_id", ["t", None], ids=["session", "user"])
def test_nothing_is_remembered_of_what_is_read_while_it_is_deleted(session_id: str | None) -> None:
    class Reading(MemoryStorage):
        def delete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
            assert graph.get_state(CONFIG).values
            assert sessions.cache.last(KEY) is not None
            return super().delete(user_id, session_id, tombstone_ttl)

    buffer = SessionBuffer(Reading(), default_user="u")
    sessions = buffer._sessions
    graph = chained(buffer, answer=says("answer"))
    ask(graph, "question")
    assert buffer.forget("u") if session_id is None else buffer.delete("u", session_id)
    assert sessions.cache.last(KEY) is None
