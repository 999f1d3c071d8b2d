"""Sessions in Redis of any size and age cost what is new."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
import redis
from langchain_core.messages import HumanMessage

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.types import Blob, Change, Entry, Guard, Lease, Query, Status
from langchain_ttl_history.testing import Clock
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import assert_counts, context_of, keys_of, moved, told


def test_a_write_and_a_read_may_be_larger_than_luas_stack(storage: RedisStorage, admin: redis.Redis) -> None:
    blobs = {f"m{number}": Blob(b"%d" % number) for number in range(20_000)}
    change = Change(LEASE, blobs=blobs, append=[("log", b"", (name,)) for name in blobs])
    change.append = [*change.append, ("all", b"", tuple(blobs))]
    outcome = storage.write(KEY, change)
    assert (outcome.weights["log"], outcome.weights["all"]) == (40_000, 20_001)
    found = storage.read(KEY, Query(("log", "all"), ("m",)))
    positions = [entry.position for name in ("log", "all") for entry in found.lists[name]]
    assert positions == sorted({*positions})
    assert positions[-1] == outcome.position
    assert found.blobs == blobs
    assert [entry.refs for entry in found.lists["log"]] == [(name,) for name in blobs]
    assert found.lists["all"][0].refs == tuple(blobs)
    assert storage.read(KEY, Query(outline=True)).blobs == blobs
    context_of(storage).numbers.forget(*KEY)
    by_name = storage.write(KEY, Change(LEASE, blobs={"c": Blob(b"", tuple(blobs))}))
    assert by_name.status is Status.STORED
    storage.write(KEY, Change(LEASE, drop=[*blobs, "c", "all"], trim={"log": frozenset(positions)}))
    left = storage.read(KEY, Query(outline=True))
    assert (left.blobs, left.lists, left.bytes) == ({}, {}, 0)
    _, session = keys_of(storage)
    assert_counts(admin.hgetall(session))
    assert admin.hlen(session) < 10


@pytest.mark.parametrize("blob", [Blob(b"c", mark=1), Blob(b"c", also=("w", "x"))], ids=["mark", "also"])
def test_a_blob_that_refers_to_nothing_keeps_the_rest_of_what_it_has(storage: RedisStorage, blob: Blob) -> None:
    storage.write(KEY, Change(LEASE, append=[("log", b"1", ()), ("log", b"2", ())]))
    others = {"w": Blob(b"w"), "x": Blob(b"x")}
    storage.write(KEY, Change(LEASE, blobs={**others, "c": blob}))
    found = storage.read(KEY, Query(("c",), ("w",), after_mark=("log", "c")))
    assert found.blobs == {"c": blob, **{name: others[name] for name in blob.also if name == "w"}}
    assert [entry.payload for entry in found.lists["log"]] == [b"1", b"2"][blob.mark :]


def test_entries_that_are_placed_among_others_give_no_position_twice(storage: RedisStorage) -> None:
    storage.write(KEY, Change(LEASE, append=[("log", b"%d" % number, ()) for number in range(1, 6)]))
    assert storage.write(KEY, Change(LEASE, place=[("log", Entry(2, b"two"))])).position == 5
    assert storage.write(KEY, Change(LEASE, append=[("log", b"6", ())])).position == 6
    (entries,) = storage.read(KEY, Query(("log",))).lists.values()
    assert [(entry.position, entry.payload) for entry in entries] == [
        (1, b"1"), (2, b"two"), (3, b"3"), (4, b"4"), (5, b"5"), (6, b"6"),
    ]  # fmt: skip


def test_what_a_write_needs_counts_while_a_tombstone_stands(storage: RedisStorage, clock: Clock) -> None:
    def add(**change: Any) -> Status:
        return storage.write(KEY, Change(Lease(None, None), append=[("log", b"1", ())], **change)).status

    assert [add(), add(guard=Guard(needs="gone"))] == [Status.STORED] * 2
    old = storage.read(KEY, Query()).generation
    storage.delete(*KEY, 50.0)
    assert add() is Status.STORED
    for guard in (Guard(needs="gone"), Guard(old)):
        assert add(guard=guard) is Status.DELETED
    assert storage.read(KEY, Query()).fence >= old
    clock.advance(51)
    assert storage.read(KEY, Query()).fence == 0
    for guard in (Guard(needs="gone"), Guard(old)):
        assert add(guard=guard) is Status.STORED


@pytest.mark.parametrize("longest", ["session", "user"])
def test_of_a_sessions_tombstone_and_its_users_the_one_that_stands_longer_counts(
    storage: RedisStorage, clock: Clock, longest: str
) -> None:
    old = storage.write(KEY, Change(LEASE)).generation
    storage.delete(*KEY, 500.0 if longest == "session" else 50.0)
    storage.delete("ada", None, 500.0 if longest == "user" else 50.0)
    storage.write(KEY, Change(Lease(None, None), append=[("log", b"1", ())]))
    clock.advance(100)
    assert storage.write(KEY, Change(LEASE, Guard(old), append=[("log", b"2", ())])).status is Status.DELETED
    clock.advance(401)
    assert storage.write(KEY, Change(LEASE, Guard(old), append=[("log", b"2", ())])).status is Status.STORED


def test_what_is_done_at_an_end_of_a_long_list_costs_what_is_new(storage: RedisStorage, admin: redis.Redis) -> None:
    entry = ("log", b"x" * 100, ())
    cost: dict[int, list[int]] = {}
    for size in (50, 3_000):
        storage.write(KEY, Change(LEASE, append=[entry] * size))
        (entries,) = storage.read(KEY, Query(("log",))).lists.values()
        storage.write(KEY, Change(LEASE, blobs={"h": Blob(b"", mark=entries[-1].position)}))
        changes = [Change(LEASE, append=[entry]) for _ in range(20)]
        oldest = Change(LEASE, trim={"log": frozenset(each.position for each in entries[:3])})
        cost[size] = [
            moved(admin, lambda: [storage.write(KEY, each) for each in changes]),  # noqa: B023  # called at once
            moved(admin, lambda: storage.read(KEY, Query(after_mark=("log", "h")))),
            moved(admin, lambda: storage.write(KEY, oldest)),  # noqa: B023  # likewise
        ]
    for short, long in zip(*cost.values(), strict=True):
        assert long <= 2 * short


def test_what_is_referred_to_twice_is_sent_once(storage: RedisStorage, another: Callable[[], RedisStorage]) -> None:
    blobs = {"m": Blob(b"m" * 10_000), "a": Blob(b"", ("m",)), "b": Blob(b"", ("m",)), "c": Blob(b"", ("a", "b"))}
    storage.write(KEY, Change(LEASE, blobs=blobs))
    found, size = told(another(), Query(("c",), ("a", "b", "m")))
    assert found.blobs == blobs
    assert size < 20_000


@pytest.mark.parametrize("mark", range(5))
def test_entries_of_any_size_are_read_after_a_mark(storage: RedisStorage, mark: int) -> None:
    storage.write(KEY, Change(LEASE, blobs={"h": Blob(b"", mark=mark)}))
    texts = [b"a" * 3_000, b"b", b"c" * 3_000, b"d"]
    for text in texts:
        storage.write(KEY, Change(LEASE, append=[("log", text, ())]))
    (entries,) = storage.read(KEY, Query(after_mark=("log", "h"))).lists.values()
    assert [entry.payload for entry in entries] == texts[mark:]


def test_what_a_change_appends_in_parts_and_trims_leaves_the_rest(storage: RedisStorage, admin: redis.Redis) -> None:
    storage.write(KEY, Change(LEASE, append=[("log", b"1", ())]))
    texts = [b"%d" % number * 400 for number in range(2, 8)]
    storage.write(KEY, Change(LEASE, append=[("log", text, ()) for text in texts], trim={"log": frozenset({1, 2, 4})}))
    (entries,) = storage.read(KEY, Query(("log",))).lists.values()
    assert [(entry.position, entry.payload[:1]) for entry in entries] == [(3, b"3"), (5, b"5"), (6, b"6"), (7, b"7")]
    assert_counts(admin.hgetall(keys_of(storage)[1]))


def test_a_list_is_read_without_the_part_that_was_trimmed_from_its_middle(storage: RedisStorage) -> None:
    for number in range(1, 7):
        storage.write(KEY, Change(LEASE, append=[("log", b"%d" % number * 900, ())]))
    storage.write(KEY, Change(LEASE, trim={"log": frozenset({3})}))
    for query in (Query(("log",)), Query(after_mark=("log", "h")), Query(outline=True)):
        (entries,) = storage.read(KEY, query).lists.values()
        assert [(entry.position, entry.payload[:1]) for entry in entries] == [
            (1, b"1"), (2, b"2"), (4, b"4"), (5, b"5"), (6, b"6"),
        ]  # fmt: skip


def test_a_list_that_is_trimmed_for_ever_forgets_the_parts_that_went(storage: RedisStorage, admin: redis.Redis) -> None:
    for number in range(1, 101):
        storage.write(KEY, Change(LEASE, append=[("log", b"x" * 600, ())], trim={"log": frozenset({number - 5})}))
    _, session = keys_of(storage)
    _, _, first, after = struct.unpack_from(">IIII", admin.hget(session, b"llog") or b"")
    assert first > 90
    assert after - first <= 5
    (entries,) = storage.read(KEY, Query(("log",))).lists.values()
    assert [entry.position for entry in entries] == [*range(96, 101)]


def test_the_weight_of_each_list_is_told_by_its_name(storage: RedisStorage) -> None:
    storage.write(KEY, Change(LEASE, blobs={"m": Blob(b"m")}))
    entries = [("log", b"1", ()), ("log", b"2", ("m",)), ("w", b"3", ())]
    assert storage.write(KEY, Change(LEASE, append=entries)).weights == {"log": 3, "w": 1}


def test_an_append_to_a_session_of_50_000_messages_costs_what_is_new(storage: RedisStorage, admin: redis.Redis) -> None:
    buffer = SessionBuffer(storage, retention=Retention(max_messages=None, max_bytes=None))
    history = buffer.history("ada", "long")

    def add() -> None:
        for _ in range(50):
            history.add_messages([HumanMessage("new")])

    cost: dict[int, int] = {}
    total = 0
    for size in (100, 49_850):
        for start in range(0, size, 5_000):
            history.add_messages([HumanMessage(f"{start + each}") for each in range(min(5_000, size - start))])
        total += size
        cost[total] = moved(admin, add)
        total += 50
    assert cost[50_000] <= 2.5 * cost[100]
    assert len(history.messages) == 50_050
    # What is after a mark is read without what is before it.
    key = SessionKey("ada", "long")
    (last,) = storage.read(key, Query(("log",))).lists["log"][-1:]
    storage.write(key, Change(LEASE, blobs={"h": Blob(b"", mark=last.position - 1)}))
    found: list[Entry] = []

    def read() -> None:
        found.extend(storage.read(key, Query(after_mark=("log", "h"), follow=("m",))).lists["log"])

    assert moved(admin, read) < 3 * cost[50_000] / 50
    assert len(found) == 1


def test_what_was_dropped_leaves_nothing_behind_however_long_a_session_lives(
    storage: RedisStorage, admin: redis.Redis
) -> None:
    """A conversation whose window moves on: messages, a checkpoint for each, and a log."""
    _, session = keys_of(storage)
    names: list[str] = []
    sizes = []
    for number in range(1_500):
        names.append(f"m{number}")
        gone = names[:-40]
        names = names[-40:]
        drop = [*gone, f"c{number - 10}"] if number >= 10 else []
        change = Change(
            LEASE,
            blobs={
                names[-1]: Blob(b"x" * 50),
                f"c{number}": Blob(b"", tuple(names)),
                "h": Blob(b"", (f"c{number}",), number),
            },
            append=[("log", b"", (names[-1],))],
            drop=drop,
            trim={"log": frozenset({number - 30})},
        )
        assert storage.write(KEY, change).status is Status.STORED
        if number % 100 == 99:
            assert_counts(admin.hgetall(session))
            sizes.append(admin.memory_usage(session, samples=0))
    assert max(sizes[2:]) < 1.15 * min(sizes[2:])
    found = storage.read(KEY, Query(("h",), ("c", "m")))
    assert found.blobs["c1499"].refs == tuple(names)
    assert {*names} < {*found.blobs}


def test_references_to_what_was_dropped_keep_their_names(storage: RedisStorage) -> None:
    storage.write(KEY, Change(LEASE, blobs={"m1": Blob(b"1"), "m2": Blob(b"2"), "c": Blob(b"", ("m1", "m2", "m1"))}))
    storage.write(KEY, Change(LEASE, drop=["m1"]))
    for query in (Query(("c",)), Query(("c",), ("m",)), Query(outline=True)):
        assert storage.read(KEY, query).blobs["c"].refs == ("m1", "m2", "m1")
    again = storage.write(KEY, Change(LEASE, blobs={"m1": Blob(b"again")}))
    assert again.status is Status.STORED
    assert storage.read(KEY, Query(("c",), ("m",))).blobs["m1"].payload == b"again"


def test_many_sessions_of_one_user_are_listed_in_pages(storage: RedisStorage, clock: Clock) -> None:
    keys = [SessionKey("ada", f"s{number}") for number in range(12_000)]
    for key in keys:
        storage.write(key, Change(LEASE))
    storage.delete(*keys[0], 60.0)
    pages: list[list[SessionKey]] = []
    after: str | None = None
    while after is not None or not pages:
        page, after = storage.sessions("ada", after)
        pages.append(page)
    assert len(pages) > 1
    assert {key for page in pages for key in page} == {*keys[1:]}
    assert storage.usage().sessions == 11_999
    clock.advance(200)
    assert storage.sweep() == 11_999
    assert storage.usage() == (0, 0)


def test_entries_may_be_placed_at_any_position_in_a_list_of_many_parts(storage: RedisStorage) -> None:
    """Longer than one part of a list, so that parts are made, found again and dropped."""
    size = 300
    expected = {}
    for number in range(size):
        outcome = storage.write(KEY, Change(LEASE, append=[("k", b"", ()), ("l", b"%d" % number * 20, ())]))
        expected[outcome.position] = b"%d" % number * 20

    def check() -> None:
        found = storage.read(KEY, Query(("l",)))
        assert {entry.position: entry.payload for entry in found.lists["l"]} == expected
        assert [entry.position for entry in found.lists["l"]] == sorted(expected)
        assert storage.read(KEY, Query(outline=True)).lists["l"] == found.lists["l"]
        assert found.bytes == sum(map(len, expected.values()))
        for mark in (0, 1, 299, 301, 598, 599, 1_000):
            storage.write(KEY, Change(LEASE, blobs={"h": Blob(b"", mark=mark)}))
            after = storage.read(KEY, Query(after_mark=("l", "h"))).lists["l"]
            assert [entry.position for entry in after] == [each for each in sorted(expected) if each > mark]

    check()

    def placed(at: int) -> tuple[str, Entry]:
        return "l", Entry(at, b"placed")

    storage.write(KEY, Change(LEASE, place=[placed(2), placed(301), placed(2_000)]))
    expected |= dict.fromkeys((2, 301, 2_000), b"placed")
    check()
    gone = frozenset(range(1, 400))
    storage.write(KEY, Change(LEASE, trim={"l": gone}))
    expected = {at: payload for at, payload in expected.items() if at not in gone}
    check()
