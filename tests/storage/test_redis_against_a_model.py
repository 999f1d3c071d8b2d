"""Redis behaves as the same naive model of dicts does, but for how late a session may end."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from hypothesis import settings

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import KEEP, Change, Query, Snapshot
from tests.storage.redis_cases import admin_of, close_redis, open_redis
from tests.storage.test_against_a_model import Model, Session

NEVER = float("inf")


class RedisModel(Model):
    """Learns from each answer when a session ends, after checking that it is neither too early nor too late."""

    def make(self) -> Any:
        self.loop = asyncio.new_event_loop()
        self.ends: dict[int, float] = {}
        self.noted: dict[int, float] = {}
        return open_redis(self.clock)

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self.loop.run_until_complete(self.storage.aclose())
            close_redis(self.storage)
            self.loop.close()

    def call(self, verb: str, *arguments: Any) -> Any:
        if self.asynchronous:
            return self.loop.run_until_complete(getattr(self.storage, "a" + verb)(*arguments))
        return getattr(self.storage, verb)(*arguments)

    def live(self, key: SessionKey) -> Session | None:
        session = self.sessions.get(key)
        return session if session is not None and self.clock.now < self.ends[session.generation] else None

    def check_generation(self, generation: int, fence: int) -> None:
        assert generation == max(int(self.clock.now * 1_000_000), fence + 1)

    def check_times(self, session: Session, found: Snapshot, *, used: bool) -> None:
        end = NEVER if found.expires_at is None else found.expires_at
        if used:
            idle = session.lease.idle_ttl if session.own is KEEP else session.own
            assert session.deadline <= end <= session.deadline + (idle or 0.0) * 0.1
        else:
            assert end == self.ends[session.generation]
        assert found.created_at == session.created
        lag = 1.0 if end == NEVER else (end - found.last_used_at) / 11
        assert session.used - lag - 1e-6 <= found.last_used_at <= session.used
        self.ends[session.generation], self.noted[session.generation] = end, found.last_used_at

    def after_write(self, key: SessionKey, session: Session, change: Change) -> None:
        # Of upkeep it is only known that it ends no session before its time, so what it did is looked up.
        found = self.call("read", key, Query())
        if change.upkeep and change.idle_ttl is not KEEP:
            end = NEVER if found.expires_at is None else found.expires_at
            assert session.deadline - 1e-6 <= end
            assert end == NEVER or end <= self.clock.now + (change.idle_ttl or NEVER) * 1.1 + 1e-6
            self.ends[session.generation] = end
        self.check_times(session, found, used=not change.upkeep)

    def stands_until(self, key: SessionKey, until: float) -> float:
        (user, _), digest, _ = self.storage._settings.keys.of(key)
        with admin_of(self.storage) as admin:
            stone = admin.hget(user, f"t{digest}")
        return struct.unpack_from(">QQ", stone)[1] / 1_000_000 if stone else 0.0

    def last_use(self, session: Session) -> float:
        return self.noted[session.generation]

    def check_usage(self) -> None:
        with admin_of(self.storage) as admin:
            endless = any(session.deadline == NEVER for session in self.sessions.values())
            assert endless or all(admin.pttl(key) >= 0 for key in admin.scan_iter())


class TestRedisAgainstAModel(RedisModel.TestCase):
    settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
