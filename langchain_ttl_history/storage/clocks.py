"""Clocks of storages that keep the time themselves: seconds since the epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from langchain_ttl_history.errors import ConfigurationError, brief

__all__ = ["Clock", "checked_clock", "steady_clock"]

_LATEST = 253_402_300_800.0  # The year 10,000, which no `datetime` can have.

Clock: TypeAlias = Callable[[], float]
"""Gives the time in seconds since the epoch."""


def checked_clock(clock: Clock | None) -> Clock | None:
    """The clock that a storage is given, if it is one.

    Raises:
        ConfigurationError: It cannot be called, or gives no number of seconds, or one that no date has.
    """
    if clock is None:
        return None
    if not callable(clock):
        raise ConfigurationError(f"clock must be a function like time.time, not {brief(clock)}")
    now = clock()
    if type(now) not in (int, float) or not 0 <= now < _LATEST:
        raise ConfigurationError(f"clock must give seconds since the epoch, as time.time does, not {brief(now)}")
    return clock


def steady_clock() -> Clock:
    """A clock that starts at the wall clock's time and never jumps."""
    steady: Clock = time.monotonic
    # While the machine sleeps `time.monotonic` stands still, except on Windows, and these go on.
    id = getattr(time, "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME", None)
    if id is not None:
        steady = partial(time.clock_gettime, id)
    offset = time.time() - steady()
    return lambda: offset + steady()
