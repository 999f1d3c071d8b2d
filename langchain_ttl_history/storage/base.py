"""The storage contract: sessions of named bytes with a deadline.

A storage keeps, for each `SessionKey`, named **blobs** (bytes, set whole) and named **lists**
(entries in the order they arrived), and knows nothing of what they mean. Each verb is one atomic
request, and each has an async twin with an ``a`` before its name.

* **Positions.** Every list entry gets a position when it is stored. Positions count up through
  the whole session, never repeat within a generation, and order everything that happened.
* **References.** A blob or an entry may name blobs it needs. A read can follow them; a write
  whose references are neither stored nor part of the write stores nothing and says what is
  missing. A blob lives until it is dropped, whether or not anything refers to it.
* **Generations.** A session that is created anew, after expiry, eviction or deletion, gets a
  larger generation: its creation in whole microseconds since the epoch, or the next free number.
* **Deadlines.** The storage's own clock decides. A session is readable until its deadline and
  then gone whole, as if it had never been; what frees its bytes, and when, is never visible.
* **Deletion** leaves a tombstone: the key's digest, the newest deleted generation (the *fence*)
  and its own deadline; no content. A write guarded by a generation at or before the fence is
  refused. Deleting all of a user's sessions leaves one for the user, which counts for every
  session of theirs, whether it was there or not.
* **Reading never creates**, and looking something up without a lease never prolongs a life.
* A storage that cannot answer raises `StorageError`; it never answers with an empty session. One
  that finds what it keeps damaged raises `CorruptRecordError`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

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
    "SessionKey",
    "Snapshot",
    "Status",
    "Storage",
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


class Storage(Protocol):
    """A place that keeps sessions."""

    private: bool
    """Whether only this process can write to it."""
    slack: float
    """How far over its caps a session may grow before it is freed, between 1 and 3: 1.25 is by a quarter. More keeps
    more that nobody is shown, and frees less often; no reader sees either."""

    @abstractmethod
    def read(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session.

        Costs what it returns, not what the session holds (but for `Query.outline`).
        """

    @abstractmethod
    def write(self, key: SessionKey, change: Change) -> Outcome:
        """Change one session."""

    @abstractmethod
    def delete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Delete a session, or all of a user's, leaving tombstones for so many seconds.

        Returns how many live sessions there were.
        """

    @abstractmethod
    def sessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """A page of a user's live sessions, or of everyone's, least recently used first.

        Returns keys and what to pass as `after` for the next page; None ends it.
        """

    @abstractmethod
    def usage(self) -> Usage:
        """How much is held, expired sessions that were not freed yet included."""

    @abstractmethod
    def sweep(self) -> int:
        """Free everything that expired. Returns how many sessions that were."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what this storage opened itself."""

    @abstractmethod
    async def aread(self, key: SessionKey, query: Query) -> Snapshot:
        """Async `read`."""

    @abstractmethod
    async def awrite(self, key: SessionKey, change: Change) -> Outcome:
        """Async `write`."""

    @abstractmethod
    async def adelete(self, user_id: str, session_id: str | None, tombstone_ttl: float) -> int:
        """Async `delete`."""

    @abstractmethod
    async def asessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """Async `sessions`."""

    @abstractmethod
    async def ausage(self) -> Usage:
        """Async `usage`."""

    @abstractmethod
    async def asweep(self) -> int:
        """Async `sweep`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Async `close`."""
