"""What every request to Redis is made with: a plan for each verb, and what the plans of one storage share.

A plan is a generator that yields requests and is sent their answers, so that it is written once for sync and async:

    def page(context, user_id, after):      # what `RedisStorage` runs
        reply = yield Eval(...)             # sent to the server; the plan goes on with what it replies
        return ...                          # the result of the verb
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar

from langchain_ttl_history.storage.redis.commands import Eval, Keys, Scan
from langchain_ttl_history.storage.redis.layout import MICRO
from langchain_ttl_history.storage.redis.mirrors import Mirrors
from langchain_ttl_history.storage.redis.numbers import NumbersCache

__all__ = ["Context", "Plan"]

T = TypeVar("T")

Plan: TypeAlias = Generator["Eval | Scan", Any, T]


class Context(NamedTuple):
    """What every request of a storage has in common."""

    keys: Keys
    numbers: NumbersCache
    mirrors: Mirrors
    clock: Callable[[], float] | None = None
    """Gives the time instead of the server, in seconds."""

    @property
    def now(self) -> int:
        """The time for a script; -1 is the server's."""
        return -1 if self.clock is None else round(self.clock() * MICRO)

    @property
    def margin(self) -> int:
        """By how many milliseconds keys outlive their deadlines where the time is not the server's."""
        # Longer than any step in which a machine's clock is set: the server must end nothing that this clock has not.
        return 0 if self.clock is None else 365 * 86_400_000
