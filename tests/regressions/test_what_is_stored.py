"""What once went wrong with single records: copies, ids, errors, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_ttl_history import CorruptRecordError, SessionBuffer
from langchain_ttl_history.storage import MemoryStorage, SQLiteStorage
from langchain_ttl_history.stored.names import checkpoint_name
from tests.regressions.cases import CONFIG, KEY, LOOP, Counted, Veil, ask, chained, echoing, ids, plain_texts, says
from tests.shared.checkpoints import checkpoint


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


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_what_a_chain_said_before_a_graphs_first_turn_is_listed_as_it_was_shown(durability: str) -> None:
    buffer = SessionBuffer(default_user="u")
    buffer.history(session_id="t").add_messages([HumanMessage("hi"), AIMessage("hello")])
    graph = chained(buffer, answer=lambda _: {"messages": [AIMessage("answer")]})
    first = graph.get_state(CONFIG)
    ask(graph, "question", durability)
    *_, second, listed = graph.get_state_history(CONFIG)
    assert listed == first == graph.get_state(first.config)
    assert plain_texts(listed.values["messages"]) == ["hi", "hello"]
    assert second.parent_config == first.config
    forked = graph.invoke({"messages": [HumanMessage("other")]}, first.config)
    assert plain_texts(forked["messages"]) == ["hi", "hello", "other", "answer"]


def test_what_is_said_behind_a_result_without_a_call_is_kept_in_a_session_that_begins_so() -> None:
    history = SessionBuffer(default_user="u").history(session_id="t")
    history.add_messages([ToolMessage("result", tool_call_id="c"), HumanMessage("question")])
    assert plain_texts(history.messages) == ["question"]


def test_a_session_whose_latest_checkpoint_is_gone_is_said_to_be_damaged() -> None:
    storage = MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u")
    echoing(buffer).invoke({"messages": [HumanMessage("h")]}, {"configurable": {"thread_id": "t"}})
    session = storage._sessions[KEY]
    del session.blobs[session.blobs["h"].refs[0]]
    with pytest.raises(CorruptRecordError, match="the latest checkpoint is gone"):
        _ = buffer.history(session_id="t").messages


@pytest.mark.parametrize("run", ["first", "second"])
def test_a_deletion_of_runs_takes_what_ran_under_them_and_leaves_what_ran_under_others(run: str) -> None:
    """A subgraph's checkpoint that does not say which run it belongs to goes with its root's."""
    saver = SessionBuffer(default_user="u").checkpointer()
    inner: Any = {"configurable": {**CONFIG["configurable"], "checkpoint_ns": "inner:1"}}
    made = {name: [checkpoint(HumanMessage(name, id=name)) for _ in range(2)] for name in ("first", "second")}
    for name, (root, sub) in made.items():
        saver.put(CONFIG, root, {**LOOP, "run_id": name}, {"messages": 1})
        saver.put(inner, sub, {**LOOP, "parents": {"": root["id"]}}, {"messages": 1})
    saver.delete_for_runs([run])
    (left,) = (both for name, both in made.items() if name != run)
    every: Any = {"configurable": {"thread_id": "t"}}
    assert {each.checkpoint["id"] for each in saver.list(every)} == {each["id"] for each in left}
    latest = saver.get_tuple(CONFIG)
    assert latest is not None
    assert latest.checkpoint["id"] == left[0]["id"]


def test_a_deletion_of_runs_that_finds_a_listed_checkpoint_gone_says_so() -> None:
    storage = MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u")
    graph = echoing(buffer)
    runs = [str(uuid4()) for _ in range(2)]
    for run in runs:
        config: Any = {"configurable": {"thread_id": "t"}, "metadata": {"run_id": run}}
        graph.invoke({"messages": [HumanMessage(run)]}, config)
    left = [each for each in graph.get_state_history(config) if (each.metadata or {})["run_id"] == runs[0]]
    del storage._sessions[KEY].blobs[checkpoint_name("", left[0].config["configurable"]["checkpoint_id"])]
    with pytest.raises(CorruptRecordError, match=r"'t'.* is gone"):
        buffer.checkpointer().delete_for_runs([runs[1]])


@pytest.mark.parametrize("field", ["channel_versions", "versions_seen", "id"])
def test_a_checkpoint_that_lost_a_field_is_said_to_be_damaged(field: str) -> None:
    storage = MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u")
    config: Any = {"configurable": {"thread_id": "t"}}
    echoing(buffer).invoke({"messages": [HumanMessage("h")]}, config)
    blobs = storage._sessions[KEY].blobs
    name = blobs["h"].refs[0]
    packed = [bytes([0xA0 | len(each)]) + each.encode() for each in (field, field[:-1] + "?")]
    assert packed[0] in blobs[name].payload
    blobs[name] = blobs[name]._replace(payload=blobs[name].payload.replace(*packed, 1))
    with pytest.raises(CorruptRecordError, match=f"it has no {field}"):
        SessionBuffer(storage, default_user="u").checkpointer().get_tuple(config)


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


def test_what_was_sealed_says_so(tmp_path: Path) -> None:
    sealing = EncryptedSerializer(Veil(), JsonPlusSerializer())
    storage = SQLiteStorage(tmp_path / "s.db")
    plain, sealed = SessionBuffer(storage, default_user="u"), SessionBuffer(storage, default_user="u", serde=sealing)
    sealed.history(session_id="a").add_system_message("x")
    plain.history(session_id="b").add_system_message("x")
    with pytest.raises(CorruptRecordError, match=r"sealed as .bytes.*give the buffer the serde=[^;]*$"):
        _ = plain.history(session_id="a").messages
    with pytest.raises(CorruptRecordError, match=r"stored by a buffer without serde="):
        _ = sealed.history(session_id="b").messages
    storage.close()


def test_what_a_chain_said_before_the_first_turn_of_a_graph_is_the_oldest_checkpoint_and_the_only_one_of_it() -> None:
    buffer = SessionBuffer(default_user="u")
    buffer.history(session_id="t").add_messages([HumanMessage("hi")])
    graph = chained(buffer, thinks=says("thought"), answers=says("answer"))
    ask(graph, "question")
    listed = [plain_texts(state.values["messages"]) for state in graph.get_state_history(CONFIG)]
    whole = ["hi", "question", "thought", "answer"]
    # LangGraph's input is a checkpoint of its own, before the question is in.
    assert listed == [whole, whole[:3], whole[:2], whole[:1], whole[:1]]
