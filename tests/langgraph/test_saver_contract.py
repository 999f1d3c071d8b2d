"""What the conformance suite leaves out of the saver's own contract."""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    copy_checkpoint,
    empty_checkpoint,
    writes_sort_key,
)
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME

from langchain_ttl_history import ConfigurationError
from tests.shared.as_in_memory import plain_value, same_on_both
from tests.shared.chats import dumps, texts
from tests.shared.graphs import GRAPH_KINDS, build_graph
from tests.shared.sessions import Colour, Session

ROOT = {"checkpoint_ns": ""}


def at(session: Session, **more: Any) -> Any:
    return {"configurable": {**session.config["configurable"], **ROOT, **more}}


async def put(session: Session, saver: Any, config: Any, step: int, **values: Any) -> Any:
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = dict.fromkeys(values, step + 1)
    metadata = {"source": "loop", "step": step, "parents": {}}
    return await session.colour.call(saver, "put", config, checkpoint, metadata, checkpoint["channel_versions"])


def comparable(found: Any) -> Any:
    """A tuple's whole content, for comparison."""
    values = dict(found.checkpoint["channel_values"])
    return (
        found.config,
        {**found.checkpoint, "channel_values": plain_value(values)},
        found.metadata,
        found.parent_config,
        [(task, channel, plain_value(value)) for task, channel, value in found.pending_writes],
    )


def test_every_method_of_the_base_class_has_a_twin_of_our_own() -> None:
    from langchain_ttl_history import SessionBuffer

    saver = type(SessionBuffer().checkpointer(user_id="u"))
    for name in (
        *("get_tuple", "list", "put", "put_writes", "delete_thread", "delete_for_runs"),
        *("copy_thread", "prune", "get_delta_channel_history"),
    ):
        for each in (name, f"a{name}"):
            assert getattr(saver, each) is not getattr(BaseCheckpointSaver, each), each
    assert "task_path" in inspect.signature(saver.put_writes).parameters
    assert "task_path" in inspect.signature(saver.aput_writes).parameters


async def test_pending_writes_are_in_the_order_of_writes_sort_key(session: Session) -> None:
    saver = session.buffer.checkpointer()
    config = await put(session, saver, at(session), 0, x=1)
    tasks = [(path, f"{task} of {path}") for path in ("~10", "~2", "", "~1, ~3") for task in ("t9", "t10", "t1")]
    for path, task in tasks:
        writes = [("x", f"{path}|{task}|{number}") for number in range(12)]
        await session.colour.call(saver, "put_writes", config, writes, task, path)
    written = [(path, task, number) for path, task in tasks for number in range(12)]
    written.sort(key=lambda each: writes_sort_key(*each))
    expected = [f"{path}|{task}|{number}" for path, task, number in written]
    found = await session.colour.call(saver, "get_tuple", session.config)
    assert [value for _, _, value in found.pending_writes] == expected
    listed = await session.colour.collect(saver, "list", session.config)
    assert listed[0].pending_writes == found.pending_writes


