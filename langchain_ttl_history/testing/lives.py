"""How long a session lives: what begins it, prolongs it, ends it, and what may not bring it back."""

from __future__ import annotations

from typing import Any

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.types import Blob, Entry, Guard, Lease, Status, Usage
from langchain_ttl_history.testing.cases import IDLE, KEY, LEASE, OTHERS, Cases

__all__ = ["Lives"]


class Lives(Cases):
    """A session is there until its deadline or its deletion, and then gone whole."""

    # Generations and deadlines

    async def test_a_generation_is_the_creation_in_microseconds_or_the_next_free_number(self) -> None:
        first = (await self.write()).generation
        assert first == int(self.clock.now * 1_000_000)
        await self.call("delete", *KEY, 60.0)
        assert first < (await self.write()).generation < first + 10
        self.clock.advance(2 * IDLE)
        assert (await self.write()).generation == int(self.clock.now * 1_000_000)

    async def test_a_session_is_readable_until_its_deadline_and_then_gone_whole(self) -> None:
        await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ())])
        found = await self.read("b")
        assert (found.now, found.created_at, found.last_used_at) == (self.clock.now,) * 3
        assert found.expires_at is not None
        assert IDLE <= found.expires_at - self.clock.now <= IDLE * (1 + self.lateness)
        self.clock.now = found.expires_at - 0.25
        assert (await self.read("b")).blobs
        self.clock.now = found.expires_at
        await self.expect_absent()
        assert (await self.read()).fence == 0
        assert (await self.write(append=[("l", b"2", ())])).status is Status.STORED
        assert [entry.payload for entry in (await self.read("l")).lists["l"]] == [b"2"]

    async def test_what_expired_is_listed_no_more_though_nobody_looked_at_it(self) -> None:
        await self.write()
        for key in OTHERS:
            await self.write(key, lease=Lease(None, None))
        self.clock.now = (await self.read()).expires_at or 0.0
        assert sorted(await self.listed()) == sorted(OTHERS)
        assert await self.listed("ada") == [OTHERS[0]]
        await self.call("sweep")
        assert (await self.call("usage")).sessions == len(OTHERS)

    async def test_a_read_under_a_shorter_lease_brings_the_end_nearer(self) -> None:
        for lease in (Lease(None, None), Lease(10 * IDLE, None), Lease(1.5 * IDLE, None)):
            await self.write(lease=lease)
            ends = (await self.read(lease=LEASE)).expires_at or 0.0
            assert self.clock.now + IDLE <= ends <= self.clock.now + IDLE * (1 + self.lateness)
            self.clock.advance(2 * IDLE)
            await self.expect_all_swept()

    async def test_each_use_counts_at_whatever_pace_reads_and_writes_come(self) -> None:
        await self.write()
        for seconds in (9.0, 6.0, 1.0, 10.0, 9.5, 0.5, 11.0, 9.0, 9.0):
            for use in (self.write, self.read):
                self.clock.advance(seconds)
                await use(lease=LEASE)
                ends = (await self.read()).expires_at or 0.0
                assert self.clock.now + IDLE <= ends <= self.clock.now + IDLE * (1 + self.lateness)

    async def test_a_sweep_frees_what_expired_however_its_end_moved_before(self) -> None:
        for lease in (Lease(10 * IDLE, None), Lease(None, None)):
            await self.write()
            await self.read(lease=lease)
            self.clock.advance(2 * IDLE)
            assert await self.call("sweep") == 0
            await self.read(lease=LEASE)
            self.clock.advance(2 * IDLE)
            await self.expect_all_swept()

    async def test_only_writes_and_reads_with_a_lease_prolong_a_life(self) -> None:
        await self.write()
        created = self.clock.now
        for use in (self.write, lambda: self.read(lease=LEASE)):
            self.clock.advance(IDLE / 2)
            await use()
            found = await self.read()
            assert (found.created_at, found.last_used_at) == (created, self.clock.now)
            assert (found.expires_at or 0) >= self.clock.now + IDLE
        self.clock.advance(IDLE / 2)
        await self.read(outline=True)
        await self.listed()
        await self.write(upkeep=True, blobs={"b": Blob(b"1")})
        after = await self.read("b")
        assert (after.last_used_at, after.expires_at) == (found.last_used_at, found.expires_at)
        assert after.blobs

    async def test_max_age_ends_a_session_however_busy_or_pinned_it_is(self) -> None:
        lease = Lease(IDLE, 150.0)
        await self.write(lease=lease, idle_ttl=None)
        self.clock.advance(90)
        await self.read(lease=lease)
        assert (await self.read()).expires_at == self.clock.now + 60
        self.clock.advance(60)
        await self.expect_absent()

    async def test_max_age_ends_a_session_before_its_idle_time_is_over(self) -> None:
        lease = Lease(IDLE, 150.0)
        await self.write(lease=lease)
        end = self.clock.now + 150
        self.clock.advance(90)
        for use in (self.write, self.read):
            await use(lease=lease)
            assert (await self.read()).expires_at == end

    async def test_a_session_without_bounds_never_expires(self) -> None:
        await self.write(lease=Lease(None, None))
        self.clock.advance(1e9)
        assert ((await self.read()).generation > 0, (await self.read()).expires_at) == (True, None)

    async def test_a_sessions_own_idle_time_stays_until_it_is_changed(self) -> None:
        await self.write(idle_ttl=1000.0)
        await self.write()
        assert ((await self.read()).expires_at or 0) >= self.clock.now + 1000
        await self.write(idle_ttl=None)
        await self.read(lease=LEASE)
        assert (await self.read()).expires_at is None
        used = self.clock.now
        self.clock.advance(10)
        assert (await self.write(idle_ttl=50.0, upkeep=True)).status is Status.STORED
        assert used + 50 <= ((await self.read()).expires_at or 0) <= used + 50 * (1 + self.lateness)

    async def test_a_change_of_any_kind_is_a_use_and_leaves_the_sessions_own_idle_time(self) -> None:
        await self.write(idle_ttl=1000.0, blobs={"b": Blob(b"1")}, append=[("l", b"1", ()), ("l", b"2", ())])
        first, second = await self.positions("l")
        for change in ({"drop": ["b"]}, {"trim": {"l": {first}}}, {"place": [("l", Entry(second, b"3"))]}):
            self.clock.advance(500)
            assert (await self.write(**change)).status is Status.STORED
            found = await self.read()
            assert found.last_used_at == self.clock.now
            assert (found.expires_at or 0) >= self.clock.now + 1000

    async def test_a_longer_lease_prolongs_a_life_though_the_session_may_not_grow_old(self) -> None:
        await self.write(lease=Lease(IDLE / 10, 20 * IDLE))
        await self.read(lease=Lease(IDLE, 20 * IDLE))
        assert ((await self.read()).expires_at or 0) >= self.clock.now + IDLE

    async def test_times_that_are_next_to_nothing_are_not_endless(self) -> None:
        for number, lease in enumerate((Lease(1e-9, None), Lease(None, 1e-9), LEASE)):
            key = SessionKey("ada", f"s{number}")
            await self.write(key, **({"lease": lease} if lease != LEASE else {"idle_ttl": 1e-6}))
            self.clock.advance(0.001)
            await self.expect_absent(key)

    async def test_a_session_that_is_older_than_a_use_allows_is_gone_at_that_use(self) -> None:
        short = Lease(None, 100.0)
        for idle in (None, IDLE):
            for use in ("read", "write", "upkeep"):
                key = SessionKey("ada", f"{use} {idle}")
                old = (await self.write(key, lease=Lease(idle, None), blobs={"old": Blob(b"1")})).generation
                self.clock.advance(99)
                assert (await self.read(key=key, lease=short)).generation == old
                # By a program that allows more.
                await self.write(key, lease=Lease(idle, None))
                self.clock.advance(1)
                if use == "read":
                    assert (await self.read("old", key=key, lease=short)).blobs == {}
                    assert (await self.read("old", key=key)).generation == 0
                elif use == "write":
                    assert (await self.write(key, lease=short, blobs={"new": Blob(b"2")})).generation > old
                    assert [*(await self.read("old", "new", key=key)).blobs] == ["new"]
                else:
                    assert (await self.write(key, lease=short, idle_ttl=None, upkeep=True)).status is Status.ABSENT

    # Deletion

    async def test_deletion_leaves_a_fence_that_refuses_what_continues_the_deleted(self) -> None:
        old = (await self.write(blobs={"b": Blob(b"1")})).generation
        assert await self.call("delete", *KEY, 60.0) == 1
        await self.expect_absent()
        assert (await self.read()).fence >= old
        for guard in (Guard(old), Guard(0), Guard(needs="b"), Guard(old, "b")):
            assert (await self.write(guard=guard, blobs={"b": Blob(b"2")})).status is Status.DELETED
            await self.expect_absent()

    async def test_what_begins_after_a_deletion_starts_clean(self) -> None:
        old = (await self.write(append=[("l", b"", ())])).generation
        await self.call("delete", *KEY, 60.0)
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
        await self.call("delete", *KEY, 60.0)
        self.clock.advance(59)
        assert (await self.write(guard=Guard(old))).status is Status.DELETED
        self.clock.advance(1)
        assert (await self.read()).fence == 0
        assert (await self.write(guard=Guard(old))).status is Status.STORED

    async def test_a_tombstone_has_its_own_deadline_for_the_session_that_came_after_it(self) -> None:
        old = (await self.write()).generation
        await self.call("delete", *KEY, 60.0)
        made = (await self.write()).generation
        assert (await self.read()).generation == made
        self.clock.advance(59)
        assert (await self.write(guard=Guard(old))).status is Status.DELETED
        assert (await self.read()).fence >= old
        self.clock.advance(1)
        assert (await self.read()).fence == 0
        assert (await self.write(guard=Guard(old))).status is Status.STORED
        assert (await self.write(guard=Guard(old), at_position=0)).status is Status.STORED

    async def test_a_session_without_an_end_is_deleted_like_any_other(self) -> None:
        for key in (KEY, *OTHERS):
            await self.write(key, idle_ttl=None)
        assert await self.call("delete", *KEY, 60.0) == 1
        await self.expect_absent()
        assert await self.call("delete", "ada", None, 60.0) == 1
        assert await self.listed() == [SessionKey("bob", "s1")]

    async def test_what_expired_or_never_was_is_no_session_but_its_deletion_counts(self) -> None:
        for session_id in (KEY.session_id, None):
            old = (await self.write()).generation
            self.clock.now = (await self.read()).expires_at or 0.0
            assert await self.call("delete", KEY.user_id, session_id, 60.0) == 0
            assert (await self.write(guard=Guard(old))).status is Status.DELETED

    async def test_a_users_sessions_are_deleted_together_and_nobody_elses(self) -> None:
        for key in (KEY, *OTHERS):
            await self.write(key)
        assert await self.call("delete", "ada", None, 60.0) == 2
        assert await self.listed() == [SessionKey("bob", "s1")]
        assert (await self.read(key=OTHERS[0])).fence > 0
        assert (await self.read(key=OTHERS[1])).fence == 0
        assert await self.call("delete", "ada", None, 60.0) == 0

    async def test_deleting_all_of_a_users_sessions_counts_for_those_that_are_over_by_then(self) -> None:
        old = (await self.write(blobs={"b": Blob(b"1")})).generation
        other = (await self.write(OTHERS[1], blobs={"b": Blob(b"1")})).generation
        self.clock.advance(2 * IDLE)
        await self.call("sweep")
        assert await self.call("delete", "ada", None, 60.0) == 0
        for guard in (Guard(old), Guard(needs="b")):
            assert (await self.write(guard=guard)).status is Status.DELETED
            assert (await self.write(SessionKey("ada", "never"), guard=guard)).status is Status.DELETED
        assert (await self.write(OTHERS[1], guard=Guard(other))).status is Status.STORED
        new = await self.write(blobs={"b": Blob(b"2")})
        assert (new.status, (await self.write(guard=Guard(new.generation, "b"))).status) == (Status.STORED,) * 2
        assert (await self.write(guard=Guard(old))).status is Status.DELETED
        self.clock.advance(60)
        assert (await self.read(key=SessionKey("ada", "never"))).fence == 0

    async def test_deleting_all_of_a_users_sessions_again_lowers_no_fence(self) -> None:
        await self.call("delete", *KEY, 60.0)
        # Its generation is the next free number, which is later than the clock tells.
        await self.write()
        await self.call("delete", "ada", None, 60.0)
        never = SessionKey("ada", "never")
        fence = (await self.read(key=never)).fence
        await self.call("delete", "ada", None, 60.0)
        assert (await self.read(key=never)).fence >= fence

    # Refusals

    async def test_reading_never_creates(self) -> None:
        await self.read("b", lease=LEASE, outline=True)
        await self.expect_absent()
        assert await self.call("usage") == Usage(0, 0)
        assert await self.call("delete", *KEY, 60.0) == 0

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
        wrongs: list[dict[str, Any]] = [{"at_position": made.position + each} for each in (-1, 1)]
        for wrong in ({"new": True}, *wrongs, {"at_generation": made.generation - 1}):
            outcome = await self.write(**{**there, **wrong}, blobs={"b": Blob(b"")}, append=[("l", b"", ())])
            assert outcome.status is Status.MOVED
        assert (await self.read("b")).blobs == {}
        assert (await self.write(**there, append=[("l", b"", ())])).position > made.position
