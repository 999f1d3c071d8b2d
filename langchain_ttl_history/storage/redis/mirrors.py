"""The sessions in Redis of which this process remembers blobs, and what an answer changes in that.

Threads read and write a session at once, so an answer may come late. It may tell of another generation or edition than
is remembered by now, or descend from other writes (see `lineage`). Then the newer one is kept, as far as that can be
told, and otherwise nothing that was known before:

```text
 edition 1 is remembered; an answer tells of    what is remembered
 a read that found edition 0                    stays, since the answer is the older one
 a read that found edition 2                    gives way to what the read found
 a write in edition 1                           gets the write's blobs
 a write that ends edition 1                    gets them for edition 2, and loses what the write dropped
 a write in edition 0                           stays, since another write, after this one, was answered first
 a write in edition 2                           is forgotten, since others have dropped something in between
```
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, keys_concerned
from langchain_ttl_history.storage.redis.lineage import later
from langchain_ttl_history.storage.redis.mirror import Mirror
from langchain_ttl_history.storage.redis.numbers import SessionNumbers
from langchain_ttl_history.storage.types import Blob, Change

__all__ = ["Found", "Mirrors", "Stored"]

# How many bytes are remembered of one session, and of all together.
_EACH = 4 * 1024 * 1024
_BYTES = 32 * 1024 * 1024


class Found(NamedTuple):
    """What the answer to a read tells for the cache."""

    mirror: Mirror
    """The one that completed it, or else a new one."""
    requests: bytes
    """The newest requests then; see `lineage`."""
    blobs: Mapping[str, Blob]
    """What it found."""
    lasting: Mapping[str, int]
    """The numbers of those of them that were never set again with other content, and so may be remembered."""


class Stored(NamedTuple):
    """What the answer to a write tells for the caches."""

    known: SessionNumbers
    """The numbers of the blobs it stored, in the epoch after it."""
    epoch: int
    """The epoch before it."""
    editions: tuple[int, int]
    """The editions before and after it."""
    lasting: dict[str, int]
    """The numbers of those of its blobs that were never set again with other content, and so may be remembered."""


class Mirrors:
    """The mirrors of many sessions; the least recently used is forgotten first."""

    def __init__(self) -> None:
        self._lock = lock()
        self._mirrors: OrderedDict[SessionKey, Mirror] = OrderedDict()
        # The size with which each mirror was added to `_size`, since mirrors grow.
        self._sizes: dict[SessionKey, int] = {}
        self._size = 0
        self.deletions: int = 0
        """How many there were."""

    def of(self, key: SessionKey) -> Mirror | None:
        """What is remembered of a session."""
        return self._mirrors.get(key)

    def after_read(self, key: SessionKey, found: Found | None, deletions: int) -> None:
        """Remember what a read found.

        Args:
            key: The session.
            found: What to remember; None if there is no session.
            deletions: How many deletions there had been when the read began.
        """
        with self._lock:
            if found is None:
                self._keep(key, None)
                return
            mirror = found.mirror
            latest = later(found.requests, mirror.requests)
            if latest is None:
                return  # What others were answered meanwhile descends from other writes.
            mirror.requests = latest
            mirror.add(found.blobs, found.lasting)
            known = self._mirrors.get(key)
            is_same_session = known is not None and known.generation == mirror.generation
            if deletions != self.deletions and not is_same_session:
                return  # It may have been deleted meanwhile, and perhaps was begun anew.
            if known is None or not _is_newer(known, mirror):
                self._keep(key, mirror)

    def after_write(self, key: SessionKey, stored: Stored, change: Change) -> None:
        """Remember what a write stored, and forget what it dropped or set again with other content."""
        told, (before, after) = stored.known, stored.editions
        with self._lock:
            mirror = self._mirrors.get(key)
            if mirror is None:
                return
            latest = later(told.requests, mirror.requests)
            if mirror.generation != told.generation or latest is None or mirror.edition < before:
                self._keep(key, None)  # It is of another session or lineage, or has what others dropped since.
            elif mirror.edition == before:
                if after != before:
                    again = [name for name in change.blobs if name not in stored.lasting]
                    mirror = mirror.without([*change.drop, *again], after)
                mirror.requests = latest
                mirror.add(change.blobs, stored.lasting)
                self._keep(key, mirror)
            # Otherwise another write, after this one, was answered first.

    def forget(self, user_id: str, session_id: str | None) -> None:
        """Forget a session, or all of a user's, after its deletion."""
        with self._lock:
            self.deletions += 1
            for key in keys_concerned(self._mirrors, user_id, session_id):
                self._keep(key, None)

    def _keep(self, key: SessionKey, mirror: Mirror | None) -> None:
        self._mirrors.pop(key, None)
        self._size -= self._sizes.pop(key, 0)
        if mirror is not None and mirror.size <= _EACH:
            self._mirrors[key] = mirror
            self._sizes[key] = mirror.size
            self._size += mirror.size
            while self._size > _BYTES:
                oldest, _ = self._mirrors.popitem(last=False)
                self._size -= self._sizes.pop(oldest)


def _is_newer(known: Mirror, mirror: Mirror) -> bool:
    """Whether what is known of a session is of a later edition than another mirror of the same lineage."""
    return (
        known.generation == mirror.generation
        and known.edition > mirror.edition
        and later(mirror.requests, known.requests) is not None
    )
