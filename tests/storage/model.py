"""Every verb of a storage, in any order and at any time, compared with a naive model."""

from __future__ import annotations

import asyncio
import copy
import itertools
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.types import KEEP, Change, Entry, Guard, Lease, Outcome, Query, Status
from langchain_ttl_history.testing import Clock
from tests.storage.drawn import (
    BLOBS,
    KEYS,
    LISTS,
    appended,
    blobs_by_name,
    dropped,
    keys,
    leases,
    placed,
    times,
    trimmed,
)
from tests.storage.naive_session import Session, reached


def anything(model: Model) -> bool:
    """Whether there is or was a session, so that every run begins with a write."""
    return bool(model.sessions or model.fences)


def anybody(model: Model) -> bool:
    """Whether a session is live."""
    return any(map(model.live, KEYS))


class Model(RuleBasedStateMachine):
    """Every verb, in any order, at any time."""

    lateness = 0.0

    def opened(self) -> list[Storage]:
        """The workers' storages, on the same sessions."""
        return [MemoryStorage(max_sessions=None, max_bytes=None, clock=self.clock)]

    @initialize(asynchronous=st.booleans())
    def begin(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        self.clock = Clock()
        self.workers = self.opened()
        self.turns = itertools.cycle([0, 0, 1, 0, 1, 1, 1])
        self.sessions: dict[SessionKey, Session] = {}
        self.fences: dict[SessionKey, tuple[int, float]] = {}
        self.newest = 0
        self.generations: list[int] = [0]

    def check_generation(self, generation: int, fence: int) -> None:
        # A deletion may have used up the number of its own moment.
        assert 0 <= generation - max(int(self.clock.now * 1_000_000), self.newest + 1) <= 1
        assert generation > fence

    def stands_until(self, key: SessionKey, until: float) -> float:
        """When a tombstone ends that has to stand until then."""
        return until

    def least_position(self, session: Session) -> int:
        """The least position of what is appended now."""
        return 0

    def call(self, verb: str, *arguments: Any) -> Any:
        storage = self.workers[next(self.turns) % len(self.workers)]
        if self.asynchronous:
            return asyncio.run(getattr(storage, "a" + verb)(*arguments))
        return getattr(storage, verb)(*arguments)

    def settle(self, key: SessionKey, session: Session, before: float | None) -> None:
        """See when the session ends now: as the model says, or a bounded time later."""
        found = self.call("read", key, Query())
        if not found.generation:
            # It was given an idle time that is over already, or is older than it may get.
            assert session.deadline <= self.clock.now
            session.ends = session.deadline
            return
        ends = float("inf") if found.expires_at is None else found.expires_at
        late = self.lateness * ((session.idle or 0.0) + (before or 0.0))
        assert session.deadline <= ends <= session.ended(late)
        assert (
            session.used - self.lateness * max(session.idle or 0.0, before or 0.0) <= found.last_used_at <= session.used
        )
        session.ends = ends

    def live(self, key: SessionKey, lease: Lease | None = None) -> Session | None:
        """The session, if it has not ended, nor is older than this lease lets it get."""
        session = self.sessions.get(key)
        if session is None or (lease is not None and lease.is_past_max_age(session.created, self.clock.now)):
            return None
        return session if self.clock.now < (session.deadline if session.ends is None else session.ends) else None

    def fence(self, key: SessionKey) -> int:
        fence, until = self.fences.get(key, (0, 0.0))
        return fence if self.clock.now < until else 0

    @precondition(anything)
    @rule(seconds=st.sampled_from([0.25, 0.25, 1.0, 1.0, 9.75, 10.0, 25.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(anything)
    @rule(
        key=keys,
        names=st.lists(st.sampled_from(BLOBS + LISTS + ("gone",)), max_size=3),
        follow=st.sampled_from([(), ("m",), ("m", "v"), ("m", "v", "c", "l", "w")]),
        mark=st.none() | st.tuples(st.sampled_from(LISTS), st.sampled_from(BLOBS)),
        lease=st.none() | leases,
        outline=st.booleans(),
        over=st.dictionaries(st.sampled_from(LISTS), st.integers(0, 9), max_size=1),
    )
    def read(self, key: SessionKey, names: Any, follow: Any, mark: Any, lease: Any, outline: bool, over: Any) -> None:
        found = self.call("read", key, Query(tuple(names), follow, None if outline else mark, lease, outline, over))
        session = self.live(key, lease)
        self.look_at_what_is_too_old(key, lease)
        if session is not None and not outline:
            weights = {name: sum(1 + len(entry.refs) for entry in session.list(name)) for name in over}
            outline = any(weights[name] > most for name, most in over.items())
        assert found.outline == (outline and session is not None)
        assert (found.now, found.fence) == (self.clock.now, self.fence(key))
        if session is None:
            assert (found.generation, found.blobs, found.lists, found.expires_at) == (0, {}, {}, None)
            return
        if lease is not None:
            before, session.used, session.lease = session.idle, self.clock.now, lease
            self.settle(key, session, before)
        assert (found.generation, found.position, found.bytes) == (session.generation, session.position, session.bytes)
        assert found.created_at == session.created
        assert (float("inf") if found.expires_at is None else found.expires_at) == session.ends
        if outline:
            assert found.blobs == session.blobs
            assert found.lists == {name: session.list(name) for name in LISTS if session.list(name)}
            return
        start = set(names)
        partial: list[Entry] = []
        if mark is not None:
            after = session.blobs[mark[1]].mark if mark[1] in session.blobs else 0
            partial = [entry for entry in session.list(mark[0]) if entry.position > after]
            assert found.lists[mark[0]] == partial
            start |= {ref for entry in partial for ref in entry.refs if ref.startswith(follow or ("\0",))}
            if mark[0] in reached(session, start, follow):
                return  # a list asked for whole and in part: which of both it is is left open
        expected = reached(session, start, follow)
        assert found.blobs == {name: blob for name, blob in session.blobs.items() if name in expected}
        lists = {name: session.list(name) for name in LISTS if name in expected and session.list(name)}
        assert {name: list(each) for name, each in found.lists.items() if mark is None or name != mark[0]} == lists

    @rule(
        key=keys,
        lease=leases,
        blobs=blobs_by_name,
        append=appended,
        place=placed,
        drop=dropped,
        trim=trimmed,
        own=st.sampled_from([KEEP, KEEP, KEEP, None, 5.0, 30.0]),
        upkeep=st.sampled_from([False, False, False, True]),
        expects=st.sampled_from([*[""] * 6, "new", "position", "generation", "wrong position", "wrong generation"]),
        guarded=st.sampled_from(["", "", "generation", "generation", "old", "needs"]),
        sound=st.sampled_from([True, True, True, True, False]),
        pick=st.integers(0, 1_000),
    )
    def write(
        self, key: Any, lease: Any, blobs: Any, append: Any, place: Any, drop: Any, trim: Any, own: Any,
        upkeep: Any, expects: Any, guarded: Any, sound: bool, pick: int,
    ) -> None:  # fmt: skip
        session = self.live(key, lease)
        old = self.generations[pick % len(self.generations)]
        here = (session.position, session.generation) if session else (None, None)
        change = Change(
            lease, Guard(), blobs, append, place, drop, trim, own, upkeep,
            at_position={"position": here[0], "wrong position": 77}.get(expects),
            at_generation={"generation": here[1], "wrong generation": 77}.get(expects),
            new=expects == "new",
        )  # fmt: skip
        if guarded:
            by_generation = here[1] if guarded == "generation" else old
            change.guard = Guard(needs=BLOBS[pick % 4]) if guarded == "needs" else Guard(by_generation)
        self.change(key, change, sound=sound)

    # What programs do most, and most often with success; of writes of every kind too many are refused.

    @rule(key=keys, idle=times, blobs=blobs_by_name, append=appended)
    def add(self, key: Any, idle: Any, blobs: Any, append: Any) -> None:
        session = self.live(key)
        guard = Guard(session.generation if session else None)
        self.change(key, Change(Lease(idle, None), guard, blobs, append), sound=True)

    @precondition(anybody)
    @rule(key=keys, drop=dropped, trim=trimmed, where_it_is=st.booleans())
    def free(self, key: Any, drop: Any, trim: Any, where_it_is: bool) -> None:
        session = self.live(key)
        lease = session.lease if session else Lease(60.0, None)
        position = session.position if session and where_it_is else None
        change = Change(lease, drop=drop, trim=trim, upkeep=where_it_is, at_position=position)
        self.change(key, change, sound=True)

    def look_at_what_is_too_old(self, key: SessionKey, lease: Lease | None) -> None:
        """A use under a lease that a session is too old for may end it, or leave it to those who allow more."""
        if self.live(key) is not self.live(key, lease) and not self.call("read", key, Query()).generation:
            del self.sessions[key]

    @staticmethod
    def at(session: Session | None, place: int) -> int:
        """One of the positions of a session's entries, or one further on."""
        positions = sorted({entry.position for _, entry in session.entries}) if session else []
        if place < len(positions):
            return positions[place]
        return (session.position if session else 0) + place - len(positions) + 1

    def change(self, key: SessionKey, change: Change, *, sound: bool) -> None:
        """Write a change whose positions are still places, and compare what becomes of it.

        A sound one refers to nothing that is missing.
        """
        session = self.live(key, change.lease)
        stored = {*change.blobs, *(session.blobs if session else ())}

        def settled(refs: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(ref for ref in refs if ref in stored or not sound)

        change.blobs = {
            name: blob._replace(refs=settled(blob.refs), mark=blob.mark and self.at(session, blob.mark - 1))
            for name, blob in change.blobs.items()
        }
        change.append = [(name, payload, settled(refs)) for name, payload, refs in change.append]
        change.place = [
            (name, Entry(self.at(session, entry.position), entry.payload, settled(entry.refs)))
            for name, entry in change.place
        ]
        change.trim = {name: frozenset(self.at(session, each) for each in some) for name, some in change.trim.items()}
        outcome = self.call("write", key, change)
        assert outcome.status is self.status(key, change, session), change
        if outcome.status is Status.STORED:
            self.store(key, change, session, outcome)
            return
        self.look_at_what_is_too_old(key, change.lease)
        if outcome.status is Status.MISSING:
            assert outcome.missing == self.missing(change, session)

    def missing(self, change: Change, session: Session | None) -> set[str]:
        wanted = {ref for blob in change.blobs.values() for ref in blob.refs}
        wanted |= {ref for _, _, refs in change.append for ref in refs}
        wanted |= {ref for _, entry in change.place for ref in entry.refs}
        return wanted - set(change.blobs) - set(session.blobs if session else ())

    def status(self, key: SessionKey, change: Change, session: Session | None) -> Status:
        guard, fence = change.guard, self.fence(key)
        behind = guard.generation is not None and guard.generation <= fence
        gone = guard.needs is not None and guard.needs not in (session.blobs if session else {})
        if fence and (behind or gone):
            return Status.DELETED
        if change.upkeep and session is None:
            return Status.ABSENT
        if (
            (change.new and session is not None)
            or (change.at_position is not None and (session is None or session.position != change.at_position))
            or (change.at_generation is not None and (session is None or session.generation != change.at_generation))
        ):
            return Status.MOVED
        return Status.MISSING if self.missing(change, session) else Status.STORED

    def store(self, key: SessionKey, change: Change, session: Session | None, outcome: Outcome) -> None:
        now = self.clock.now
        # Of the idle time until now a storage may know no more than the lease of this write.
        before = max(session.idle or 0.0, change.lease.idle_ttl or 0.0) if session else None
        if session is None:
            self.check_generation(outcome.generation, self.fence(key))
            session = self.sessions[key] = Session(outcome.generation, now, now, change.lease)
            self.newest = outcome.generation
            self.generations.append(outcome.generation)
        session.blobs.update(change.blobs)
        for name, payload, refs in change.append:
            session.position = max(session.position + 1, self.least_position(session))
            session.entries.append((name, Entry(session.position, payload, refs)))
        for name, entry in change.place:
            session.entries = [(of, e) for of, e in session.entries if (of, e.position) != (name, entry.position)]
            session.entries.append((name, entry))
            session.position = max(session.position, entry.position)
        for name in change.drop:
            session.blobs.pop(name, None)
        session.entries = [
            (of, entry)
            for of, entry in session.entries
            if of not in change.drop and entry.position not in change.trim.get(of, ())
        ]
        if change.idle_ttl is not KEEP:
            session.own, session.lease = change.idle_ttl, change.lease
        if not change.upkeep:
            session.used, session.lease = now, change.lease
        self.settle(key, session, before)
        weights = {name: sum(1 + len(e.refs) for e in session.list(name)) for name in LISTS if session.list(name)}
        assert (outcome.generation, outcome.position, outcome.bytes) == (
            session.generation, session.position, session.bytes,
        )  # fmt: skip
        changed = {name for name, *_ in (*change.append, *change.place)} | {*change.trim}
        assert {name for name in changed if name in weights} <= {*outcome.weights}
        assert outcome.weights.items() <= weights.items()

    # All tombstones of a buffer stand equally long, so the newest of a session and its user's stands longest.
    @precondition(anybody)
    @rule(key=keys, whole=st.booleans(), standing=st.just(30.0))
    def delete(self, key: SessionKey, whole: bool, standing: float) -> None:
        affected = [each for each in KEYS if each.user_id == key.user_id] if whole else [key]
        live = [each for each in affected if self.live(each)]
        before = {each: self.fence(each) for each in affected}
        assert self.call("delete", key.user_id, None if whole else key.session_id, standing) == len(live)
        for each in affected:
            now = self.clock.now
            fence = self.call("read", each, Query()).fence
            assert fence >= max(self.sessions[each].generation if each in live else 0, before[each])
            assert fence >= int(now * 1_000_000)
            self.fences[each] = fence, self.stands_until(each, now + standing)
            self.newest = max(self.newest, fence)
            self.sessions.pop(each, None)

    @precondition(anything)
    @rule(look=st.sampled_from(["sweep", "list", "change"]))
    def look(self, look: str) -> None:
        {"sweep": self.sweep, "list": self.list_sessions, "change": self.change_what_was_read}[look]()

    def sweep(self) -> None:
        before = self.call("usage").sessions
        freed = self.call("sweep")
        live = [key for key in KEYS if self.live(key)]
        assert (freed, self.call("usage").sessions) == (before - len(live), len(live))

    def list_sessions(self) -> None:
        live = sorted((self.sessions[key].used, key) for key in KEYS if self.live(key))
        for user in (None, "ada", "bob", "nobody"):
            listed, after = self.call("sessions", user)
            assert after is None
            assert sorted(listed) == sorted(key for _, key in live if user in (None, key.user_id))
            used = [self.sessions[key].used for key in listed]
            assert self.lateness or used == sorted(used)

    def change_what_was_read(self) -> None:
        for key in KEYS:
            found = self.call("read", key, Query(outline=True))
            same = copy.deepcopy(found)
            for entries in found.lists.values():
                entries.clear()
            found.blobs.clear()
            assert self.call("read", key, Query(outline=True)) == same

    @invariant()
    def usage_covers_what_is_live(self) -> None:
        live = [session for session in map(self.live, KEYS) if session]
        used = self.workers[0].usage()
        assert len(KEYS) >= used.sessions >= len(live)
        assert used.bytes >= sum(session.bytes for session in live)
