"""The types of the storage contract: what a storage keeps, what it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.keys import SessionKey

__all__ = [
    "KEEP",
    "Appended",
    "Blob",
    "Change",
    "Entry",
    "Guard",
    "Keep",
    "Lease",
    "Outcome",
    "Query",
    "Snapshot",
    "Status",
    "UnreadablePageError",
    "Usage",
    "created_in",
    "generation_at",
]


class Blob(NamedTuple):
    """Named bytes."""

    payload: bytes
    """The bytes."""
    refs: tuple[str, ...] = ()
    """Names of the blobs it needs."""
    mark: int = 0
    """A position it remembers; see `Query.after_mark`."""
    also: tuple[str, ...] = ()
    """Names of blobs and lists that belong to it, if they are stored."""


class Entry(NamedTuple):
    """One entry of a list."""

    position: int
    """Where it stands among all entries of the session."""
    payload: bytes
    """The bytes."""
    refs: tuple[str, ...] = ()
    """Names of the blobs it needs."""


Appended: TypeAlias = tuple[str, bytes, tuple[str, ...]]
"""An entry to append: the list's name, the payload, and the names of the blobs it needs."""


class Lease(NamedTuple):
    """How long a use prolongs a session, in seconds; None means unbounded."""

    idle_ttl: float | None
    """From each use on."""
    max_age: float | None
    """From the session's creation on."""

    def is_past_max_age(self, created_at: float, now: float) -> bool:
        """Whether a session created then is past `max_age`; whoever used it before may have allowed more."""
        return self.max_age is not None and now >= created_at + self.max_age


class Guard(NamedTuple):
    """What a write continues, so that it cannot bring back what was deleted."""

    generation: int | None = None
    """The generation it read; refused at or before the fence."""
    needs: str | None = None
    """A blob it builds on; where there is a fence, refused unless this blob is stored."""


class Keep(Enum):
    """The type of `KEEP`."""

    KEEP = "keep"


KEEP = Keep.KEEP
"""Leave a session's own idle time as it is."""


@dataclass(slots=True)
class Query:
    """What to read of one session."""

    names: tuple[str, ...] = ()
    """Blobs and lists; names that are not stored are left out of the answer."""
    follow: tuple[str, ...] = ()
    """First letters of the names to follow, from blobs and entries read, to any depth."""
    after_mark: tuple[str, str] | None = None
    """(list, blob): also the entries of this list after the mark of this blob, or all of them
    where there is no such blob."""
    lease: Lease | None = None
    """Makes the read a use of the session."""
    outline: bool = False
    """Every blob and entry of the session, payloads and all, without following."""
    outline_over: Mapping[str, int] = field(default_factory=dict)
    """Weights of lists; where one of the session's weighs more, the answer is an outline."""
    known: AbstractSet[str] = frozenset()
    """Names that need not be followed, since who asks has those blobs; a storage may follow them all the same."""


@dataclass(slots=True)
class Change:
    """What to write to one session, whole or not at all.

    First blobs are set and entries appended, then entries are placed, then the rest is removed: what a change both
    brings and removes is gone after it.
    """

    lease: Lease
    """Prolongs the session, and sets its deadline if this creates it."""
    guard: Guard = Guard()
    """Refuse what continues something that was deleted."""
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    """Blobs to set."""
    append: Sequence[Appended] = ()
    """The entries to append, in this order."""
    place: Sequence[tuple[str, Entry]] = ()
    """Entries at positions of their own; one that is there already is replaced."""
    drop: Sequence[str] = ()
    """Blobs and lists to remove."""
    trim: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """For each list the positions of the entries to remove."""
    idle_ttl: float | Keep | None = KEEP
    """The session's own idle time from now on; None pins it."""
    upkeep: bool = False
    """Not a use: neither creates the session nor prolongs its life."""
    at_position: int | None = None
    """Refuse unless the session's position is still this one."""
    at_generation: int | None = None
    """Refuse unless the session is there and of this generation."""
    new: bool = False
    """Refuse if the session is there already."""


class Status(Enum):
    """What became of a write."""

    STORED = "stored"
    """All of it was stored."""
    DELETED = "deleted"
    """Its guard met the fence."""
    MISSING = "missing"
    """A reference is neither stored nor given."""
    MOVED = "moved"
    """The session is not the one, or not where, the change expects it."""
    ABSENT = "absent"
    """Upkeep of a session that is not there."""


@dataclass(slots=True)
class Outcome:
    """The answer to a write; sizes are those after it."""

    status: Status
    """What became of the write; what follows is told where it was stored, and `missing` where it is MISSING."""
    missing: frozenset[str] = frozenset()
    """References that are neither stored nor given."""
    generation: int = 0
    """The session's."""
    position: int = 0
    """The newest position given out."""
    bytes: int = 0
    """Every payload byte of the session."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """For each list that was appended to, placed in or trimmed, and perhaps for others, the number
    of its entries and of their references."""


@dataclass(slots=True)
class Snapshot:
    """The answer to a read. Times are seconds since the epoch."""

    now: float
    """The time of the answer, by the storage's clock."""
    fence: int = 0
    """The newest deleted generation while its tombstone stands, otherwise 0."""
    generation: int = 0
    """0 where there is no such session."""
    position: int = 0
    """The newest position given out."""
    bytes: int = 0
    """Every payload byte of the session."""
    created_at: float = 0.0
    """When the session was created."""
    last_used_at: float = 0.0
    """The last use that was recorded."""
    expires_at: float | None = None
    """The deadline; None where there is none."""
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    """By name, those that were asked for or followed."""
    lists: Mapping[str, Sequence[Entry]] = field(default_factory=dict)
    """By name, their entries in the order of positions."""
    outline: bool = False
    """Whether this is every blob and entry of the session."""


class UnreadablePageError(CorruptRecordError):
    """Some of a page of sessions cannot be read.

    Args:
        unread: What is wrong with each of them.
        keys: The others.
        after: Where the next page begins; None after the last.
    """

    def __init__(self, unread: Sequence[CorruptRecordError], keys: Sequence[SessionKey], after: str | None) -> None:
        more = f", and {len(unread) - 1} more like it" if len(unread) > 1 else ""
        super().__init__(f"{unread[0]}{more}")
        self.unread = unread
        self.keys = keys
        self.after = after

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.unread, self.keys, self.after)


class Usage(NamedTuple):
    """What a storage holds."""

    sessions: int
    """How many sessions, those included that expired and are not freed yet."""
    bytes: int
    """Their bytes: all payloads, and as much of the storage's own overhead as it knows of."""


def generation_at(now: float) -> int:
    """The generation of a session that is created at this time, unless it is given out already."""
    return int(now * 1_000_000)


def created_in(generation: int) -> float:
    """When a session of this generation was created, in seconds since the epoch."""
    return generation / 1_000_000
