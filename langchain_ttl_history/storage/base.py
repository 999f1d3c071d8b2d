"""The storage contract: sessions of named bytes with a deadline.

A storage keeps, for each `SessionKey`, named **blobs** (bytes, set whole) and named **lists**
(entries in the order they arrived), and knows nothing of what they mean. Each verb is one atomic
request, and each has an async twin with an ``a`` before its name.

* **Positions.** Every list entry gets a position when it is stored. Positions increase through
  the whole session, perhaps with gaps, never repeat within a generation, and order everything that
  happened. A storage that may lose writes, as where a backup is brought back, must not give out the
  positions of lost entries again: a run that saw those would take others' later entries for seen.
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
from typing import Protocol

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.types import Change, Outcome, Query, Snapshot, Usage

__all__ = ["SessionKey", "Storage"]


class Storage(Protocol):
    """A place that keeps sessions."""

    private: bool
    """Whether only this process can write to it."""
    slack: float
    """To how many times its caps a session may grow before it is freed, between 1 and 3; 1.25 is a quarter over them. A
    larger slack frees less often, and keeps more that is not shown; what readers see does not depend on it."""

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
        """Delete a session, or all of a user's.

        Args:
            user_id: Whose.
            session_id: Which; None for all of the user's.
            tombstone_ttl: For how many seconds the tombstones stand.

        Returns:
            How many live sessions there were.
        """

    @abstractmethod
    def sessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        """A page of live sessions, least recently used first.

        Args:
            user_id: Whose; None for everyone's.
            after: Where the page begins, as the page before told it; None for the first page.

        Returns:
            The keys, and what to pass as `after` for the next page; None after the last.

        Raises:
            UnreadablePageError: Some of the page cannot be read; the error has the rest of it.
        """

    @abstractmethod
    def usage(self) -> Usage:
        """How much is held, including expired sessions that are not freed yet.

        What is damaged is left out, and logged.
        """

    @abstractmethod
    def sweep(self) -> int:
        """Free everything that expired. What is damaged is left, and logged.

        Returns:
            How many sessions were freed.
        """

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
