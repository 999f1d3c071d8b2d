"""Redis behaves as the same naive model of dicts does, but for how late a session may end."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from hypothesis import settings
from hypothesis.stateful import invariant

from langchain_ttl_history.keys import SessionKey
from tests.shared.redis_cases import admin_of, another_worker, close_redis, context_of, open_redis
from tests.storage.model import Model
from tests.storage.naive_session import Session


class RedisModel(Model):
    """Two workers on one server take turns, so that what each remembers is often not what is stored."""

    lateness = 0.1

    def opened(self) -> list[Any]:
        self.loop = asyncio.new_event_loop()
        first = open_redis(self.clock)
        second = another_worker(first)
        return [first, second]

    def teardown(self) -> None:
        if hasattr(self, "workers"):
            for storage in reversed(self.workers):
                self.loop.run_until_complete(storage.aclose())
            close_redis(self.workers[0])
            self.loop.close()

    def call(self, verb: str, *arguments: Any) -> Any:
        storage = self.workers[next(self.turns)]
        if self.asynchronous:
            return self.loop.run_until_complete(getattr(storage, "a" + verb)(*arguments))
        return getattr(storage, verb)(*arguments)

    def least_position(self, session: Session) -> int:
        number, position, unit = int((self.clock.now - session.created) * 4_000), 0, 1
        while number:
            number, digit = divmod(number, 255)
            position += (digit + (digit >= 0xC1)) * unit
            unit *= 256
        return position

    def check_generation(self, generation: int, fence: int) -> None:
        assert generation == max(int(self.clock.now * 1_000_000), fence + 1)

    def stands_until(self, key: SessionKey, until: float) -> float:
        storage = self.workers[0]
        (user, _), digest, _ = context_of(storage).keys.of(key)
        with admin_of(storage) as admin:
            stones = filter(None, admin.hmget(user, f"t{digest}", "t"))
        return max((struct.unpack_from(">QQ", stone)[1] / 1_000_000 for stone in stones), default=0.0)

    @invariant()
    def every_key_has_a_deadline(self) -> None:
        storage = self.workers[0]
        with admin_of(storage) as admin:
            endless = any(session.deadline == float("inf") for session in self.sessions.values())
            assert endless or all(admin.pttl(key) >= 0 for key in admin.scan_iter())


class TestRedisAgainstAModel(RedisModel.TestCase):
    settings = settings(max_examples=25, stateful_step_count=40)
