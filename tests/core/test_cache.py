"""What a process remembers of sessions: enough, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_ttl_history import SessionBuffer, waiting_changes
from langchain_ttl_history import cache as session_cache
from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.types import Blob, Change, Lease
from langchain_ttl_history.stored.bodies import encode_bodies
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import ID, checkpoint_name, content_name, is_root
from langchain_ttl_history.stored.packed_conversation import Body
from tests.shared.checkpoints import checkpoint

KEY = SessionKey("ada", "s1")


def test_the_checkpoints_put_last_are_remembered_and_those_long_ago_are_not() -> None:
    cache = SessionCache()
    for number in range(10_000):
        cache.note_put(KEY, f"c{number}", number)
        oldest = max(0, number - 499)
        assert cache.generation_of_put(KEY, f"c{oldest}") == oldest
    known = [number for number in range(10_000) if cache.generation_of_put(KEY, f"c{number}") is not None]
    assert known == list(range(known[0], 10_000))
    assert len(known) <= 1_000
    assert cache.generation_of_put(SessionKey("bob", "s1"), "c9999") is None


def test_what_a_session_began_with_is_still_known_once_its_generation_is() -> None:
    cache = SessionCache()
    first = cache.advance_to(KEY, 0).bodies
    assert cache.advance_to(KEY, 7).bodies is first
    assert cache.advance_to(KEY, 8).bodies is not first


def generations(cache: SessionCache) -> list[int]:
    return [each.generation for each in cache.generations(KEY)]


def test_of_the_generations_before_only_the_last_is_remembered_and_it_counts() -> None:
    cache = SessionCache()
    first = cache.advance_to(KEY, 1)
    first.bodies.learn("a", Body("a body", None, bytes(100)))
    second = cache.advance_to(KEY, 2)
    assert (second.before, second.size) == (first, 100)
    del first, second
    third = cache.advance_to(KEY, 3)
    assert (generations(cache), third.size) == ([3, 2], 0)


def test_a_generation_that_is_held_stays_known_however_many_follow_it() -> None:
    cache = SessionCache()
    cache.advance_to(KEY, 1).learn("c\0root", Record({}, {}, None, "run"), {})
    held = cache.held(KEY)
    for generation in range(2, 10):
        cache.advance_to(KEY, generation).learn("c\0other", Record({}, {}, None, "run"), {})
    assert generations(cache) == [9, 8, 1]
    found = cache.last_with(KEY, "c\0root", None)
    assert found is not None
    assert found.generation == 1
    del found, held
    assert generations(cache) == [9, 8]
    cache.advance_to(KEY, 10)
    assert cache.last_with(KEY, "c\0root", 1) is None


def test_generations_in_which_only_subgraphs_went_on_push_out_no_other() -> None:
    cache = SessionCache()
    record = Record({}, {}, None, "run")
    cache.advance_to(KEY, 1).learn("c\0root", record, {})
    for generation in range(2, 100):
        cache.advance_to(KEY, generation).learn("csub\0x", record, {})
    cache.advance_to(KEY, 100)
    assert generations(cache) == [100, 1]


def test_a_generation_begins_while_another_thread_remembers_one_more_checkpoint_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = SessionCache()
    first = cache.advance_to(KEY, 1)
    record = Record({"id": "1"}, {}, None, "run")
    first.learn(checkpoint_name("sub", "1"), record, {})

    def looked_at(name: str) -> bool:
        first.learn(checkpoint_name("sub", f"{len(first.records) + 1}"), record, {})
        return is_root(name)

    monkeypatch.setattr("langchain_ttl_history.cached_session.is_root", looked_at)
    assert cache.advance_to(KEY, 2).generation == 2
    assert generations(cache) == [2, 1]


def test_a_generation_is_found_though_another_thread_begins_a_new_one_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = SessionCache()
    record = Record({}, {}, None, "run")
    first = cache.advance_to(KEY, 1)
    first.learn("c\0root", record, {})
    cache.advance_to(KEY, 2).learn("c\0other", record, {})
    known = cache._known(KEY)
    # Stands for one before them, which is looked up first.
    monkeypatch.setattr(
        known, "_older", (lambda: monkeypatch.setattr(known, "_older", ()) or cache.advance_to(KEY, 3),)
    )
    assert cache.last_with(KEY, "c\0root", None) is first


def test_neither_checkpoints_of_subgraphs_nor_those_of_turns_push_out_all_others() -> None:
    known = SessionCache().advance_to(KEY, 1)
    record = Record({}, {}, None, "run")
    for name in ("c\0root", *(f"csub\0{number}" for number in range(100))):
        known.learn(name, record, {})
    assert [*known.records] == ["c\0root", *(f"csub\0{number}" for number in range(37, 100))]
    for number in range(100):
        known.learn(f"c\0{number}", record, {})
    known.learn("csub\0new", record, {})
    known.learn("csub\0newer", record, {}, "csub\0new", replaces=True)
    left = [*known.records]
    assert left[-1] == "csub\0newer"
    assert [name for name in left if name.startswith("c\0")] == [f"c\0{number}" for number in range(68, 100)]


def test_a_session_that_is_held_stays_known_until_it_is_let_go_or_dropped() -> None:
    cache = SessionCache()
    first = cache.advance_to(KEY, 1)
    first.learn("c\0root", Record({}, {}, None, "run"), {})
    held = cache.held(KEY)
    for number in range(2_000):
        cache.advance_to(SessionKey("bob", f"s{number}"), 1)
    assert cache.last(KEY) is first
    assert cache.generation_of_put(KEY, "c\0root") == 1
    cache.advance_to(KEY, 2)
    assert generations(cache) == [2, 1]
    cache.drop("ada")
    assert cache.last(KEY) is None
    del held
    held = cache.advance_to(KEY, 3).before, cache.held(KEY)
    assert held[0] is None
    del held
    for number in range(2_000):
        cache.advance_to(SessionKey("bob", f"s{number}"), 1)
    assert cache.last(KEY) is None


def test_all_sessions_together_are_bounded_though_each_grows_after_it_was_first_seen() -> None:
    cache = SessionCache()
    keys = [SessionKey("ada", f"s{number}") for number in range(100)]
    for round in range(10):
        for key in keys:
            cache.advance_to(key, 1).bodies.learn(f"{round}", Body(f"a body {round}", None, bytes(100_000)))
            cache.count(key)
        known = [found for found in map(cache.last, keys) if found is not None]
        assert sum(each.size for each in known) <= 32 * 1024 * 1024
    assert len(known) > 20
    others = [SessionKey("bob", f"s{number}") for number in range(3_000)]
    for key in others:
        cache.advance_to(key, 1)
    assert sum(cache.last(key) is not None for key in others) == 1_000


def grown(cache: SessionCache, key: SessionKey, size: int) -> None:
    """A session of which this many bytes more are known."""
    bodies = cache.advance_to(key, 1).bodies
    name = str(len(bodies.by_id))
    bodies.learn(name, Body(f"a body {name}", None, bytes(size)))
    cache.count(key)


def test_as_many_sessions_are_remembered_as_there_is_room_for_however_often_each_came_and_went(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_cache, "_BYTES", 1_000)
    cache = SessionCache()
    keys = [SessionKey("ada", f"s{number}") for number in range(20)]
    held = [cache.held(key) for key in keys if grown(cache, key, 100) is None]
    for key in 3 * keys:  # All are still known, and come back whole.
        grown(cache, key, 0)
    del held
    assert [key for key in keys if cache.last(key) is not None] == keys[-10:]
    # Whoever was used last stays.
    grown(cache, keys[-10], 0)
    grown(cache, keys[0], 200)
    assert [key for key in keys if cache.last(key) is not None] == [keys[0], keys[-10], *keys[-7:]]


def test_of_a_session_that_is_too_large_by_itself_no_more_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_cache, "_BYTES", 1_000)
    cache = SessionCache()
    for _ in range(5):
        grown(cache, KEY, 200)
    known = cache.advance_to(KEY, 1)
    assert known.size == 1_000
    grown(cache, KEY, 1)
    assert cache.last(KEY) is known
    assert cache.advance_to(KEY, 1).size == 0
    assert cache.advance_to(KEY, 1).generation == 1


def test_a_session_counts_that_is_only_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_cache, "_BYTES", 20_000)
    buffer = SessionBuffer(default_user="ada")
    keys = [SessionKey("ada", f"s{number}") for number in range(40)]
    for key in keys:
        config: Any = {"configurable": {"thread_id": key.session_id}}
        buffer.checkpointer().put(config, checkpoint(HumanMessage("x" * 1_000, id="1")), {}, {"messages": 1})
    known = [key for key in keys if buffer._sessions.cache.last(key) is not None]
    assert known == keys[-len(known) :]
    assert 1 < len(known) < 20


def test_what_waits_to_be_freed_and_interrupts_that_wait_are_remembered_in_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting_changes, "_MOST", 3)
    cache, change = SessionCache(), Change(Lease(60.0, None))
    keys = [SessionKey("ada", f"s{number}") for number in range(5)]
    for key in keys:
        cache.plans.keep(key, change)
        cache.early.keep(key, "c", change)
    assert [key for key in keys if cache.plans.take(key) is not None] == keys[2:]
    assert [key for key in keys if cache.early.take(key, "c")] == keys[2:]


def test_what_a_checkpoint_holds_besides_its_conversation_is_remembered_until_its_run_goes_on() -> None:
    known = SessionCache().advance_to(KEY, 1)
    blobs = {"m-said": Blob(b"", ("m-shared",)), "m-shared": Blob(b"12"), "v-long": Blob(b"345")}
    first = Record({}, {}, None, "run", names=("m-shown",), refs=("m-shown", "m-said", "v-long"))
    known.learn("c1", first, {**blobs, "m-shown": Blob(b"shown")})
    assert (known.values, known.size) == ({"c1": blobs}, 5)
    # The next one shares them all, so that its put does not bring them.
    known.learn("c2", first, {}, "c1", replaces=True)
    assert (known.values, [*known.records]) == ({"c2": blobs}, ["c2"])


def test_a_result_goes_to_its_call_that_is_said_again_though_other_sessions_took_the_memory() -> None:
    buffer = SessionBuffer()
    call = AIMessage("", id="call", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
    history = buffer.history("ada", "s1")
    history.add_messages([HumanMessage("look", id="q"), call])
    history.add_messages([HumanMessage("and?", id="next")])
    for number in range(200):
        buffer.history("bob", f"s{number}").add_messages([HumanMessage("hello")])
    history.add_messages([call, ToolMessage("seen", tool_call_id="1", id="result")])
    assert [message.id for message in history.messages] == ["q", "call", "result", "next"]


def test_nothing_of_a_session_that_is_dropped_is_remembered() -> None:
    cache = SessionCache()
    for name in ("s1", "s2"):
        cache.advance_to(SessionKey("ada", name), 1)
        cache.plans.keep(SessionKey("ada", name), Change(Lease(1.0, None)))
        cache.early.keep(SessionKey("ada", name), "c", Change(Lease(1.0, None)))
    cache.drop("ada", "s1")
    assert cache.last(KEY) is None
    assert (cache.plans.take(KEY), [*cache.early.take(KEY, "c")]) == (None, [])
    assert cache.plans.take(SessionKey("ada", "s2")) is not None
    assert len(cache.early.take(SessionKey("ada", "s2"), "c")) == 1


def test_what_edits_replaced_is_remembered_in_bounds_and_counts() -> None:
    known = KnownBodies()
    for number in range(200):
        known.learn("id", Body(content_name(b"%d" % number) + "id", None, bytes(100)))
    assert known.named(content_name(b"198") + "id")
    assert not known.named(content_name(b"100") + "id")
    assert len(known.replaced) == 64
    for number in range(20):
        known.learn(f"other {number}", Body(content_name(b"") + f"other {number}", None, bytes(100)))
    known.settle([content_name(b"199") + "id"])
    assert known.size == (64 + 1) * 100


def test_all_messages_are_remembered_of_the_root_checkpoints_that_runs_put_last() -> None:
    known = SessionCache().advance_to(KEY, 1)
    names = {id: content_name(id.encode()) + id for id in map(str, range(100))}
    for id, name in names.items():
        known.bodies.learn(id, Body(name, None, bytes(100)))
    for id in map(str, range(2, 9)):
        record = Record({}, {}, None, id, names=(names["0"],), refs=(names["0"], names[id]))
        known.learn(checkpoint_name("sub" if id == "8" else "", id), record, {})
    known.settle(record)
    assert [*known.bodies.by_id] == ["0", "4", "5", "6", "7"]
    assert known.size == 500


def test_bodies_that_are_needed_are_looked_through_anew_only_once_there_are_many_more() -> None:
    known = KnownBodies()
    names = [content_name(id.encode()) + id for id in map(str, range(100))]
    for name in names:
        known.learn(name[ID:], Body(name, None, b""))
    known.settle(names[:1], lambda: [names[:60]])
    left = known.by_id
    assert len(left) == 60
    known.settle(names[:1], lambda: [names[:60]])
    assert known.by_id is left


@pytest.mark.parametrize(
    "said",
    [
        lambda number: HumanMessage(f"question {number}", id="same"),
        lambda number: HumanMessage(f"question {number % 3}", id="same"),
        lambda number: ToolMessage(f"result {number}", tool_call_id="call", id="same"),
        lambda number: HumanMessage(f"without an id {number}"),
    ],
    ids=["edited", "edited back and forth", "result", "without an id"],
)
def test_the_bytes_counted_for_a_session_are_those_it_holds(said: Callable[[int], BaseMessage]) -> None:
    codec, bodies = Codec(), KnownBodies()
    for number in range(500):
        bodies.settle(encode_bodies([said(number)], bodies, codec, "here", {}))
        contents = (*bodies.contents, *bodies.waiting)
        remembered = [body.content for body in (*bodies.by_id.values(), *bodies.replaced.values())]
        assert bodies.other_bytes == sum(map(len, (*contents, *remembered)))
