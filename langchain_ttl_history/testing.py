"""The storage contract as a suite of tests, for whoever writes a storage of their own.

Subclass `StorageContract` once for the verbs and once for their async twins, and let pytest
collect it, with pytest-asyncio in auto mode (or any other runner of async test methods):

```python
class TestMyStorage(StorageContract):
    def make(self, clock):
        return MyStorage(clock=clock)


class TestMyStorageAsync(TestMyStorage):
    asynchronous = True
```
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from langchain_ttl_history.errors import StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import (
    Blob,
    Change,
    Entry,
    Guard,
    Lease,
    Outcome,
    Query,
    Snapshot,
    Status,
    Storage,
    Usage,
)

__all__ = ["Clock", "StorageContract"]

_KEY = SessionKey("ada", "s1")
_OTHERS = (SessionKey("ada", "s2"), SessionKey("bob", "s1"))
_IDLE = 100.0
_LEASE = Lease(_IDLE, None)


class Clock:
    """A clock that moves only when it is told to: seconds since the epoch."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class StorageContract:
    """What every storage promises, a sentence a test.

    Attributes:
        asynchronous: Whether the async twins are tested.
        slack: By which part of its idle time a session may live longer.
    """

    asynchronous = False
    slack = 0.0

    def make(self, clock: Callable[[], float]) -> Storage:
        """A fresh, empty storage that goes by this clock."""
        raise NotImplementedError  # The one thing a storage's own suite has to say.

    def make_broken(self, clock: Callable[[], float]) -> Storage | None:
        """A storage that cannot answer; None if there is no such thing."""
        return None

    def setup_method(self) -> None:
        """Open a storage for each test."""
        self.clock = Clock()
        self.storage = self.make(self.clock)

    def teardown_method(self) -> None:
        """Let go of it."""
        self.storage.close()

    async def call(self, verb: str, *arguments: Any, of: Storage | None = None) -> Any:
        """What a verb, or its async twin, answers."""
        answer = getattr(of or self.storage, "a" * self.asynchronous + verb)(*arguments)
        return await answer if inspect.isawaitable(answer) else answer

    async def read(self, *names: str, key: SessionKey = _KEY, **query: Any) -> Snapshot:
        """Read one session, by default as an onlooker."""
        snapshot: Snapshot = await self.call("read", key, Query(names, **query))
        return snapshot

    async def write(self, key: SessionKey = _KEY, lease: Lease = _LEASE, **change: Any) -> Outcome:
        """Change one session."""
        outcome: Outcome = await self.call("write", key, Change(lease, **change))
        return outcome

    async def listed(self, user_id: str | None = None) -> list[SessionKey]:
        """The keys of all pages."""
        keys, after = await self.call("sessions", user_id)
        while after is not None:
            page, after = await self.call("sessions", user_id, after)
            keys += page
        return list(keys)

    async def expect_absent(self, key: SessionKey = _KEY) -> None:
        """Nothing tells that there ever was such a session, except for a fence."""
        found = await self.read(key=key, outline=True)
        assert (found.generation, found.position, found.bytes) == (0, 0, 0)
        assert (found.blobs, found.lists, found.expires_at) == ({}, {}, None)
        assert key not in await self.listed()
        assert key not in await self.listed(key.user_id)

    # Blobs and lists

    async def test_a_blob_is_set_whole(self) -> None:
        await self.write(blobs={"b": Blob(b"1"), "x": Blob(b"old", ("b",), 7, ("list",))})
        assert (await self.read("x")).blobs == {"x": Blob(b"old", ("b",), 7, ("list",))}
        await self.write(blobs={"x": Blob(b"\x00new")})
        assert (await self.read("x")).blobs == {"x": Blob(b"\x00new")}

    async def test_a_list_keeps_its_entries_in_the_order_they_arrived(self) -> None:
        await self.write(append=[("l", b"1", ()), ("l", b"2", ())])
        await self.write(append=[("l", b"", ())])
        assert [entry.payload for entry in (await self.read("l")).lists["l"]] == [b"1", b"2", b""]

    async def test_a_read_gives_what_it_names_and_leaves_out_what_is_not_stored(self) -> None:
        await self.write(blobs={"b": Blob(b"1"), "c": Blob(b"2")}, append=[("l", b"3", ())])
        found = await self.read("b", "gone")
        assert (set(found.blobs), set(found.lists)) == ({"b"}, set())

    async def test_sessions_are_apart(self) -> None:
        await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ())])
        for key in _OTHERS:
            await self.expect_absent(key)
            outcome = await self.write(key, blobs={"b": Blob(b"other")})
            assert (outcome.position, outcome.bytes) == (0, 5)
        assert (await self.read("b")).blobs == {"b": Blob(b"1")}

    async def test_any_characters_make_a_key_of_their_own(self) -> None:
        parts = [("a:b", "c"), ("a", "b:c"), ("a*", "{c}"), ("a", "*"), ("{a}", "🙂"), ("a", "b")]
        keys = [SessionKey(*each) for each in parts]
        for key in keys:
            await self.write(key, blobs={"b": Blob(repr(key).encode())})
        for key in keys:
            assert (await self.read("b", key=key)).blobs["b"].payload == repr(key).encode()
        assert sorted(await self.listed()) == sorted(keys)

    async def test_what_is_dropped_or_trimmed_is_gone(self) -> None:
        await self.write(blobs={"b": Blob(b"1"), "c": Blob(b"22")})
        await self.write(append=[("l", b"1", ()), ("l", b"2", ()), ("k", b"3", ())])
        outcome = await self.write(drop=["b", "k", "gone"], trim={"l": frozenset({1, 99})})
        found = await self.read(outline=True)
        assert found.blobs == {"c": Blob(b"22")}
        assert {name: list(entries) for name, entries in found.lists.items()} == {"l": [Entry(2, b"2")]}
        assert (outcome.bytes, dict(outcome.weights), found.bytes) == (3, {"l": 1}, 3)

    async def test_a_write_answers_with_the_sizes_after_it(self) -> None:
        outcome = await self.write(blobs={"b": Blob(b"12")}, append=[("l", b"3", ("b",)), ("l", b"", ())])
        found = await self.read()
        assert (outcome.status, outcome.generation) == (Status.STORED, found.generation)
        assert (outcome.position, outcome.bytes, dict(outcome.weights)) == (2, 3, {"l": 3})
        assert (found.position, found.bytes) == (2, 3)

    # Positions

    async def test_positions_count_up_through_the_whole_session(self) -> None:
        await self.write(append=[("l", b"", ()), ("k", b"", ())])
        await self.write(append=[("l", b"", ())])
        found = await self.read("l", "k")
        assert [entry.position for entry in (*found.lists["l"], *found.lists["k"])] == [1, 3, 2]

    async def test_positions_never_repeat_within_a_generation(self) -> None:
        await self.write(append=[("l", b"1", ()), ("l", b"2", ())])
        assert (await self.write(drop=["l"])).position == 2
        assert (await self.write(append=[("l", b"3", ())])).position == 3

    async def test_an_entry_placed_at_a_position_replaces_the_one_there(self) -> None:
        await self.write(append=[("l", b"1", ()), ("l", b"2", ())])
        await self.write(place=[("l", Entry(1, b"new")), ("k", Entry(2, b"other")), ("l", Entry(9, b"far"))])
        found = await self.read("l", "k")
        assert list(found.lists["l"]) == [Entry(1, b"new"), Entry(2, b"2"), Entry(9, b"far")]
        assert list(found.lists["k"]) == [Entry(2, b"other")]
        assert (await self.write(append=[("l", b"", ())])).position == 10

    # References

    async def test_a_read_follows_references_of_the_letters_it_names_to_any_depth(self) -> None:
        await self.write(blobs={"m1": Blob(b"1"), "m2": Blob(b"2", ("m1", "v1")), "v1": Blob(b"3"), "m9": Blob(b"")})
        await self.write(blobs={"c": Blob(b"", ("m2",))}, append=[("l", b"", ("m2",))])
        for name in ("c", "l"):
            assert {*(await self.read(name, follow=("m",))).blobs} - {name} == {"m1", "m2"}
            assert {*(await self.read(name, follow=("m", "v"))).blobs} - {name} == {"m1", "m2", "v1"}
            assert {*(await self.read(name)).blobs} - {name} == set()

    async def test_a_read_follows_what_belongs_to_a_blob_if_it_is_stored(self) -> None:
        blobs = {"h": Blob(b"", also=("w1", "w2", "m2")), "m1": Blob(b"1"), "m2": Blob(b"2")}
        assert (await self.write(blobs=blobs, append=[("w1", b"", ("m1",))])).status is Status.STORED
        found = await self.read("h", follow=("w", "m"))
        assert (set(found.blobs), set(found.lists)) == ({"h", "m1", "m2"}, {"w1"})

    async def test_a_write_whose_references_are_missing_stores_nothing_and_names_them(self) -> None:
        await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ())])
        before = await self.read(outline=True)
        self.clock.advance(1)
        bad = ("b", "new", "gone")
        for refs, append in ((bad, []), ((), [("l", b"", bad)])):
            blobs = {"new": Blob(b"2"), "x": Blob(b"", refs)}
            outcome = await self.write(blobs=blobs, append=append, drop=["l"], trim={"l": {1}}, idle_ttl=None)
            assert (outcome.status, outcome.missing) == (Status.MISSING, frozenset({"gone"}))
        assert (await self.write(place=[("l", Entry(1, b"", ("gone",)))])).missing == {"gone"}
        after = await self.read(outline=True)
        after.now = before.now
        assert after == before
        assert (await self.write(_OTHERS[0], blobs={"b": Blob(b"", ("gone",))})).status is Status.MISSING
        await self.expect_absent(_OTHERS[0])

    async def test_a_blob_lives_until_it_is_dropped_whether_or_not_anything_refers_to_it(self) -> None:
        await self.write(blobs={"m": Blob(b"1"), "c": Blob(b"", ("m",))})
        await self.write(drop=["c"])
        assert set((await self.read("m")).blobs) == {"m"}
        await self.write(blobs={"c": Blob(b"", ("m",))})
        await self.write(drop=["m"])
        assert set((await self.read("c", follow=("m",))).blobs) == {"c"}

    async def test_a_read_can_begin_after_the_mark_of_a_blob(self) -> None:
        await self.write(blobs={"m1": Blob(b""), "m2": Blob(b""), "h": Blob(b"", mark=1)})
        await self.write(append=[("l", b"", ("m1",)), ("l", b"", ("m2",))])
        found = await self.read(after_mark=("l", "h"), follow=("m",))
        assert ([entry.position for entry in found.lists["l"]], set(found.blobs)) == ([2], {"m2"})
        found = await self.read(after_mark=("l", "gone"), follow=("m",))
        assert ([entry.position for entry in found.lists["l"]], set(found.blobs)) == ([1, 2], {"m1", "m2"})

    async def test_an_outline_is_every_blob_and_entry(self) -> None:
        blobs = {"m": Blob(b"1", mark=3), "c": Blob(b"2", ("m",))}
        await self.write(blobs=blobs, append=[("l", b"3", ("m",))])
        found = await self.read(outline=True)
        assert (found.blobs, list(found.lists["l"]), found.bytes) == (blobs, [Entry(1, b"3", ("m",))], 3)
        assert found.outline

    async def test_a_read_is_answered_with_an_outline_where_a_list_weighs_more_than_it_says(self) -> None:
        await self.write(blobs={"m": Blob(b"1"), "n": Blob(b"2")}, append=[("l", b"3", ("m",)), ("l", b"4", ())])
        found = await self.read("n", outline_over={"l": 3, "other": 0})
        assert (set(found.blobs), dict(found.lists), found.outline) == ({"n"}, {}, False)
        found = await self.read("n", outline_over={"l": 2})
        assert (set(found.blobs), [entry.position for entry in found.lists["l"]]) == ({"m", "n"}, [1, 2])
        assert found.outline
        assert not (await self.read(key=SessionKey("u", "gone"), outline_over={"l": -1})).outline

    # Generations and deadlines

    async def test_a_generation_is_the_creation_in_microseconds_or_the_next_free_number(self) -> None:
        first = (await self.write()).generation
        assert first == int(self.clock.now * 1_000_000)
        await self.call("delete", *_KEY, 60.0)
        assert first < (await self.write()).generation < first + 10
        self.clock.advance(2 * _IDLE)
        assert (await self.write()).generation == int(self.clock.now * 1_000_000)

    async def test_a_session_is_readable_until_its_deadline_and_then_gone_whole(self) -> None:
        await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ())])
        found = await self.read("b")
        assert (found.now, found.created_at, found.last_used_at) == (self.clock.now,) * 3
        assert found.expires_at is not None
        assert _IDLE <= found.expires_at - self.clock.now <= _IDLE * (1 + self.slack)
        self.clock.now = found.expires_at - 0.25
        assert (await self.read("b")).blobs
        self.clock.now = found.expires_at
        await self.expect_absent()
        assert (await self.read()).fence == 0
        assert (await self.write(append=[("l", b"", ())])).position == 1

    async def test_only_writes_and_reads_with_a_lease_prolong_a_life(self) -> None:
        await self.write()
        created = self.clock.now
        for use in (self.write, lambda: self.read(lease=_LEASE)):
            self.clock.advance(_IDLE / 2)
            await use()
            found = await self.read()
            assert (found.created_at, found.last_used_at) == (created, self.clock.now)
            assert (found.expires_at or 0) >= self.clock.now + _IDLE
        self.clock.advance(1)
        await self.read(outline=True)
        await self.listed()
        await self.write(upkeep=True, blobs={"b": Blob(b"1")})
        after = await self.read("b")
        assert (after.last_used_at, after.expires_at) == (found.last_used_at, found.expires_at)
        assert after.blobs

    async def test_max_age_ends_a_session_however_busy_or_pinned_it_is(self) -> None:
        lease = Lease(_IDLE, 150.0)
        await self.write(lease=lease, idle_ttl=None)
        self.clock.advance(90)
        await self.read(lease=lease)
        assert (await self.read()).expires_at == self.clock.now + 60
        self.clock.advance(60)
        await self.expect_absent()

    async def test_a_session_without_bounds_never_expires(self) -> None:
        await self.write(lease=Lease(None, None))
        self.clock.advance(1e9)
        assert ((await self.read()).generation > 0, (await self.read()).expires_at) == (True, None)

    async def test_a_sessions_own_idle_time_stays_until_it_is_changed(self) -> None:
        await self.write(idle_ttl=1000.0)
        await self.write()
        assert ((await self.read()).expires_at or 0) >= self.clock.now + 1000
        await self.write(idle_ttl=None)
        await self.read(lease=_LEASE)
        assert (await self.read()).expires_at is None
        used = self.clock.now
        self.clock.advance(10)
        assert (await self.write(idle_ttl=50.0, upkeep=True)).status is Status.STORED
        assert used + 50 <= ((await self.read()).expires_at or 0) <= used + 50 * (1 + self.slack)

    # Deletion

    async def test_deletion_leaves_a_fence_that_refuses_what_continues_the_deleted(self) -> None:
        old = (await self.write(blobs={"b": Blob(b"1")})).generation
        assert await self.call("delete", *_KEY, 60.0) == 1
        await self.expect_absent()
        assert (await self.read()).fence >= old
        for guard in (Guard(old), Guard(0), Guard(needs="b"), Guard(old, "b")):
            assert (await self.write(guard=guard, blobs={"b": Blob(b"2")})).status is Status.DELETED
            await self.expect_absent()

    async def test_what_begins_after_a_deletion_starts_clean(self) -> None:
        old = (await self.write(append=[("l", b"", ())])).generation
        await self.call("delete", *_KEY, 60.0)
        outcome = await self.write(blobs={"b": Blob(b"2")})
        assert (outcome.status, outcome.position) == (Status.STORED, 0)
        assert outcome.generation > (await self.read()).fence >= old
        assert (await self.write(guard=Guard(outcome.generation, "b"))).status is Status.STORED
        assert (await self.write(guard=Guard(old))).status is Status.DELETED
        assert (await self.write(guard=Guard(needs="gone"))).status is Status.DELETED

    async def test_without_a_fence_a_guard_refuses_nothing(self) -> None:
        assert (await self.write(guard=Guard(1, "gone"))).status is Status.STORED

    async def test_a_tombstone_has_its_own_deadline(self) -> None:
        old = (await self.write()).generation
        await self.call("delete", *_KEY, 60.0)
        self.clock.advance(59)
        assert (await self.write(guard=Guard(old))).status is Status.DELETED
        self.clock.advance(1)
        assert (await self.read()).fence == 0
        assert (await self.write(guard=Guard(old))).status is Status.STORED

    async def test_what_expired_or_never_was_is_no_session_but_its_deletion_counts(self) -> None:
        old = (await self.write()).generation
        self.clock.advance(2 * _IDLE)
        assert await self.call("delete", *_KEY, 60.0) == 0
        assert (await self.write(guard=Guard(old))).status is Status.DELETED

    async def test_a_users_sessions_are_deleted_together_and_nobody_elses(self) -> None:
        for key in (_KEY, *_OTHERS):
            await self.write(key)
        assert await self.call("delete", "ada", None, 60.0) == 2
        assert await self.listed() == [SessionKey("bob", "s1")]
        assert (await self.read(key=_OTHERS[0])).fence > 0
        assert (await self.read(key=_OTHERS[1])).fence == 0
        assert await self.call("delete", "ada", None, 60.0) == 0

    # Refusals

    async def test_reading_never_creates(self) -> None:
        await self.read("b", lease=_LEASE, outline=True)
        await self.expect_absent()
        assert await self.call("usage") == Usage(0, 0)
        assert await self.call("delete", *_KEY, 60.0) == 0

    async def test_upkeep_never_creates(self) -> None:
        assert (await self.write(upkeep=True, blobs={"b": Blob(b"1")})).status is Status.ABSENT
        await self.expect_absent()

    async def test_a_change_is_refused_where_the_session_is_not_what_it_expects(self) -> None:
        assert (await self.write(at_position=1)).status is Status.MOVED
        assert (await self.write(at_generation=1)).status is Status.MOVED
        await self.expect_absent()
        made = await self.write(new=True, append=[("l", b"", ())])
        assert made.status is Status.STORED
        there: dict[str, Any] = {"at_position": made.position, "at_generation": made.generation}
        for wrong in ({"new": True}, {"at_position": 0}, {"at_position": 2}, {"at_generation": made.generation - 1}):
            outcome = await self.write(**{**there, **wrong}, blobs={"b": Blob(b"")}, append=[("l", b"", ())])
            assert outcome.status is Status.MOVED
        assert (await self.read("b")).blobs == {}
        assert (await self.write(**there, append=[("l", b"", ())])).position == 2

    # The storage as a whole

    async def test_sessions_are_listed_least_recently_used_first(self) -> None:
        for key in (_KEY, *_OTHERS):
            await self.write(key)
            self.clock.advance(_IDLE / 5)
        await self.read(lease=_LEASE)
        assert await self.listed() == [*_OTHERS, _KEY]
        assert await self.listed("ada") == [_OTHERS[0], _KEY]
        assert await self.listed("nobody") == []

    async def test_usage_counts_and_a_sweep_frees_what_expired(self) -> None:
        await self.write(lease=Lease(None, None), blobs={"b": Blob(b"123")})
        for key in _OTHERS:
            await self.write(key, blobs={"b": Blob(b"123456")})
        used = await self.call("usage")
        assert (used.sessions, used.bytes >= 15) == (3, True)
        self.clock.advance(2 * _IDLE)
        used = await self.call("usage")
        assert await self.call("sweep") == used.sessions - 1
        left = await self.call("usage")
        assert (left.sessions, left.bytes >= 3, left.bytes <= used.bytes) == (1, True, True)
        assert await self.call("sweep") == 0
        assert await self.listed() == [_KEY]

    async def test_a_storage_that_cannot_answer_never_looks_empty(self) -> None:
        broken = self.make_broken(self.clock)
        calls: list[tuple[Any, ...]] = [
            ("read", _KEY, Query()),
            ("write", _KEY, Change(_LEASE)),
            ("delete", *_KEY, 60.0),
        ]
        for call in [*calls, ("sessions", None), ("usage",), ("sweep",)] if broken else []:
            try:
                answer = await self.call(*call, of=broken)
            except StorageError as error:
                assert error.__cause__ is not None  # noqa: PT017  # a suite that needs no pytest
            else:
                raise AssertionError(f"{call[0]} answered {answer!r}")

    async def test_what_was_stored_can_be_changed_by_its_reader_without_changing_it(self) -> None:
        await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ())])
        for outline in (True, False):
            found: Any = await self.read("b", "l", outline=outline)
            found.blobs.clear()
            found.lists["l"].clear()
        found = await self.read("b", "l")
        assert (len(found.blobs), len(found.lists["l"])) == (1, 1)

    async def test_it_says_whether_only_this_process_can_write_to_it(self) -> None:
        assert type(self.storage.private) is bool
        assert 1 < self.storage.slack < 3
        assert await self.call("close") is None
