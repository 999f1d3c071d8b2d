"""A session's row in SQLite, and how its deadline moves: pure, without I/O.

What every write changes stands in one column of a fixed size, `head`, the row's *counts*: a row that keeps
its size is overwritten where it stands, and its counts tell whether it is still what a process remembers.

So that most reads write nothing, a use is recorded only once a tenth of the idle time has passed
since the last one recorded, and a deadline is set a tenth late. A session may therefore live up
to a tenth longer than its idle time, never shorter. Without an idle time there is no tenth, and
every use is recorded: it may get one, which counts from its last use.

The row of a session after two writes, the second 2.5 seconds later, with an idle time of 1,800 seconds:

    generation 1800000000000000, created and renewed 1800000000.0, deadline 1800001980.0, idle -1.0
    head: version 2, epoch 0, segment 1, length 77, large 0, position 250000, bytes 13, used 1800000002.5
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from math import inf
from struct import Struct

from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.types import Lease

__all__ = ["OVER", "Row", "bytes_of"]

_LATE = 0.1
# Without an idle time, the time of the last use, by which sessions are listed, is recorded every so many seconds.
_OFTEN = 60.0
# Stands for "no idle time of its own" in the row.
_FROM_LEASE = -1.0
OVER = 0.0
"""The deadline of a session of which a part is freed: over whatever the clock says, and nothing is written to it."""

_COUNTS = Struct(">QIIIIQQd")


@dataclass(slots=True)
class Row:
    """One session's times and counts, as they stand in its row."""

    generation: int
    created: float
    renewed: float
    deadline: float | None
    idle: float | None
    """Its own idle time; None pins it, `_FROM_LEASE` leaves it to the lease."""
    version: int = 0
    """Counts the writes."""
    epoch: int = 0
    """Another number after each write that did more than append."""
    segment: int = 1
    """The number of the segment that is written to."""
    length: int = 0
    """The bytes of that segment that are written."""
    large: int = 0
    """The newest number given to a large payload."""
    position: int = 0
    bytes: int = 0
    used: float = 0.0

    @classmethod
    def new(cls, generation: int, now: float) -> Row:
        """The row of a session that is created now."""
        return cls(generation, now, now, None, _FROM_LEASE, used=now)

    @classmethod
    def stored(
        cls,
        generation: int,
        created: float,
        renewed: float,
        deadline: float | None,
        idle: float | None,
        counts: builtins.bytes,
    ) -> Row:
        """A row as it was stored."""
        row = cls(generation, created, renewed, deadline, idle, *_COUNTS.unpack(counts))
        if not (
            0.0 <= created < inf and 0.0 <= renewed < inf and 0.0 <= row.used < inf
            and (deadline is None or deadline >= 0.0) and (idle is None or idle >= _FROM_LEASE)
        ):  # fmt: skip
            raise CorruptRecordError("a session's row has times that none can have")
        return row

    def least_position(self, now: float) -> int:
        """The least position of what is appended now: it tells the session's age in units of 10 microseconds.

        So a file that a backup was brought back into gives no position again that it gave out since, and that some run
        may have seen.
        """
        return int((now - self.created) * 100_000)

    @property
    def counts(self) -> builtins.bytes:
        """What every write changes, as it is stored."""
        return _COUNTS.pack(
            self.version, self.epoch, self.segment, self.length, self.large, self.position, self.bytes, self.used
        )

    def is_expired(self, now: float) -> bool:
        """Whether its deadline has come."""
        return self.deadline is not None and now >= self.deadline

    def _idle(self, lease: Lease) -> float | None:
        return lease.idle_ttl if self.idle == _FROM_LEASE else self.idle

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
        """Record a use. Returns whether the deadline moved."""
        self.used = now
        idle = self._idle(lease)
        if idle is None:
            if now - self.renewed <= _OFTEN and self.deadline == self._at_most(None, lease):
                return False
        elif now - self.renewed <= idle * _LATE and self._holds(now, idle, lease):
            return False
        self.renewed = now
        self.deadline = self._at_most(None if idle is None else now + idle * (1 + _LATE), lease)
        return True

    def set_idle_ttl(self, idle: float | None, now: float, lease: Lease) -> None:
        """Set the session's own idle time, counted from its last use."""
        # Reads within a tenth of the old idle time may not have been recorded.
        used = min(now, self.used + (self._idle(lease) or 0.0) * _LATE)
        self.idle = idle
        self.deadline = self._at_most(None if idle is None else max(used, self.used) + idle, lease)


def bytes_of(counts: bytes) -> int:
    """The bytes of a session, from the counts of its row."""
    size: int = _COUNTS.unpack(counts)[6]
    return size
