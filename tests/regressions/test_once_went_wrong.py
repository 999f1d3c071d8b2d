"""What once went wrong here, between two steps that seemed to be one."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, _messages_delta_reducer
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langchain_ttl_history import CorruptRecordError, Retention, SessionBuffer, StorageError
from langchain_ttl_history.compaction import hard_limits
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage, SQLiteStorage
from langchain_ttl_history.storage.base import Change, Lease, Outcome, Query, Snapshot
from langchain_ttl_history.stored.names import LOG
from langchain_ttl_history.testing import Clock

CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
KEY = SessionKey("u", "t")


class Counted(MessagesState):
    n: int


class Hooked(MemoryStorage):
    """A storage between whose requests something may happen."""

    after_write: Callable[[Change], None] | None = None
    after_read: Callable[[Query], None] | None = None
    before_write: Callable[[Change], None] | None = None

    def write(self, key: SessionKey, change: Change) -> Outcome:
        if self.before_write is not None:
            self.before_write(change)
        outcome = super().write(key, change)
        if self.after_write is not None:
            self.after_write(change)
        return outcome

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        snapshot = super().read(key, query)
        if self.after_read is not None:
            self.after_read(query)
        return snapshot


def stores_root(change: Change) -> bool:
    return any(name.startswith("c\0") for name in change.blobs)


def subgraph_checkpoints(change: Change) -> list[str]:
    return [name for name in change.blobs if name[0] == "c" and name[1] != "\0"]


def ids(messages: list[BaseMessage]) -> list[str | None]:
    return [message.id for message in messages]


def checkpoint(*messages: BaseMessage, version: int = 1) -> Checkpoint:
    made = empty_checkpoint()
    made["channel_values"] = {"messages": [*messages]}
    made["channel_versions"] = {"messages": version}
    return made


def at(made: Checkpoint) -> Any:
    return {"configurable": {**CONFIG["configurable"], "checkpoint_id": made["id"]}}


# --- copies of checkpoints ------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(8))
def test_a_copy_of_any_checkpoint_is_what_it_copies(number: int) -> None:
    """LangGraph puts it under the parent of what it loaded, and says that nothing changed."""
    notes: list[list[Any]] = []
    for saver in (InMemorySaver(), SessionBuffer(default_user="u").checkpointer()):

        def first(state: Counted) -> dict[str, Any]:
            return {"messages": [AIMessage("a", id=f"a{len(state['messages'])}")], "n": 1}

        def second(state: Counted) -> dict[str, Any]:
            return {"messages": [AIMessage("b", id=f"b{len(state['messages'])}")], "n": 2}

        builder = StateGraph(Counted)
        builder.add_node("first", first)
        builder.add_node("second", second)
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        graph = builder.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "t"}}
        for turn in range(2):
            graph.invoke({"messages": [HumanMessage("hi", id=f"h{turn}")]}, config)
        copied = graph.update_state(list(graph.get_state_history(config))[number].config, None, as_node="__copy__")
        found = [graph.get_state(copied), graph.get_state(config)]
        notes.append([(ids(each.values.get("messages", [])), each.next) for each in found])
        graph.invoke({"messages": [HumanMessage("on", id="on")]}, config)
        notes[-1].append(ids(graph.get_state(config).values["messages"]))
    assert notes[0] == notes[1]


# --- plans that are late --------------------------------------------------------------------------


def echoing(buffer: SessionBuffer) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("echo", lambda state: {"messages": [AIMessage("a" * 600)]})
    builder.add_edge(START, "echo")
    return builder.compile(checkpointer=buffer.checkpointer())


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{path}/x.db"])
def test_a_plan_that_was_overtaken_by_a_deletion_of_runs_leaves_a_session_that_can_be_read(
    url: str, tmp_path: Path
) -> None:
    buffer = SessionBuffer(url.format(path=tmp_path), default_user="u", retention=Retention(max_checkpoints=3))
    saver, agent, runs = buffer.checkpointer(), echoing(buffer), []
    history = buffer.history(session_id="t")
    # In the end a read has planned what the next write is to free; which of them does is the storage's.
    for turn in range(30):
        runs.append(str(uuid.uuid4()))
        question = HumanMessage(f"h{turn}")
        agent.invoke({"messages": [question]}, {"configurable": {"thread_id": "t"}, "metadata": {"run_id": runs[-1]}})
        shown = history.messages
        if turn > 3 and buffer._sessions.cache._plans:
            break
    else:
        pytest.fail("no read planned anything")
    saver.delete_for_runs(runs[-2:])
    history.add_messages([HumanMessage("said")])
    assert history.messages[-1].content == "said"
    assert len(history.messages) == len(shown) - 4 + 1
    assert saver.get_tuple({"configurable": {"thread_id": "t"}}) is not None
    assert buffer.info("u", "t") is not None
    buffer.close()


def test_what_a_chain_says_is_kept_though_a_plan_beside_it_is_refused() -> None:
    storage = MemoryStorage()
    narrow = SessionBuffer(
        storage, default_user="u", retention=Retention(max_bytes=6000, max_messages=1000, max_checkpoints=2)
    )
    wide = SessionBuffer(storage, default_user="u")
    agent, runs = echoing(wide), []
    for turn in range(8):
        runs.append(str(uuid.uuid4()))
        question = HumanMessage("h" * 600, id=f"h{turn}")
        agent.invoke({"messages": [question]}, {"configurable": {"thread_id": "t"}, "metadata": {"run_id": runs[-1]}})
    history = narrow.history(session_id="t")
    assert history.messages, "which plans what to free of it"
    wide.checkpointer().delete_for_runs(runs[-1:])
    history.add_messages([HumanMessage("said", id="said")])
    assert wide.history(session_id="t").messages[-1].id == "said"


def test_a_replacement_is_planned_anew_where_what_it_shares_with_the_old_was_freed() -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("one", id="1"), HumanMessage("two", id="2")])
    session = storage._sessions[KEY]

    def free(query: Query) -> None:
        storage.after_read = None
        log = session.lists["log"][-1]
        free = Change(Lease(None, None), drop=log.refs, trim={"log": frozenset({log.position})}, upkeep=True)
        MemoryStorage.write(storage, KEY, free)

    storage.after_read = free
    history.messages = [HumanMessage("two", id="2"), HumanMessage("one", id="1")]
    assert storage.after_read is None
    assert ids(history.messages) == ["2", "1"]


def test_a_session_whose_latest_checkpoint_is_gone_is_said_to_be_damaged() -> None:
    storage = MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u")
    echoing(buffer).invoke({"messages": [HumanMessage("h")]}, {"configurable": {"thread_id": "t"}})
    session = storage._sessions[KEY]
    del session.blobs[session.blobs["h"].refs[0]]
    with pytest.raises(CorruptRecordError, match="the latest checkpoint is gone"):
        _ = buffer.history(session_id="t").messages


# --- after a deletion -----------------------------------------------------------------------------


def deleted(buffer: SessionBuffer) -> None:
    """Leave a tombstone."""
    buffer.history(session_id="t").add_messages([HumanMessage("x")])
    buffer.delete("u", "t")


def test_a_write_that_waited_for_its_checkpoint_does_not_bring_back_what_is_deleted_by_then() -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u")
    saver = buffer.checkpointer()
    deleted(buffer)
    made = checkpoint(HumanMessage("secret", id="h"))
    saver.put_writes(at(made), [("messages", [AIMessage("said after", id="a")])], "task")

    def delete(change: Change) -> None:
        if stores_root(change):
            storage.after_write = None
            buffer.delete("u", "t")

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
    assert not saver._late._held, "nobody waits for what was refused"


# --- puts that are planned anew -------------------------------------------------------------------


@pytest.mark.parametrize("speaks", [True, False])
def test_a_run_whose_bodies_were_freed_under_it_loses_no_step(speaks: bool) -> None:
    notes = []
    for saver in (
        InMemorySaver(),
        SessionBuffer(default_user="u", retention=Retention(max_messages=4, max_checkpoints=3)).checkpointer(),
    ):
        count = 0

        def other(state: MessagesState) -> dict[str, Any]:
            nonlocal count
            count += 1
            return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("o", id=f"o{count}")]}

        meanwhile = StateGraph(MessagesState)
        meanwhile.add_node("other", other)
        meanwhile.add_edge(START, "other")
        others = meanwhile.compile(checkpointer=saver)

        def first(state: Counted, others: Any = others) -> dict[str, Any]:
            if state.get("n") == 10:
                for turn in range(12):
                    others.invoke({"messages": [HumanMessage("x", id=f"x{turn}")]}, CONFIG)
            return {"n": state.get("n", 0) + 1}

        def second(state: Counted) -> dict[str, Any]:
            said = {"messages": [AIMessage("done", id=f"done{state['n']}")]} if speaks else {}
            return {"n": state["n"] + 1, **said}

        builder = StateGraph(Counted)
        builder.add_node("first", first)
        builder.add_node("second", second)
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        builder.add_edge("second", END)
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"messages": [HumanMessage("hi", id="h"), AIMessage("ho", id="h2")]}, CONFIG)
        graph.invoke({"n": 10}, CONFIG)
        found = graph.get_state(CONFIG)
        notes.append((found.values["n"], found.next))
    assert notes[0] == notes[1] == (12, ())


def test_a_put_whose_session_ends_between_its_look_and_its_write_is_stored() -> None:
    clock = Clock()
    storage = Hooked(clock=clock)
    buffer = SessionBuffer(storage, default_user="u")
    saver = buffer.checkpointer()

    def expire(query: Query) -> None:
        if any(name.startswith("c\0") for name in query.names):
            storage.after_read = None
            clock.advance(1801)

    def last(state: MessagesState) -> dict[str, Any]:
        storage.after_read = expire
        buffer._sessions.cache.drop("u")  # What is remembered was given up, so that the put has to look.
        return {"messages": [AIMessage("b", id="b")]}

    builder = StateGraph(MessagesState)
    builder.add_node("first", lambda state: {"messages": [AIMessage("a", id="a")]})
    builder.add_node("last", last)
    builder.add_edge(START, "first")
    builder.add_edge("first", "last")
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"messages": [HumanMessage("hi", id="h")]}, {"configurable": {"thread_id": "t"}}, durability="sync")
    assert storage.after_read is None
    assert ids(graph.get_state({"configurable": {"thread_id": "t"}}).values["messages"]) == ["h", "a", "b"]


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{path}/x.db"])
def test_an_id_that_is_no_text_to_others_may_stand_anywhere(url: str, tmp_path: Path) -> None:
    buffer = SessionBuffer(url.format(path=tmp_path), default_user="u")
    history = buffer.history(session_id="t")
    agent = echoing(buffer)
    odd = "\ud800x"
    agent.invoke({"messages": [HumanMessage("hi", id=odd)]}, {"configurable": {"thread_id": "t"}})
    history.add_messages([HumanMessage("more", id="1"), AIMessage("said", id="\udfff")])
    agent.invoke({"messages": [HumanMessage("again", id=f"again{odd}")]}, {"configurable": {"thread_id": "t"}})
    history.add_messages([RemoveMessage(id=odd)])
    assert ids(history.messages)[1:4] == ["1", "\udfff", f"again{odd}"]
    assert odd not in ids(history.messages)
    buffer.close()


# --- turns beside each other ----------------------------------------------------------------------


def chained(buffer: SessionBuffer, state: Any = MessagesState, **nodes: Any) -> Any:
    """A graph of these nodes, one after the other."""
    graph: Any = StateGraph(state)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *nodes], nodes, strict=False):
        graph.add_edge(before, after)
    return graph.compile(checkpointer=buffer.checkpointer())


def graph_of(buffer: SessionBuffer, *steps: Callable[[MessagesState], dict[str, Any]]) -> Any:
    """The same, where names do not matter."""
    return chained(buffer, **{f"step{number}": step for number, step in enumerate(steps)})


def asking(buffer: SessionBuffer) -> Any:
    """A graph that calls a tool, which asks a person."""

    def model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("", id="call", tool_calls=[{"id": "c", "name": "t", "args": {}}])]}

    def tools(state: MessagesState) -> dict[str, Any]:
        return {"messages": [ToolMessage(str(interrupt("go?")), tool_call_id="c", id="result")]}

    return graph_of(buffer, model, tools)


def test_what_a_run_removes_does_not_come_back_after_its_session_expired_under_it() -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")

    def draft(state: MessagesState) -> dict[str, Any]:
        clock.advance(1801)
        return {"messages": [AIMessage("draft", id="draft")]}

    def redraft(state: MessagesState) -> dict[str, Any]:
        return {"messages": [RemoveMessage(id="draft"), AIMessage("answer", id="answer")]}

    def more(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("more", id="more")]}

    buffer.history(session_id="t").add_messages([HumanMessage("before", id="before")])
    agent = graph_of(buffer, draft, lambda state: {}, redraft, more)
    said = agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG, durability="sync")["messages"]
    assert ids(said) == ["before", "h", "answer", "more"]
    assert ids(buffer.history(session_id="t").messages) == ids(said)
    assert ids(agent.get_state(CONFIG).values["messages"]) == ids(said)


def test_a_copy_of_a_head_that_waits_for_a_tool_is_all_of_it_on_another_worker_too() -> None:
    storage = MemoryStorage()
    notes = []
    for savers in (
        [InMemorySaver()] * 2,
        [SessionBuffer(storage, default_user="u").checkpointer() for _ in range(2)],
    ):
        graphs: list[Any] = []
        for saver in savers:

            def model(state: MessagesState, graphs: list[Any] = graphs) -> dict[str, Any]:
                graphs[1].get_state(CONFIG)  # Another worker looks in the middle of the run.
                return {"messages": [AIMessage("", id="a", tool_calls=[{"id": "c", "name": "t", "args": {}}])]}

            def tools(state: MessagesState) -> dict[str, Any]:
                return {"messages": [AIMessage(str(interrupt("go?")), id="t")]}

            builder = StateGraph(MessagesState)
            builder.add_node("model", model)
            builder.add_node("tools", tools)
            builder.add_edge(START, "model")
            builder.add_edge("model", "tools")
            graphs.append(builder.compile(checkpointer=saver))
        graphs[0].invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG, durability="sync")
        copied = graphs[1].update_state(CONFIG, None, as_node="__copy__")
        notes.append([ids(graphs[1].get_state(copied).values["messages"]), graphs[0].get_state(CONFIG).next])
    assert notes[0] == notes[1]


@pytest.mark.parametrize("way", ["set", "remove all"])
def test_a_call_that_waits_for_its_results_outlives_a_replacement_of_what_is_shown(way: str) -> None:
    buffer = SessionBuffer(default_user="u")
    agent = asking(buffer)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old")])
    agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG)
    shown = history.messages
    assert ids(shown) == ["old", "h"]
    if way == "set":
        history.messages = shown
    else:
        history.add_messages([RemoveMessage(id=REMOVE_ALL_MESSAGES), *shown])
    agent.invoke(Command(resume="yes"), CONFIG)
    assert ids(history.messages) == ["old", "h", "call", "result"]


@pytest.mark.parametrize("together", [False, True], ids=["two calls", "one call"])
@pytest.mark.parametrize("what", ["edited", "as it was"])
def test_what_the_window_cuts_while_a_graph_waits_does_not_come_back_as_the_newest(what: str, together: bool) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=3))
    agent = asking(buffer)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("answer", id="answer")])
    agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG)
    # The history has room for it, without the call that waits; the graph has not.
    assert ids(history.messages) == ["old", "answer", "h"]
    edit = HumanMessage("edited" if what == "edited" else "old", id="old")
    meanwhile = HumanMessage("meanwhile", id="meanwhile")
    for messages in [[edit, meanwhile]] if together else [[edit], [meanwhile]]:
        history.add_messages(messages)
    agent.invoke(Command(resume="yes"), CONFIG)
    assert "old" not in ids(history.messages)
    assert ids(agent.get_state(CONFIG).values["messages"])[-1] == "meanwhile"


@pytest.mark.parametrize("together", [False, True], ids=["two calls", "one call"])
def test_what_is_put_down_anew_while_a_graph_waits_is_kept_though_the_window_cut_what_it_was(together: bool) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=3))
    agent = asking(buffer)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("answer", id="answer")])
    agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG)
    anew = [RemoveMessage(id="old"), HumanMessage("anew", id="old")]
    for messages in [anew] if together else [[each] for each in anew]:
        history.add_messages(messages)
    agent.invoke(Command(resume="yes"), CONFIG)
    assert texts(history.messages)[-1] == "anew"


def test_a_removal_among_messages_counts_for_those_before_it() -> None:
    history = SessionBuffer(default_user="u").history(session_id="t")
    everything = RemoveMessage(id=REMOVE_ALL_MESSAGES)
    history.add_messages([everything, HumanMessage("1", id="1"), everything, HumanMessage("2", id="2")])
    assert ids(history.messages) == ["2"]
    history.add_messages([HumanMessage("3", id="3"), everything, HumanMessage("4", id="4"), RemoveMessage(id="4")])
    assert ids(history.messages) == []
    history.messages = [HumanMessage("5", id="5"), HumanMessage("6", id="6"), RemoveMessage(id="5")]
    assert ids(history.messages) == ["6"]


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
    should_retry, waiting = saver._late.should_retry, []

    def later(key: SessionKey, change: Change) -> bool:
        if change.append[0][0].startswith("winner"):
            waiting.append((key, change))
            return False
        return should_retry(key, change)

    # Of two threads, that with the write is interrupted between its refusal and its wait ...
    saver._late.should_retry = later  # type: ignore[method-assign]  # watched for the test
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
    assert should_retry(key, change), "it is to be tried once more, since nobody will release it"


@pytest.mark.parametrize("what", ["edit", "redraft"])
def test_a_turn_that_edits_or_drafts_stays_in_one_piece_beside_others(what: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")

    def others(name: str) -> None:
        history.add_messages([HumanMessage(f"{name}?", id=f"{name}-h"), AIMessage(f"{name}!", id=f"{name}-a")])

    def first(state: MessagesState) -> dict[str, Any]:
        others("C")
        said = AIMessage("shorter", id="old-a") if what == "edit" else AIMessage("draft", id="draft")
        return {"messages": [said]}

    def second(state: MessagesState) -> dict[str, Any]:
        others("D")
        said = [AIMessage("answer", id="R-a")]
        return {"messages": said if what == "edit" else [RemoveMessage(id="draft"), *said]}

    inner = graph_of(buffer, first, second)

    def outer(state: MessagesState) -> dict[str, Any]:
        inner.invoke({"messages": [HumanMessage("R?", id="R-h")]}, CONFIG)
        return {"messages": [AIMessage("B!", id="B-a")]}

    others("old")
    graph_of(buffer, outer).invoke({"messages": [HumanMessage("B?", id="B-h")]}, CONFIG)
    said = ids(history.messages)
    assert sorted(map(str, said)) == sorted(f"{turn}-{who}" for turn in ("old", "B", "C", "D", "R") for who in "ha")
    assert all(said[said.index(f"{turn}-h") + 1] == f"{turn}-a" for turn in ("old", "B", "C", "D", "R"))


@pytest.mark.parametrize("cap", [4, 5, 6])
@pytest.mark.parametrize("asks", [True, False], ids=["interrupted", "remembers itself"])
def test_what_a_subgraph_holds_beyond_the_window_stays_where_it_stood(asks: bool, cap: int) -> None:
    def answers(state: MessagesState) -> Any:
        if asks:
            interrupt("go on?")
        asked = state["messages"][-1]
        return {"messages": [AIMessage("answer", id=f"{asked.id}+")]}

    inner: Any = StateGraph(MessagesState).add_node("answers", answers).add_edge(START, "answers")
    outer: Any = StateGraph(MessagesState).add_node("inner", inner.compile(checkpointer=None if asks else True))
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=cap))
    graph = outer.add_edge(START, "inner").compile(checkpointer=buffer.checkpointer())
    said: list[str] = []
    for turn in range(6):
        graph.invoke({"messages": [HumanMessage("question", id=f"{turn}")]}, CONFIG)
        if asks:
            graph.invoke(Command(resume="yes"), CONFIG)
        said += [f"{turn}", f"{turn}+"]
        expected = said[-(cap - cap % 2) :]
        assert ids(graph.get_state(CONFIG).values["messages"]) == expected
        assert ids(buffer.history(session_id="t").messages) == expected


def texts(messages: list[BaseMessage]) -> list[str]:
    return [message.text for message in messages]


def ask(graph: Any, question: str, durability: str = "sync") -> list[str]:
    """What a graph holds at the end of a turn."""
    return texts(graph.invoke({"messages": [HumanMessage(question)]}, CONFIG, durability=durability)["messages"])


CALL: Any = {"name": "tool", "args": {}, "id": "c"}


DELTAS: Any = TypedDict(  # type: ignore[misc]  # made here
    "DELTAS", {"messages": Annotated[list[BaseMessage], DeltaChannel(_messages_delta_reducer)]}
)


def calls_while(buffer: SessionBuffer, other: Callable[[], object], state: Any = MessagesState) -> Any:
    """A graph during whose tool call something else happens."""

    def tool(_: Any) -> Any:
        other()
        return {"messages": [ToolMessage("result", tool_call_id="c")]}

    return chained(
        buffer,
        state,
        model=lambda _: {"messages": [AIMessage("call", tool_calls=[CALL])]},
        tool=tool,
        end=lambda _: {"messages": [AIMessage("answer")]},
    )


@pytest.mark.parametrize("keeps", [2, 3])
@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_a_call_that_another_run_keeps_when_it_summarises_keeps_its_result(keeps: int, durability: str) -> None:
    def summarises(state: MessagesState) -> Any:
        kept = state["messages"][-keeps:]
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("summary"), *kept]}

    buffer = SessionBuffer(default_user="u")
    other = chained(buffer, sums=summarises, answers=lambda _: {"messages": [AIMessage("other answer")]})
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old"), AIMessage("older")])
    ask(calls_while(buffer, lambda: ask(other, "other question", durability)), "question")
    first = ["summary", *["question"][: keeps - 2]]
    assert texts(history.messages) == [*first, "call", "result", "answer", "other question", "other answer"]


@pytest.mark.parametrize("state", [MessagesState, DELTAS], ids=["a list", "a delta channel"])
def test_a_run_that_takes_its_question_back_does_not_speak_between_a_call_and_its_result(state: Any) -> None:
    buffer = SessionBuffer(default_user="u")
    other = chained(
        buffer,
        state,
        forgets=lambda state: {"messages": [RemoveMessage(id=state["messages"][-1].id)]},
        answers=lambda _: {"messages": [AIMessage("other answer")]},
    )
    ask(calls_while(buffer, lambda: ask(other, "other question"), state), "question")
    assert texts(buffer.history(session_id="t").messages) == ["question", "call", "result", "answer", "other answer"]


@pytest.mark.parametrize("size", [1, 500, 1_000, 2_000])
def test_what_was_removed_meanwhile_does_not_come_back_where_bytes_are_short(size: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=size))
    history = buffer.history(session_id="t")

    def removes(state: MessagesState) -> Any:
        history.add_messages([RemoveMessage(id=str(state["messages"][0].id))])
        return {"messages": [AIMessage("removed")]}

    graph = chained(
        buffer,
        thinks=lambda _: {"messages": [AIMessage("thinking " + "x" * 300)]},
        removes=removes,
        ends=lambda _: {"messages": [AIMessage("last")]},
    )
    ask(graph, "question")
    assert "question" not in texts(history.messages)
    assert texts(history.messages)[-1] == "last"


@pytest.mark.parametrize("who", ["the others", "a chain"])
@pytest.mark.parametrize(("state", "size"), [(MessagesState, 1_800), (DELTAS, 2_500), (DELTAS, 3_500)])
def test_what_was_removed_under_a_run_whose_checkpoint_was_freed_does_not_come_back(
    state: Any, who: str, size: int
) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=size))
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("older")])

    def removes(state: Any) -> Any:
        there = who == "the others" and "old" in ids(state["messages"])
        return {"messages": [RemoveMessage(id="old")] if there else [AIMessage("other")]}

    other = chained(buffer, state, removes=removes)

    def others() -> None:
        for number in range(8):
            ask(other, f"question {number}")
            if number == 0 and who == "a chain":
                history.add_messages([RemoveMessage(id="old")])

    agent = calls_while(buffer, others, state)
    held = ask(agent, "question")
    assert held == ["old", "older", "question", "call", "result", "answer"]
    shown = texts(history.messages)
    assert "old" not in shown
    assert {*held[2:]} <= {*shown}
    assert texts(agent.get_state(CONFIG).values["messages"]) == shown


def test_a_question_is_not_freed_while_a_turn_beside_it_keeps_its_answer() -> None:
    steps = range(4)
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=6))
    history = buffer.history(session_id="t")

    def turn(name: str, meanwhile: Callable[[], object] = lambda: None) -> Any:
        def answers(state: MessagesState) -> Any:
            meanwhile()
            return {"messages": [AIMessage(f"{name} answer")]}

        def says(at: int) -> Any:
            return lambda _: {"messages": [AIMessage(f"{name} {at}")]}

        return chained(buffer, **{f"says{at}": says(at) for at in steps}, answers=answers)

    newest = turn("third")
    older = turn("second", lambda: ask(newest, "third question"))
    ask(turn("first", lambda: ask(older, "second question")), "first question")
    said = ["third question", *(f"third {at}" for at in steps), "third answer"]
    assert texts(history.messages) == said
    for event in range(3):
        history.add_system_message(f"event {event}")
        said.append(f"event {event}")
        assert texts(history.messages) == ["third question", *said[-5:]]


@pytest.mark.parametrize("thoughts", [3, 5])
def test_what_an_agent_in_a_tool_removed_does_not_come_back_however_much_was_said_in_its_own_tools(
    thoughts: int,
) -> None:
    def summarises(state: MessagesState) -> Any:
        call = AIMessage("inner call", tool_calls=[CALL])
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("summary"), call]}

    def thinks(at: int) -> Any:
        return lambda _: {"messages": [AIMessage(f"thought {at}")]}

    def forgets(state: MessagesState) -> Any:
        return {"messages": [RemoveMessage(id=message.id) for message in state["messages"][-1 - thoughts :]]}

    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=6))
    innermost = chained(buffer, **{f"thinks{at}": thinks(at) for at in range(thoughts)}, forgets=forgets)

    def tool(_: Any) -> Any:
        for number in range(4):
            ask(innermost, f"innermost question {number}")
        return {"messages": [ToolMessage("inner result", tool_call_id="c")]}

    inner = chained(buffer, sums=summarises, tool=tool, ends=lambda _: {"messages": [AIMessage("inner answer")]})
    ask(calls_while(buffer, lambda: ask(inner, "inner question")), "question")
    shown = texts(buffer.history(session_id="t").messages)
    if thoughts == 3:
        assert shown == ["summary", "inner call", "inner result", "inner answer"]
    else:
        # The thoughts had cut the summary before they were removed.
        assert shown == ["call", "result", "answer", "inner answer"]


@pytest.mark.parametrize("begins", ["a chain", "a graph", "a graph that waits"])
@pytest.mark.parametrize("change", ["removal", "replacement", "edits", "notices"])
def test_the_log_is_freed_whatever_was_changed_before_what_is_shown(begins: str, change: str) -> None:
    retention = Retention(max_messages=4)
    buffer = SessionBuffer(default_user="u", retention=retention)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("older", id="older")])
    if begins == "a graph":
        ask(chained(buffer, answers=lambda _: {"messages": [AIMessage("answer")]}), "question")
    elif begins == "a graph that waits":
        asking(buffer).invoke({"messages": [HumanMessage("question")]}, CONFIG)
    edited = history.messages[0]
    if change == "removal":
        history.add_messages([RemoveMessage(id="older")])
    elif change == "replacement":
        history.messages = [HumanMessage("new"), edited]
    kept = texts(history.messages)
    for number in range(100):
        text = f"said {number}"
        if change == "edits":
            history.add_messages([edited.model_copy(update={"content": text})])
            assert texts(history.messages) == [text, *kept[1:]]
        elif change == "notices":
            history.add_messages([AIMessage(text, id="notice")])
            history.add_messages([RemoveMessage(id="notice")])
            assert texts(history.messages) == kept
        else:
            history.add_messages([HumanMessage(text)])
            assert texts(history.messages)[-1] == text
    entries = MemoryStorage.read(history._storage, KEY, Query(outline=True)).lists[LOG]  # type: ignore[arg-type]  # it is a MemoryStorage
    weight = sum(1 + len(entry.refs) for entry in entries)
    assert weight <= hard_limits(retention, MemoryStorage.slack)[LOG]


@pytest.mark.parametrize("edit", ["in place", "after a move", "with a move"])
def test_an_edit_is_kept_though_the_window_cuts_it_and_shows_it_again(edit: str) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=3))
    history = buffer.history(session_id="t")
    ask(chained(buffer, answers=lambda _: {"messages": [AIMessage("answer", id="answer")]}), "question")
    question, answer = history.messages
    edited = question.model_copy(update={"content": "edited"})
    if edit == "after a move":
        history.messages = [answer, question]
    if edit == "with a move":
        history.messages = [answer, edited]
    else:
        history.add_messages([edited])
    for number in range(40):
        history.add_messages([HumanMessage(f"said {number}", id=f"said {number}")])
    while history.messages[-1].text.startswith("said"):
        history.add_messages([RemoveMessage(id=str(history.messages[-1].id))])
    assert "edited" in texts(history.messages)


@pytest.mark.parametrize("speaks", [True, False], ids=["a chain began", "a graph began"])
@pytest.mark.parametrize("frequency", [2, 50])
@pytest.mark.parametrize("late", [0, 1], ids=["first turn", "later turn"])
def test_a_turn_over_a_delta_channel_loses_nothing_when_its_session_expires_under_it(
    late: int, frequency: int, speaks: bool
) -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u", retention=Retention(idle_ttl=1_000))
    turns: list[int] = []

    channel = DeltaChannel(_messages_delta_reducer, snapshot_frequency=frequency)
    state: Any = TypedDict("State", {"messages": Annotated[list[BaseMessage], channel]})  # type: ignore[misc]  # made here

    def tool(_: Any) -> Any:
        if len(turns) == late:
            clock.advance(5_000)
        turns.append(1)
        return {"messages": [AIMessage("done")]}

    graph = chained(buffer, state, model=lambda _: {"messages": [AIMessage("thinks")]}, tool=tool)
    history = buffer.history(session_id="t")
    if speaks:
        history.add_messages([HumanMessage("hello"), AIMessage("hi")])
    for turn in range(late + 1):
        held = ask(graph, f"question {turn}")
    assert texts(history.messages) == held


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_a_turn_over_a_delta_channel_keeps_what_a_chain_changed_before_it_when_its_session_expires_under_it(
    durability: str,
) -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u", retention=Retention(idle_ttl=1_000))
    history = buffer.history(session_id="t")

    def answer(state: Any) -> Any:
        if state["messages"][-1].text == "second":
            clock.advance(5_000)
        return {"messages": [AIMessage("done")]}

    channel = DeltaChannel(_messages_delta_reducer, snapshot_frequency=50)
    state: Any = TypedDict("State", {"messages": Annotated[list[BaseMessage], channel]})  # type: ignore[misc]  # made here
    graph = chained(buffer, state, answer=answer)
    config: Any = {"configurable": {"thread_id": "t"}}
    graph.invoke({"messages": [HumanMessage("first", id="first")]}, config)
    history.add_messages([RemoveMessage(id="first"), HumanMessage("meanwhile")])
    held = graph.invoke({"messages": [HumanMessage("second")]}, config, durability=durability)["messages"]
    assert texts(held) == ["done", "meanwhile", "second", "done"]
    assert texts(history.messages) == texts(held)


def test_a_channel_that_did_not_change_is_stored_as_it_was_though_the_run_went_on() -> None:
    saver = SessionBuffer(default_user="u").checkpointer()
    joined = {"a"}
    before = checkpoint(version=1)
    before["channel_values"] = {"join": joined}
    before["channel_versions"] = {"join": 1, "n": 1}
    config = saver.put(CONFIG, before, {"step": 0}, {"join": 1, "n": 1})
    after = checkpoint(version=1)
    after["channel_values"] = {"join": joined, "n": 1}
    after["channel_versions"] = {"join": 1, "n": 2}
    joined.add("b")  # As a `NamedBarrierValue` does in the next step, which a put in the background may come behind.
    saver.put(config, after, {"step": 1}, {"n": 2})
    found = saver.get_tuple(CONFIG)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"join": {"a"}, "n": 1}


def test_of_a_failed_task_what_langgraph_keeps_of_its_error_is_kept() -> None:
    def fails(_: MessagesState) -> Any:
        raise ValueError("no")

    buffer = SessionBuffer(default_user="u")
    graph = chained(buffer, fails=fails)
    with pytest.raises(ValueError, match="no"):
        ask(graph, "question")
    assert graph.get_state(CONFIG).tasks[0].error == "ValueError('no')"


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
    assert texts(buffer.history(session_id="t").messages) == ["new", "answer"]
    storage.close()


def test_what_was_sealed_says_so(tmp_path: Path) -> None:
    class Veil:
        """Turns bytes around."""

        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "veil", plaintext[::-1]

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            return ciphertext[::-1]

    sealing = EncryptedSerializer(Veil(), JsonPlusSerializer())
    storage = SQLiteStorage(tmp_path / "s.db")
    plain, sealed = SessionBuffer(storage, default_user="u"), SessionBuffer(storage, default_user="u", serde=sealing)
    sealed.history(session_id="a").add_system_message("x")
    plain.history(session_id="b").add_system_message("x")
    with pytest.raises(CorruptRecordError, match=r"sealed as .bytes.*give the buffer the serde="):
        _ = plain.history(session_id="a").messages
    with pytest.raises(CorruptRecordError, match=r"stored by a buffer without serde="):
        _ = sealed.history(session_id="b").messages
    storage.close()


@pytest.mark.parametrize("what", ["keep_latest", "delete_for_runs"])
def test_what_others_keep_from_being_dropped_is_not_said_to_be(what: str) -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u")
    saver = buffer.checkpointer()
    for step in range(2):
        saver.put(
            CONFIG, checkpoint(HumanMessage("q", id="q"), version=step + 1), {"run_id": "r"}, {"messages": step + 1}
        )

    def speaks(query: Query) -> None:
        if query.outline:
            buffer.history(session_id="t").add_system_message("in between")

    storage.after_read = speaks
    with pytest.raises(StorageError, match="others kept writing"):
        saver.prune(["t"], strategy="keep_latest") if what == "keep_latest" else saver.delete_for_runs(["r"])
    storage.after_read = None
    saver.prune(["t"], strategy="keep_latest") if what == "keep_latest" else saver.delete_for_runs(["r"])
    left = [each.metadata.get("run_id") for each in saver.list(CONFIG)]
    assert left == (["r"] if what == "keep_latest" else [None]), "what the history said is shown as ever"


def other_that(buffer: SessionBuffer, way: str) -> Any:
    """An agent that takes away all that it was shown, or that the history shows while its tool runs."""
    if way == "summarises":
        return chained(
            buffer,
            sums=lambda _: {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("new")]},
            answers=lambda _: {"messages": [AIMessage("other answer")]},
        )

    def replaced() -> None:
        buffer.history(session_id="t").messages = [HumanMessage("new")]

    return calls_while(buffer, replaced)


@pytest.mark.parametrize("way", ["summarises", "replaces"])
@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_an_agent_in_a_tool_of_another_does_not_take_away_the_call_it_runs_in(way: str, durability: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old"), AIMessage("older")])
    other = other_that(buffer, way)
    ask(calls_while(buffer, lambda: ask(other, "other question", durability)), "question")
    shown = texts(history.messages)
    assert shown[:3] == ["call", "result", "answer"]
    assert "new" in shown
    assert not {"old", "older", "question"} & {*shown}
    assert texts(calls_while(buffer, lambda: None).get_state(CONFIG).values["messages"]) == shown


@pytest.mark.parametrize("ends", ["before the tool", "before the answer", "last"])
@pytest.mark.parametrize("edits", [0, 100], ids=["as stored", "once freed"])
def test_a_run_that_summarises_beside_a_call_leaves_it_with_its_result(ends: str, edits: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=5))
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old"), AIMessage("older")])
    other = other_that(buffer, "summarises")
    question = {"messages": [HumanMessage("other question")]}
    steps: Any = other.stream(question, CONFIG, stream_mode="values", durability="sync")
    agent = calls_while(buffer, lambda: next(steps) and list(steps if ends == "before the tool" else []))
    asked = {"messages": [HumanMessage("question")]}
    for state in agent.stream(asked, CONFIG, stream_mode="values", durability="sync"):
        if ends == "before the answer" and texts(state["messages"])[-1] == "result":
            assert [*steps]
    assert [*steps] or ends != "last"
    summary = next(message for message in history.messages if message.text == "new")
    for _ in range(edits):
        # The log grows, and what is shown stays as it is.
        assert history.messages
        history.add_messages([summary])
    shown = texts(history.messages)
    group = ["call", "result", "answer"]
    assert [text for text in shown if text in group] == group
    assert [text for text in shown if text not in group] == ["new", "other answer"]


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_an_agent_in_a_tool_that_removes_its_own_question_does_not_answer_between_the_call_and_its_result(
    durability: str,
) -> None:
    buffer = SessionBuffer(default_user="u")

    def amends(state: MessagesState) -> dict[str, Any]:
        edited = HumanMessage("edited", id=state["messages"][0].id)
        return {"messages": [RemoveMessage(id=state["messages"][-1].id or ""), edited]}

    inner = chained(buffer, amends=amends, answers=lambda _: {"messages": [AIMessage("inner")]})

    def tools(state: MessagesState) -> dict[str, Any]:
        ask(inner, "inner question", durability)
        return {"messages": [ToolMessage("result", tool_call_id="c")]}

    calls = {"messages": [AIMessage("call", tool_calls=[CALL])]}
    outer = chained(buffer, model=lambda _: calls, tools=tools, ends=lambda _: {"messages": [AIMessage("end")]})
    ask(outer, "question")
    shown = texts(buffer.history(session_id="t").messages)
    assert shown == ["edited", "call", "result", "end", "inner"]
