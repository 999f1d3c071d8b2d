"""What once went wrong where another wrote between a look and the write that was planned with it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from langchain_ttl_history import Retention, SessionBuffer, StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.types import Change, Lease, Outcome, Query, Status
from langchain_ttl_history.stored.names import key_of
from tests.regressions.cases import CONFIG, KEY, Counted, Hooked, ask, chained, echoing, ids, plain_texts, says
from tests.shared.checkpoints import checkpoint


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
        if turn > 3 and buffer._sessions.cache.plans._plans:
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


def test_a_replacement_leaves_what_others_say_between_its_look_and_its_write() -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u")
    history = buffer.history(session_id="t")
    ask(chained(buffer, answers=says("answer")), "old")

    def speaks(query: Query) -> None:
        storage.after_read = None
        buffer.history(session_id="t").add_system_message("in between")

    storage.after_read = speaks
    history.messages = [HumanMessage("new")]
    assert plain_texts(history.messages) == ["in between", "new"]


def test_a_replacement_that_is_refused_again_and_again_is_an_error() -> None:
    storage = Refusing()
    history = SessionBuffer(storage, default_user="u").history(session_id="t")
    history.add_messages([HumanMessage("old", id="old")])
    storage.refuses = True
    with pytest.raises(StorageError, match=r"session .*'t'.* others kept freeing .* try again"):
        history.messages = [HumanMessage("new")]
    storage.refuses = False
    assert ids(history.messages) == ["old"]


@pytest.mark.parametrize("way", ["set", "remove all"])
def test_a_replacement_is_one_write_of_what_is_new(way: str) -> None:
    storage = Hooked()
    history = SessionBuffer(storage, default_user="u").history(session_id="t")
    history.add_messages([HumanMessage("one", id="1"), HumanMessage("two", id="2")])
    kept, new = history.messages[1], HumanMessage("three", id="3")
    sent: list[Change] = []
    storage.after_write = sent.append
    if way == "set":
        history.messages = [kept, new]
    else:
        history.add_messages([RemoveMessage(id=REMOVE_ALL_MESSAGES), kept, new])
    assert [key_of(name) for change in sent for name in change.blobs] == ["3"]
    assert len(sent) == 1


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


def test_a_checkpoint_that_is_refused_again_and_again_is_an_error_and_not_a_line_in_the_log(caplog: Any) -> None:
    storage = Refusing()
    buffer = SessionBuffer(storage, default_user="u")
    agent = echoing(buffer)
    agent.invoke({"messages": [HumanMessage("before", id="before")]}, CONFIG)
    shown = ids(buffer.history(session_id="t").messages)
    storage.refuses = True
    with pytest.raises(StorageError, match=r"session .*'t'.* was not stored, try again"):
        agent.invoke({"messages": [HumanMessage("hello", id="hello")]}, CONFIG)
    storage.refuses = False
    assert ids(buffer.history(session_id="t").messages) == shown
    assert not caplog.messages


class Refusing(MemoryStorage):
    """A storage that may miss something a write refers to, whatever that is."""

    refuses = False

    def write(self, key: SessionKey, change: Change) -> Outcome:
        if self.refuses:
            return Outcome(Status.MISSING, frozenset({"m"}))
        return super().write(key, change)
