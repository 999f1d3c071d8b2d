"""A session's row in SQLite, and how its deadline moves: pure, without I/O.

So that most reads write nothing, a use is recorded only once a tenth of the idle time has passed
since the last one recorded, and a deadline is set a tenth late. A session may therefore live up
to a tenth longer than its idle time, never shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

from langchain_ttl_history.storage.base import KEEP, Keep, Lease

__all__ = ["OWN", "Row"]

_LATE = 0.1
OWN = -1.0
"""Stands for "no idle time of its own" in the row."""


@dataclass(slots=True)
class Row:
    """One session's times and counts, as they stand in its row."""

    generation: int
    created: float
    used: float
    renewed: float
    deadline: float | None
    idle: float | None
    """Its own idle time; None pins it, `OWN` leaves it to the lease."""
    position: int = 0
    bytes: int = 0
    version: int = 0

    @classmethod
    def new(cls, generation: int, now: float) -> Row:
        """The row of a session that is created now."""
        return cls(generation, now, now, now, None, OWN)

    def is_over(self, now: float) -> bool:
        """Whether its deadline has come."""
        return self.deadline is not None and now >= self.deadline

    def _idle(self, lease: Lease) -> float | None:
        return lease.idle_ttl if self.idle == OWN else self.idle

    def _at_most(self, end: float | None, lease: Lease) -> float | None:
        if lease.max_age is None:
            return end
        age = self.created + lease.max_age
        return age if end is None else min(end, age)

    def is_due(self, now: float, lease: Lease) -> bool:
        """Whether a use now has to be recorded by a read."""
        idle = self._idle(lease)
        if idle is None:
            return now > self.used or self.deadline != self._at_most(None, lease)
        return now - self.used > idle * _LATE or not self._holds(now, idle, lease)

    def _holds(self, now: float, idle: float, lease: Lease) -> bool:
        """Whether the deadline is right for a use now: not too early, and at most a tenth late."""
        earliest = self._at_most(now + idle, lease)
        latest = self._at_most(now + idle * (1 + _LATE), lease)
        if self.deadline is None or earliest is None or latest is None:
            return False
        return earliest <= self.deadline <= latest

    def use(self, now: float, lease: Lease) -> bool:
        """Be used now. Returns whether the deadline moved."""
        self.used = now
        idle = self._idle(lease)
        if idle is not None and now - self.renewed <= idle * _LATE and self._holds(now, idle, lease):
            return False
        self.renewed = now
        self.deadline = self._at_most(None if idle is None else now + idle * (1 + _LATE), lease)
        return True

    def give(self, idle: float | Keep | None, now: float, lease: Lease) -> None:
        """Get an idle time of its own, from the last use on."""
        if idle is KEEP:
            return
        # Reads within a tenth of the old idle time may not have been recorded.
        used = min(now, self.used + (self._idle(lease) or 0.0) * _LATE)
        self.idle = idle
        self.deadline = self._at_most(None if idle is None else max(used, self.used) + idle, lease)