async def test_special_writes_come_first_and_are_replaced_and_others_are_not(
    session: Session,
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        config = await put(session, saver, at(session), 0, x=1)
        for writes in (
            [("x", 1), ("y", 2)],
            [("x", "again"), ("y", "again"), ("z", "new")],
            [(INTERRUPT, "first")],
            [(INTERRUPT, "second")],
            [(ERROR, "failed")],
            [(RESUME, ["a"])],
            [(RESUME, ["a", "b"])],
        ):
            await session.colour.call(saver, "put_writes", config, writes, "task", "~1")
            found = await session.colour.call(saver, "get_tuple", at(session))
            notes.append(found.pending_writes)

    await same_on_both(session, scenario)


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_sync_and_async_return_the_same(session: Session, kind: str) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph(kind, saver)
    await session.ask(agent, "look up a, b")
    await session.event("an event")
    await session.ask(agent, "hello")
    sync, other = Colour("sync"), Colour("async")
    config = session.config
    by_sync = await sync.collect(saver, "list", config)
    by_async = await other.collect(saver, "list", config)
    assert [comparable(each) for each in by_sync] == [comparable(each) for each in by_async]
    assert len(by_sync) > 6
    for each in by_sync:
        left = await sync.call(saver, "get_tuple", each.config)
        right = await other.call(saver, "get_tuple", each.config)
        assert comparable(left) == comparable(right)
        said, also = (each.checkpoint["channel_values"].get("messages", []) for each in (left, right))
        assert dumps(getattr(said, "value", said)) == dumps(getattr(also, "value", also))
        assert plain_value(
            await sync.call(saver, "get_delta_channel_history", config=each.config, channels=["messages"])
        ) == plain_value(
            await other.call(saver, "get_delta_channel_history", config=each.config, channels=["messages"])
        )
    assert comparable(await sync.call(saver, "get_tuple", config)) == comparable(
        await other.call(saver, "get_tuple", config)
    )
    assert await sync.call(session.buffer, "info", "alice", "s1") == await other.call(
        session.buffer, "info", "alice", "s1"
    )
    assert await sync.collect(session.buffer, "sessions", "alice") == await other.collect(
        session.buffer, "sessions", "alice"
    )


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_equal_reads_give_equal_tuples(session: Session, kind: str) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph(kind, saver)
    await session.event("before")
    for _ in range(2):
        first = await session.colour.call(saver, "get_tuple", session.config)
        again = await session.colour.call(saver, "get_tuple", session.config)
        assert first.checkpoint["versions_seen"] == again.checkpoint["versions_seen"]
        assert comparable(first) == comparable(again)
        await session.ask(agent, "hello")
        await session.event("more")


@pytest.mark.parametrize("limit", [0, 1, 3, 100, None])
async def test_a_limit_is_the_most_that_is_listed(session: Session, limit: int | None) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        await session.ask(build_graph("agent", saver), "look up a")
        listed = await session.colour.collect(saver, "list", session.config, limit=limit)
        notes.append([each.metadata["step"] for each in listed])

    await same_on_both(session, scenario)


async def test_before_filter_and_limit_combine_as_with_the_in_memory_saver(
    session: Session,
) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph("agent", saver)
        for question in ("look up a", "hello", "look up b, c"):
            await session.ask(agent, question)
        everything = await session.colour.collect(saver, "list", session.config)
        for before in (None, everything[0].config, everything[4].config, everything[-1].config):
            for where in (None, {"source": "loop"}, {"source": "input"}, {"step": 3}, {"no": 1}):
                for limit in (None, 0, 1, 2):
                    listed = await session.colour.collect(
                        saver, "list", session.config, before=before, filter=where, limit=limit
                    )
                    notes.append([each.metadata["step"] for each in listed])

    await same_on_both(session, scenario)


async def test_a_listing_by_checkpoint_id_shows_that_checkpoint_alone(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        await session.ask(build_graph("agent", saver), "look up a")
        for each in await session.colour.collect(saver, "list", session.config):
            listed = await session.colour.collect(saver, "list", each.config)
            notes.append([one.metadata["step"] for one in listed])

    await same_on_both(session, scenario)


async def test_a_listing_of_everything_goes_over_all_threads(session: Session) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    agent = build_graph("agent", saver)
    for name in ("s1", "s2", "s3"):
        await session("alice", name).ask(agent, "hello")
    listed = await session.colour.collect(saver, "list", None)
    threads = [each.config["configurable"]["thread_id"] for each in listed]
    assert sorted(threads) == ["s1"] * 3 + ["s2"] * 3 + ["s3"] * 3
    assert len(await session.colour.collect(saver, "list", None, limit=4)) == 4
    inputs = await session.colour.collect(saver, "list", None, filter={"source": "input"})
    assert len(inputs) == 3


async def test_an_int_thread_id_is_the_thread_of_that_name(session: Session) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    agent = build_graph("agent", saver)
    number: Any = {"configurable": {"thread_id": 5}}
    await session.colour.call(agent, "invoke", {"messages": [HumanMessage("hello")]}, number)
    assert len(await session.colour.collect(saver, "list", number)) == 3
    assert len(await session.colour.collect(saver, "list", None)) == 3
    state = await session.colour.call(agent, "get_state", number)
    by_id = await session.colour.call(agent, "get_state", state.config)
    assert texts(by_id.values["messages"]) == ["hello", "re: hello"]
    await session.colour.call(saver, "copy_thread", 5, 6)
    assert len(await session.colour.collect(saver, "list", {"configurable": {"thread_id": "6"}})) == 3
    await session.colour.call(saver, "prune", [6])
    assert len(await session.colour.collect(saver, "list", {"configurable": {"thread_id": 6}})) == 1
    await session.colour.call(saver, "delete_thread", 5)
    assert await session.colour.collect(saver, "list", number) == []


async def test_a_list_left_early_leaves_everything_usable(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    for number in range(3):
        await session.ask(agent, f"q{number}")
    for _ in range(3):
        if session.colour.is_async:
            async for each in saver.alist(session.config):
                assert each.checkpoint
                break
        else:
            for each in saver.list(session.config):
                assert each.checkpoint
                break
        await session.ask(agent, "again")
    assert len(await session.messages()) == 12


async def test_get_tuple_inside_a_list_loop_sees_what_is_listed(session: Session) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    await session.ask(agent, "look up a")
    count = 0
    if session.colour.is_async:
        async for each in saver.alist(session.config):
            one = await saver.aget_tuple(each.config)
            assert one is not None
            assert comparable(one)[1]["id"] == each.checkpoint["id"]
            await saver.aput_writes(each.config, [("x", 1)], "task")
            count += 1
    else:
        for each in saver.list(session.config):
            one = saver.get_tuple(each.config)
            assert one is not None
            assert comparable(one)[1]["id"] == each.checkpoint["id"]
            saver.put_writes(each.config, [("x", 1)], "task")
            count += 1
    assert count == 5


async def test_put_keeps_the_metadata_and_what_the_config_adds_to_it(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        agent = build_graph("agent", saver)
        config = {**session.config, "metadata": {"tag": "x", "number": 5}}
        config["configurable"] = {**config["configurable"], "extra": "given"}
        await session.colour.call(agent, "invoke", {"messages": [HumanMessage("hello")]}, config)
        notes += [
            {name: each.metadata.get(name) for name in ("tag", "number", "extra")}
            for each in await session.colour.collect(saver, "list", session.config)
        ]
        for where in ({"tag": "x"}, {"tag": "y"}, {"number": 5, "source": "loop"}):
            listed = await session.colour.collect(saver, "list", session.config, filter=where)
            notes.append(len(listed))

    await same_on_both(session, scenario)


async def test_a_checkpoint_comes_back_as_it_was_put(session: Session) -> None:
    saver = session.buffer.checkpointer()
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {"a": 1, "b": None, "messages": [HumanMessage("x", id="m")]}
    checkpoint["channel_versions"] = {"a": 1, "b": 2, "messages": 3, "gone": 4}
    checkpoint["versions_seen"] = {"node": {"a": 1}, "__input__": {}}
    checkpoint["updated_channels"] = ["a", "b"]
    given = copy_checkpoint(checkpoint)
    metadata = {"source": "loop", "step": 7, "parents": {"": "x"}, "note": "n"}
    config = await session.colour.call(saver, "put", at(session), checkpoint, metadata, checkpoint["channel_versions"])
    found = await session.colour.call(saver, "get_tuple", config)
    for name in ("id", "ts", "channel_versions", "updated_channels", "v"):
        assert found.checkpoint[name] == given[name], name  # type: ignore[literal-required]  # one field after the other
    assert found.checkpoint["channel_values"]["a"] == 1
    assert dumps(found.checkpoint["channel_values"]["messages"]) == dumps(given["channel_values"]["messages"])
    seen = {name: seen for name, seen in found.checkpoint["versions_seen"].items() if seen}
    assert seen["node"] == {"a": 1}
    assert {**metadata, **found.metadata} == found.metadata
    assert checkpoint == given, "put changed the caller's checkpoint"
    assert set(config["configurable"]) <= {
        *("thread_id", "checkpoint_ns", "checkpoint_id", "user_id"),
    }


async def test_only_channels_with_a_new_version_are_taken_from_a_put(session: Session) -> None:
    async def scenario(session: Session, saver: Any, notes: list[Any]) -> None:
        first = await put(session, saver, at(session), 0, x="one", y="one")
        found = await session.colour.call(saver, "get_tuple", first)
        second = empty_checkpoint()
        second["channel_values"] = {"x": "two", "y": "one"}
        second["channel_versions"] = {**found.checkpoint["channel_versions"], "x": 9}
        config = await session.colour.call(saver, "put", first, second, {"source": "loop", "step": 1}, {"x": 9})
        for each in (first, config):
            found = await session.colour.call(saver, "get_tuple", each)
            notes.append(found.checkpoint["channel_values"])

    await same_on_both(session, scenario)


async def test_an_unknown_checkpoint_id_finds_nothing(session: Session) -> None:
    saver = session.buffer.checkpointer()
    await session.ask(build_graph("agent", saver), "hello")
    missing = at(session, checkpoint_id="1f0fffff-0000-6000-8000-000000000000")
    assert await session.colour.call(saver, "get_tuple", missing) is None
    assert await session.colour.collect(saver, "list", missing) == []


async def test_versions_grow(session: Session) -> None:
    saver: Any = session.buffer.checkpointer()
    version = None
    seen = []
    for _ in range(12):
        version = saver.get_next_version(version, None)
        seen.append(version)
    assert seen == sorted(seen)
    assert len(set(seen)) == 12
    assert saver.get_next_version(3, None) > saver.get_next_version(2, None)
    for made, after in (("00000002.0.123", "00000003.0.123"), ("00000009", "00000010")):
        assert saver.get_next_version(made, None) == after


async def test_a_session_with_only_a_log_returns_a_checkpoint_of_the_time_it_began_at(session: Session) -> None:
    await session.event("an event")
    found = await session.colour.call(session.buffer.checkpointer(), "get_tuple", session.config)
    checkpoint = found.checkpoint
    id = UUID(checkpoint["id"])
    assert (id.version, id.variant) == (6, RFC_4122)
    # Of version 6 are the time's upper 48 bits, the version, and its lower 12 bits.
    ticks = (id.int >> 80) << 12 | (id.int >> 64) & 0xFFF
    began = datetime(1582, 10, 15, tzinfo=timezone.utc) + timedelta(microseconds=ticks // 10)
    assert began.isoformat() == checkpoint["ts"]
    assert began == (await session.info()).created_at
    assert found.metadata == {"source": "input", "step": -1, "parents": {}}
    agent = build_graph("agent", session.buffer.checkpointer())
    await session.ask(agent, "q")
    assert {
        each.checkpoint["v"] for each in await session.colour.collect(agent.checkpointer, "list", session.config)
    } == {checkpoint["v"]}


async def test_the_first_checkpoint_of_a_session_is_kept_with_messages_whose_ids_have_line_breaks(
    session: Session,
) -> None:
    agent = build_graph("agent", session.buffer.checkpointer())
    await session.add(HumanMessage("first", id="one\ntwo"))
    await session.ask(agent, "q")
    assert texts((await session.states(agent))[-1].values["messages"]) == ["first"]
    await session.add(HumanMessage("second", id="\nthree"), AIMessage("third", id="four\n"))
    await session.ask(agent, "again")
    assert await session.texts() == ["first", "q", "re: q", "second", "third", "again", "re: again"]


async def test_mappings_of_other_classes_are_taken_and_an_empty_checkpoint_id_names_none(session: Session) -> None:
    saver = session.buffer.checkpointer()
    checkpoint: Any = empty_checkpoint()
    checkpoint |= {
        "channel_values": MappingProxyType({"a": "one"}),
        "channel_versions": defaultdict(int, {"a": 1}),
        "versions_seen": OrderedDict({"node": defaultdict(int, {"a": 1})}),
    }
    metadata: Any = MappingProxyType({"source": "input", "step": -1, "parents": {}})
    await session.colour.call(saver, "put", at(session), MappingProxyType(checkpoint), metadata, {"a": 1})
    found = await session.colour.call(saver, "get_tuple", at(session, checkpoint_id=""))
    assert found.checkpoint["channel_values"] == {"a": "one"}
    assert found.checkpoint["channel_versions"] == {"a": 1}
    assert found.checkpoint["versions_seen"]["node"] == {"a": 1}
    assert {name: found.metadata[name] for name in metadata} == dict(metadata)


# --- copying, pruning, deleting runs ----------------------------------------------------------


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_copied_thread_goes_on_by_itself(session: Session, kind: str) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    agent = build_graph(kind, saver)
    for number in range(3):
        await session.ask(agent, f"q{number}")
    await session.event("an event")
    original = await session.texts()

    await session.colour.call(saver, "copy_thread", "s1", "s2")

    copied = session("alice", "s2")
    assert await copied.texts() == await copied.seen_by(agent) == original
    assert len(await copied.states(agent)) == len(await session.states(agent))
    for left, right in zip(await copied.states(agent), await session.states(agent), strict=True):
        assert plain_value(left.values) == plain_value(right.values)
        assert left.config["configurable"]["thread_id"] == "s2"
    await copied.ask(agent, "on")
    assert await copied.texts() == [*original, "on", "re: on"]
    assert await session.texts() == original
    await session.event("later")
    assert (await copied.texts())[-1] == "re: on"


async def test_a_copied_log_goes_on_by_itself(session: Session) -> None:
    await session.add(HumanMessage("a", id="m1"))
    saver = session.buffer.checkpointer(user_id="alice")
    await session.colour.call(saver, "copy_thread", "s1", "s2")
    await session("alice", "s2").event("b")
    assert await session("alice", "s2").texts() == ["a", "b"]
    assert await session.texts() == ["a"]


async def test_a_thread_is_not_copied_onto_one_that_is_there(session: Session) -> None:
    await session.event("of the first")
    other = session("alice", "s2")
    await other.event("of the other")
    with pytest.raises(ConfigurationError, match=r"\('alice', 's2'\) exists already"):
        await session.colour.call(session.buffer.checkpointer(user_id="alice"), "copy_thread", "s1", "s2")
    assert await other.texts() == ["of the other"]
    assert await session.texts() == ["of the first"]


async def test_where_a_thread_is_not_there_a_copy_of_it_changes_nothing(session: Session) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    await session.colour.call(saver, "copy_thread", "s1", "s2")
    # One that was deleted is not there either.
    await session.event("of the first")
    await session.delete()
    await session.colour.call(saver, "copy_thread", "s1", "s2")
    assert await session.sessions("alice") == []
    await session("alice", "s2").event("of the other")
    await session.colour.call(saver, "copy_thread", "s1", "s2")
    assert await session("alice", "s2").texts() == ["of the other"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_pruning_keeps_the_latest_and_the_conversation(session: Session, kind: str) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    agent = build_graph(kind, saver)
    for number in range(3):
        await session.ask(agent, f"look up q{number}")
    await session.event("an event")
    before = await session.texts()
    latest = (await session.state(agent)).config
    await session.colour.call(saver, "prune", ["s1"])
    assert await session.texts() == await session.seen_by(agent) == before
    listed = await session.colour.collect(saver, "list", session.config)
    assert [each.config for each in listed] == [latest]
    await session.ask(agent, "on")
    assert await session.texts() == [*before, "on", "re: on"]
    await session.colour.call(saver, "prune", ["s1"], strategy="delete")
    assert await session.info() is None


async def test_deleting_a_run_takes_its_checkpoints_and_leaves_what_others_still_hold(session: Session) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    agent = build_graph("agent", saver)
    for run in ("run-1", "run-2"):
        config: Any = {**session.config, "metadata": {"run_id": run}}
        await session.colour.call(agent, "invoke", {"messages": [HumanMessage(run)]}, config)
    await session.colour.call(saver, "delete_for_runs", ["run-1", "unknown"])
    left = await session.colour.collect(saver, "list", session.config)
    assert {each.metadata["run_id"] for each in left} == {"run-2"}
    assert await session.seen_by(agent) == ["run-1", "re: run-1", "run-2", "re: run-2"]
    await session.colour.call(saver, "delete_for_runs", ["run-2"])
    assert await session.colour.collect(saver, "list", session.config) == []
    assert await session.texts() == []


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_deleting_a_run_takes_what_it_said_as_it_was_edited_since(session: Session, kind: str) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    agent = build_graph(kind, saver)
    for run in ("run-1", "run-2"):
        config: Any = {**session.config, "metadata": {"run_id": run}}
        await session.colour.call(agent, "invoke", {"messages": [HumanMessage(run, id=run)]}, config)
    await session.add(HumanMessage("edited", id="run-2"), HumanMessage("meanwhile"))
    await session.add(HumanMessage("edited", id="run-1"))
    await session.colour.call(saver, "delete_for_runs", ["run-2"])
    assert await session.texts() == await session.seen_by(agent) == ["edited", "re: run-1", "meanwhile"]
    await session.colour.call(saver, "delete_for_runs", ["run-1"])
    assert await session.texts() == ["meanwhile"]
