"""Memory keeps the storage contract, and stays within its bounds."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ttl_history.errors import ConfigurationError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage, memory_tombstones
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.types import Blob, Change, Entry, Guard, Lease, Query, Status, Usage
from langchain_ttl_history.testing import Clock, StorageContract
from langchain_ttl_history.urls import open_storage
from tests.shared.one_session import LEASE
from tests.storage.interrupts import interrupted


class TestMemory(StorageContract):
    def make(self, clock: Callable[[], float]) -> Storage:
        return MemoryStorage(clock=clock)


class TestMemoryAsync(TestMemory):
    asynchronous = True


@pytest.mark.parametrize("url", [None, "memory://", "memory:"])
def test_it_is_what_a_url_without_a_place_opens(url: str | None) -> None:
    assert type(open_storage(url)) is MemoryStorage


def key(number: int) -> SessionKey:
    return SessionKey(f"u{number % 3}", f"s{number}")


def holding(size: int = 1, **change: object) -> Change:
    return Change(LEASE, blobs={"b": Blob(b"x" * size)}, **change)  # type: ignore[arg-type]  # fields by name


def numbers(storage: MemoryStorage) -> list[int]:
    return [int(each.session_id[1:]) for each in storage.sessions(None)[0]]


def test_the_least_recently_used_goes_first_when_there_are_too_many(clock: Clock) -> None:
    storage = MemoryStorage(max_sessions=3, clock=clock)
    for number in (0, 1, 2):
        storage.write(key(number), holding())
    storage.read(key(0), Query(lease=LEASE))
    storage.write(key(3), holding())
    assert numbers(storage) == [2, 0, 3]
    storage.write(key(2), holding())
    storage.write(key(4), holding())
    assert numbers(storage) == [3, 2, 4]
    assert storage.read(key(0), Query(outline=True)).generation == 0


def test_looking_and_upkeep_save_nobody_from_eviction(clock: Clock) -> None:
    storage = MemoryStorage(max_sessions=2, clock=clock)
    storage.write(key(0), holding())
    storage.write(key(1), holding())
    storage.read(key(0), Query(outline=True))
    storage.write(key(0), holding(upkeep=True))
    storage.sessions(None)
    storage.write(key(2), holding())
    assert numbers(storage) == [1, 2]


def test_the_least_recently_used_go_first_when_there_are_too_many_bytes(clock: Clock) -> None:
    storage = MemoryStorage(max_bytes=10_000, clock=clock)
    for number in range(4):
        storage.write(key(number), holding(2_000))
    assert numbers(storage) == [0, 1, 2, 3]
    storage.write(key(0), holding(6_500))
    assert numbers(storage) == [3, 0]
    assert storage.usage().bytes <= 10_000


def test_what_an_empty_session_costs_counts_as_well(clock: Clock) -> None:
    storage = MemoryStorage(max_sessions=None, max_bytes=10_000, clock=clock)
    for number in range(1_000):
        storage.write(key(number), Change(LEASE))
    assert 1 < storage.usage().sessions < 100


def test_references_count_until_they_go(clock: Clock) -> None:
    """A checkpoint without a payload of its own may refer to thousands of messages."""
    storage = MemoryStorage(clock=clock)
    refs = ("b",) * 1_000
    storage.write(key(0), holding(append=[("l", b"", ("b",))]))
    before, payload = storage.usage().bytes, storage.read(key(0), Query()).bytes
    storage.write(key(0), Change(LEASE, blobs={"c": Blob(b"", refs)}))
    blob = storage.usage().bytes - before
    assert 8_000 <= blob < 9_000
    storage.write(key(0), Change(LEASE, append=[("l", b"", refs)], place=[("l", Entry(9, b"", refs))]))
    assert storage.usage().bytes == before + blob + 16_000
    assert storage.read(key(0), Query()).bytes == payload
    storage.write(key(0), Change(LEASE, blobs={"c": Blob(b"", refs[1:])}, trim={"l": frozenset({9})}))
    assert storage.usage().bytes == before + blob + 8_000 - 8
    storage.write(key(0), Change(LEASE, drop=["c"], trim={"l": frozenset({2})}))
    assert storage.usage().bytes == before
    storage.write(key(0), Change(LEASE, place=[("new", Entry(20, b"", refs))]))
    storage.write(key(0), Change(LEASE, drop=["new"]))
    assert storage.usage().bytes == before


def test_without_bounds_nobody_is_evicted(clock: Clock) -> None:
    storage = MemoryStorage(max_sessions=None, max_bytes=None, clock=clock)
    for number in range(3):
        storage.write(key(number), holding())
    assert numbers(storage) == [0, 1, 2]


def test_what_fits_exactly_is_kept(clock: Clock) -> None:
    probe = MemoryStorage(clock=clock)
    for number in range(3):
        probe.write(key(number), holding())
    used = probe.usage().bytes
    for bound, kept in ((used, [0, 1, 2]), (used - 1, [1, 2])):
        storage = MemoryStorage(max_sessions=3, max_bytes=bound, clock=clock)
        for number in range(3):
            storage.write(key(number), holding())
        assert numbers(storage) == kept


def test_a_session_is_never_evicted_by_its_own_write(clock: Clock) -> None:
    storage = MemoryStorage(max_bytes=1_000, clock=clock)
    storage.write(key(0), holding())
    assert storage.write(key(1), holding(5_000)).status is Status.STORED
    assert numbers(storage) == [1]
    assert storage.write(key(1), holding(6_000)).status is Status.STORED
    assert len(storage.read(key(1), Query(("b",))).blobs["b"].payload) == 6_000
    storage.write(key(2), holding())
    assert numbers(storage) == [2]


def test_upkeep_of_the_oldest_session_does_not_evict_it(clock: Clock) -> None:
    storage = MemoryStorage(max_bytes=2_000, clock=clock)
    for number in (0, 1):
        storage.write(key(number), holding(300))
    storage.write(key(0), holding(5_000, upkeep=True))
    assert storage.read(key(0), Query()).generation > 0


def test_an_evicted_session_leaves_no_fence_and_comes_back_as_a_new_generation(clock: Clock) -> None:
    storage = MemoryStorage(max_sessions=1, clock=clock)
    old = storage.write(key(0), holding()).generation
    storage.write(key(1), holding())
    assert storage.read(key(0), Query()).fence == 0
    outcome = storage.write(key(0), Change(LEASE, guard=Guard(old)))
    assert outcome.status is Status.STORED
    assert outcome.generation > old


def test_probing_creates_nothing(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    empty = {name: repr(value) for name, value in vars(storage).items()}
    for number in range(50):
        storage.read(key(number), Query(("b",), lease=LEASE, outline=True))
        storage.write(key(number), holding(upkeep=True))
        storage.write(key(number), holding(at_position=7))
        storage.write(key(number), Change(LEASE, append=[("l", b"", ("gone",))]))
        storage.sessions(f"u{number}")
    assert {name: repr(value) for name, value in vars(storage).items()} == empty


def test_tombstones_are_bounded_and_the_oldest_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_tombstones, "_MOST", 5)
    storage = MemoryStorage(clock=clock)
    for number in range(8):
        storage.delete(*key(number), 60.0)
    assert [storage.read(key(number), Query()).fence > 0 for number in range(8)] == [False] * 3 + [True] * 5
    assert len(storage._tombstones._stones) == 5


def test_tombstones_that_ended_are_freed(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    for number in range(8):
        storage.delete(*key(number), 60.0)
    clock.advance(60)
    storage.sweep()
    assert not storage._tombstones._stones


def test_later_writes_free_what_expired(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    for number in range(10):
        storage.write(key(number), holding())
    clock.advance(100)
    assert storage.usage().sessions == 10
    for _ in range(5):
        storage.write(key(99), holding())
    assert storage.usage().sessions == 1
    assert storage.sweep() == 0


def idle(seconds: float | None) -> Change:
    return Change(Lease(seconds, None), blobs={"b": Blob(b"x")}, idle_ttl=seconds)


def test_nobody_is_evicted_while_what_expired_holds_the_room(clock: Clock) -> None:
    storage = MemoryStorage(max_sessions=5, clock=clock)
    for number, seconds in enumerate([10_000.0, None, 10.0, 10.0, 10.0]):
        storage.write(key(number), idle(seconds))
    clock.advance(10)
    for number in (5, 6, 7):
        storage.write(key(number), idle(100.0))
    assert numbers(storage) == [0, 1, 5, 6, 7]
    storage.write(key(8), idle(100.0))
    assert numbers(storage) == [1, 5, 6, 7, 8]


def test_nobody_is_evicted_for_bytes_while_what_expired_holds_them(clock: Clock) -> None:
    storage = MemoryStorage(max_bytes=10_000, clock=clock)
    storage.write(key(0), idle(None))
    for number in range(1, 5):
        storage.write(key(number), holding(1_900))
    clock.advance(1_000)
    storage.write(key(5), holding(7_000))
    assert numbers(storage) == [0, 5]


def test_what_expired_is_freed_behind_what_lives_on(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    storage.write(key(0), idle(None))
    for number in range(1, 10):
        storage.write(key(number), idle(10.0))
    clock.advance(10)
    for _ in range(5):
        storage.write(key(0), idle(None))
    assert storage.usage().sessions == 1


steps = st.one_of(
    st.tuples(st.just("advance"), st.integers(1, 60)),
    st.tuples(st.sampled_from(["use", "delete"]), st.integers(0, 3)),
    st.tuples(st.sampled_from([None, 5.0, 50.0]), st.integers(0, 3)),
    st.tuples(st.sampled_from([None, 5.0, 50.0]), st.integers(0, 3)),
)


@settings(max_examples=500)
@given(st.lists(steps, min_size=5, max_size=40))
def test_only_what_lives_on_counts_when_there_are_too_many(steps: list[tuple[str | float | None, int]]) -> None:
    clock = Clock()
    storage = MemoryStorage(max_sessions=2, clock=clock)
    lives: dict[int, tuple[float | None, float]] = {}  # Idle time and deadline, the least recently used first.

    def use(number: int, seconds: float | None) -> None:
        lives.pop(number, None)
        lives[number] = seconds, math.inf if seconds is None else clock.now + seconds

    for step, number in steps:
        if step == "advance":
            clock.advance(number)
            lives = {each: (seconds, until) for each, (seconds, until) in lives.items() if until > clock.now}
        elif step == "use":
            storage.read(key(number), Query(lease=LEASE))
            if number in lives:
                use(number, lives[number][0])
        elif step == "delete":
            storage.delete(*key(number), 1.0)
            lives.pop(number, None)
        else:
            assert not isinstance(step, str)
            storage.write(key(number), idle(step))
            use(number, step)
            if len(lives) > 2:
                del lives[next(iter(lives))]
        assert numbers(storage) == [*lives]
    clock.advance(100)
    storage.sweep()
    assert storage.usage().sessions == sum(seconds is None for seconds, _ in lives.values())


def test_the_queue_of_what_expires_stays_as_short_as_the_sessions_are_many(clock: Clock) -> None:
    storage = MemoryStorage(max_sessions=100, clock=clock)
    for number in range(1_000):
        storage.write(key(number), idle(1_000.0))
        storage.write(key(number), idle(500.0))
    assert len(storage._expiry._heap) <= 300


def test_a_use_that_puts_off_the_end_leaves_the_queue_as_it_is(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    for _ in range(10):
        storage.write(key(0), idle(500.0))
        clock.advance(1)
    assert len(storage._expiry._heap) == 1


def test_what_expires_is_found_in_a_queue_that_was_made_anew(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    lives = [idle(seconds) for seconds in (None, 900.0, 200.0, 800.0, 300.0, 600.0, 100.0, 700.0)]
    for number, life in enumerate(lives):
        storage.write(key(number), life)
    storage.write(key(1), idle(1_000.0))
    before = storage._expiry._heap
    for seconds in range(200, 100, -1):
        storage.write(key(2), idle(seconds))
    assert storage._expiry._heap is not before
    # Sooner than it would have been when the queue was made anew, and later than when it was put in at first.
    storage.write(key(1), idle(950.0))
    for seconds, left in ((100, [0, 3, 4, 5, 7, 2, 1]), (300, [0, 3, 5, 7, 1]), (949, [0, 1]), (950, [0])):
        clock.now = 1_700_000_000.0 + seconds
        storage.sweep()
        assert numbers(storage) == left
        assert storage.usage().sessions == len(left)


def test_nothing_is_left_of_what_was_deleted_but_a_digest(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    secret = SessionKey("user-secret", "session-secret")
    storage.write(secret, Change(LEASE, blobs={"b": Blob(b"said-secret")}, append=[("l", b"said-secret", ())]))
    storage.delete(*secret, 60.0)
    assert "secret" not in repr(vars(storage))
    assert storage.usage() == Usage(0, 0)


def test_bytes_are_given_back_to_the_last_one(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    for number in range(9):
        storage.write(key(number), Change(LEASE, blobs={"b": Blob(b"1")}, append=[("l", b"2", ("b",))]))
    storage.write(key(0), Change(LEASE, drop=["b"], trim={"l": frozenset({1})}))
    storage.delete(*key(1), 60.0)
    storage.delete("u2", None, 60.0)
    clock.advance(100)
    storage.read(key(3), Query())
    storage.sweep()
    assert storage.usage() == Usage(0, 0)
    assert not storage._users


def test_closing_keeps_the_sessions_for_who_still_holds_the_storage(clock: Clock) -> None:
    storage = MemoryStorage(clock=clock)
    storage.write(key(0), holding())
    storage.close()
    storage.close()
    assert storage.read(key(0), Query(("b",))).blobs


@pytest.mark.parametrize("bound", [0, -1, True, 1.5, "3", float("nan")])
@pytest.mark.parametrize("name", ["max_sessions", "max_bytes"])
def test_a_bound_is_a_whole_number_of_at_least_one(name: str, bound: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        MemoryStorage(**{name: bound})  # type: ignore[arg-type]  # a wrong type is the test


def test_its_own_clock_is_the_time_and_starts_no_thread() -> None:
    threads = threading.active_count()
    storage = MemoryStorage()
    storage.write(key(0), holding())
    first = storage.read(key(0), Query()).now
    assert abs(first - time.time()) < 60
    assert storage.read(key(0), Query()).now >= first
    assert threading.active_count() == threads
    del storage
    gc.collect()


def test_appends_from_many_threads_all_arrive() -> None:
    storage = MemoryStorage()

    def append() -> None:
        for _ in range(200):
            storage.write(key(0), Change(LEASE, append=[("l", b"x", ())]))

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = storage.read(key(0), Query(("l",))).lists["l"]
    assert [entry.position for entry in entries] == list(range(1, 801))


class Counted(bytes):
    """A payload that counts how often its length was asked for."""

    asked = 0

    def __len__(self) -> int:
        Counted.asked += 1
        return super().__len__()


def test_placing_many_entries_looks_at_each_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "asked", 0)
    placed = [(name, Entry(position, Counted(b"new"))) for position in range(300, 0, -1) for name in ("l", "k")]
    storage = MemoryStorage()
    storage.write(key(1), Change(LEASE, append=[("l", Counted(b"old"), ())] * 100))
    storage.write(key(1), Change(LEASE, place=[*placed, ("l", Entry(7, Counted(b"newest")))]))
    assert Counted.asked < 10 * len(placed)
    found = storage.read(key(1), Query(("l", "k")))
    assert [entry.position for entry in found.lists["l"]] == [*range(1, 301)]
    assert [entry.payload for entry in found.lists["l"]] == [b"new"] * 6 + [b"newest"] + [b"new"] * 293
    assert [entry.payload for entry in found.lists["k"]] == [b"new"] * 300
    assert (found.position, found.bytes) == (300, 600 * 3 + 3)


FILES = ("memory.py", "memory_session.py", "memory_expiry.py")


def test_a_write_that_is_interrupted_anywhere_leaves_nothing_that_refers_to_what_is_gone() -> None:
    first = Change(LEASE, blobs={"m1": Blob(b"1"), "m2": Blob(b"2")}, append=[("l", b"", ("m1",)), ("l", b"", ("m2",))])
    second = Change(
        LEASE,
        blobs={"m3": Blob(b"3")},
        append=[("l", b"", ("m3",))],
        drop=["m1"],
        trim={"l": frozenset({1})},
    )
    step, done = 0, False
    while not done:
        storage = MemoryStorage()
        storage.write(key(1), first)
        done = not interrupted(partial(storage.write, key(1), second), step, *FILES)
        step += 1
        found = storage.read(key(1), Query(outline=True))
        assert {ref for entry in found.lists["l"] for ref in entry.refs} <= set(found.blobs)
        assert storage.write(key(1), Change(LEASE, append=[("l", b"", ("m2",))])).status is Status.STORED
    assert step > 20


@pytest.mark.parametrize("age", [None, 1, 1_000], ids=["new", "live", "expired"])
@pytest.mark.parametrize("verb", ["read", "write", "delete", "sweep"])
def test_a_session_that_a_call_is_interrupted_on_is_whole_or_gone_and_expires(verb: str, age: int | None) -> None:
    change = Change(LEASE, blobs={"m1": Blob(b"1"), "m2": Blob(b"2", ("m1",))}, append=[("l", b"", ("m1", "m2"))])
    step, done = 0, False
    while not done:
        clock = Clock()
        storage = MemoryStorage(clock=clock)
        calls: dict[str, Callable[[], object]] = {
            "read": partial(storage.read, key(1), Query(("m2",), lease=LEASE)),
            "write": partial(storage.write, key(1), change),
            "delete": partial(storage.delete, *key(1), 60.0),
            "sweep": storage.sweep,
        }
        if age is not None:
            storage.write(key(1), change)
            clock.advance(age)
        done = not interrupted(calls[verb], step, *FILES)
        step += 1
        found = storage.read(key(1), Query(outline=True))
        assert set(found.blobs) in (set(), {"m1", "m2"})
        assert not found.generation or found.expires_at is not None
        clock.advance(1_000_000)
        storage.sweep()
        assert storage.usage() == (0, 0), f"step {step}"
        storage.write(key(2), change)
        assert {*storage._expiry._keys.values()} == {key(2)}, f"step {step}"
    assert step > 5


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts its sleep")
def test_a_session_grows_old_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    since_boot = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: 500.0)  # As while it sleeps.
    monkeypatch.setattr(time, "clock_gettime", lambda which: since_boot if which == time.CLOCK_BOOTTIME else 500.0)
    storage = MemoryStorage()
    storage.write(key(1), Change(Lease(60.0, None), blobs={"m1": Blob(b"text")}))
    since_boot += 59
    assert storage.read(key(1), Query()).generation
    since_boot += 2
    assert not storage.read(key(1), Query()).generation
