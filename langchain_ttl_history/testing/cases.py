"""What the tests of a storage have in common: a clock, a storage for each, and its verbs, sync or async."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.types import Change, Lease, Outcome, Query, Snapshot

__all__ = ["IDLE", "KEY", "LEASE", "OTHERS", "Cases", "Clock"]

KEY = SessionKey("ada", "s1")
OTHERS = (SessionKey("ada", "s2"), SessionKey("bob", "s1"))
IDLE = 100.0
LEASE = Lease(IDLE, None)


class Clock:
    """A clock that moves only when it is told to: seconds since the epoch."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now: float = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Cases:
    """Tests of a storage; each opens one of its own."""

    asynchronous: bool = False
    lateness: float = 0.0

    def make(self, clock: Callable[[], float]) -> Storage:
        """A fresh, empty storage that goes by this clock."""
        raise NotImplementedError  # The one method that a storage's own suite has to define.

    def make_broken(self, clock: Callable[[], float]) -> Storage | None:
        """A storage that cannot answer; None if there is no such thing."""
        return None

    def setup_method(self) -> None:
        """Open a storage for each test."""
        self.clock: Clock = Clock()
        self.storage: Storage = self.make(self.clock)

    def teardown_method(self) -> None:
        """Let go of it."""
        self.storage.close()

    async def call(self, verb: str, *arguments: Any, of: Storage | None = None) -> Any:
        """What a verb, or its async twin, answers."""
        answer = getattr(of or self.storage, f"a{verb}" if self.asynchronous else verb)(*arguments)
        return await answer if inspect.isawaitable(answer) else answer

    async def read(self, *names: str, key: SessionKey = KEY, **query: Any) -> Snapshot:
        """Read one session, by default as an onlooker."""
        snapshot: Snapshot = await self.call("read", key, Query(names, **query))
        return snapshot

    async def write(self, key: SessionKey = KEY, lease: Lease = LEASE, **change: Any) -> Outcome:
        """Change one session."""
        outcome: Outcome = await self.call("write", key, Change(lease, **change))
        return outcome

    async def positions(self, name: str) -> list[int]:
        """Where the entries of a list stand."""
        return [entry.position for entry in (await self.read(name)).lists[name]]

    async def listed(self, user_id: str | None = None) -> list[SessionKey]:
        """The keys of all pages."""
        keys, after = await self.call("sessions", user_id)
        while after is not None:
            page, after = await self.call("sessions", user_id, after)
            keys += page
        return list(keys)

    async def expect_all_swept(self) -> None:
        """Check that a sweep frees every session that is held."""
        held = (await self.call("usage")).sessions
        assert await self.call("sweep") == held
        assert (await self.call("usage")).sessions == 0

    async def expect_absent(self, key: SessionKey = KEY) -> None:
        """Nothing tells that there ever was such a session, except for a fence."""
        found = await self.read(key=key, outline=True)
        assert (found.generation, found.position, found.bytes) == (0, 0, 0)
        assert (found.blobs, found.lists, found.expires_at) == ({}, {}, None)
        assert key not in await self.listed()
        assert key not in await self.listed(key.user_id)
