"""A cache of the blobs that this process recently read or wrote in Redis, so that a read need not send them again.

Within an edition of a session a number stands for the same blob with the same content; the edition ends when a
blob is dropped or set again with other content, and is told with every answer. A read says which numbers are
remembered here, and the server leaves them out if generation, edition and lineage are still the same. Lists
are always sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, keys_concerned
from langchain_ttl_history.storage.redis.lineage import later, newest
from langchain_ttl_history.storage.redis.numbers import SessionNumbers
from langchain_ttl_history.storage.redis.references import flat_runs
from langchain_ttl_history.storage.types import Blob, Change

__all__ = ["NOTHING", "Mirror", "Mirrors", "Remembered", "Seen", "Stored"]

# How many bytes are remembered of one session, and of all together.
_EACH = 4 * 1024 * 1024
_BYTES = 32 * 1024 * 1024
# What a name and its containers cost besides the payload, and what a session costs in which nothing is remembered, in
# bytes.
_OVERHEAD = 300
_SESSION = 2_000


class Remembered(NamedTuple):
    """What a read tells the server that is remembered; its first four fields are arguments of the script."""

    generation: int = -1
    edition: int = -1
    by: str = ""
    """The id of the newest request that was known then."""
    runs: Sequence[int] = ()
    """The numbers, as kind, first number and count of each run."""
    numbers: Mapping[str, int] = {}
    """The same numbers by name; not sent."""


NOTHING = Remembered()


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


class Mirror:
    """Some blobs of one edition of a session, with all they refer to. Others may be added, never changed.

    Args:
        generation: The session's.
        edition: The session's.
        requests: The newest requests; see `lineage`. `Mirrors` sets them, with its lock held, before adding what an
            answer tells; read them after reading anything else, since threads read a mirror without a lock.
    """

    __slots__ = ("blobs", "edition", "generation", "numbers", "requests", "size")

    def __init__(self, generation: int, edition: int, requests: bytes) -> None:
        self.generation: int = generation
        self.edition: int = edition
        self.requests: bytes = requests
        self.blobs: dict[str, Blob] = {}
        self.numbers: dict[str, int] = {}
        self.size: int = _SESSION

    def add(self, found: Mapping[str, Blob], numbers: Mapping[str, int]) -> None:
        """Remember what was found, if it has a number and all it refers to is known."""
        blobs = self.blobs
        is_known = blobs.__contains__
        waiting = [(name, blob) for name, blob in found.items() if name in numbers and not blob.also]
        while waiting:
            unresolved = []
            for name, blob in waiting:
                if blob.refs and not all(map(is_known, blob.refs)):
                    unresolved.append((name, blob))
                    continue
                if name not in blobs:
                    self.size += _OVERHEAD + len(blob.payload)
                blobs[name] = blob
                self.numbers[name] = numbers[name]
            if len(unresolved) == len(waiting):
                break
            waiting = unresolved

    def without(self, names: Collection[str], edition: int) -> Mirror:
        """The mirror for the next edition, in which these names were dropped or set again."""
        gone = set(names)
        mirror = Mirror(self.generation, edition, self.requests)
        mirror.add({name: blob for name, blob in list(self.blobs.items()) if name not in gone}, self.numbers)
        return mirror

    def names(self) -> dict[int, str]:
        """The names by their numbers."""
        return {number: name for name, number in list(self.numbers.items())}

    def remembered(self) -> Remembered:
        """What a read tells the server about this mirror."""
        numbers = dict(self.numbers)
        runs = flat_runs(numbers.values())
        return Remembered(self.generation, self.edition, newest(self.requests).decode(), runs, numbers)

    def complete(
        self, blobs: dict[str, Blob], refs: Iterable[str], follow: tuple[str, ...], known: AbstractSet[str]
    ) -> None:
        """Add the remembered blobs that these references lead to, except those the caller knows."""
        find = self.blobs.get
        pending = list(refs)
        while pending:
            name = pending.pop()
            if name not in blobs and name not in known and name[:1] in follow:
                blob = find(name)
                if blob is not None:
                    blobs[name] = blob
                    pending += blob.refs


class Seen(NamedTuple):
    """What the answer to a read tells for the cache."""

    mirror: Mirror
    """The one that completed it, or else a new one."""
    requests: bytes
    """The newest requests then; see `lineage`."""
    blobs: Mapping[str, Blob]
    """What it found."""
    lasting: Mapping[str, int]
    """The numbers of those of them that were never set again with other content, and so may be remembered."""


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

    def after_read(self, key: SessionKey, seen: Seen | None, deletions: int) -> None:
        """Remember what a read found.

        Args:
            key: The session.
            seen: What to remember; None if there is no session.
            deletions: How many deletions there had been when the read began.
        """
        with self._lock:
            if seen is None:
                self._keep(key, None)
                return
            mirror = seen.mirror
            latest = later(seen.requests, mirror.requests)
            if latest is None:
                return  # What others were answered meanwhile descends from other writes.
            mirror.requests = latest
            mirror.add(seen.blobs, seen.lasting)
            known = self._mirrors.get(key)
            if deletions != self.deletions and (known is None or known.generation != mirror.generation):
                return  # It may have been deleted meanwhile, and perhaps was begun anew.
            if (
                known is None
                or known.generation != mirror.generation
                or known.edition <= mirror.edition
                or later(mirror.requests, known.requests) is None
            ):
                self._keep(key, mirror)

    def after_write(self, key: SessionKey, stored: Stored, change: Change) -> None:
        """Remember what a write stored, and forget what it dropped or set again with other content."""
        told, (before, after) = stored.known, stored.editions
        with self._lock:
            mirror = self._mirrors.get(key)
            if mirror is None:
                return
            latest = later(told.requests, mirror.requests)
            if mirror.generation == told.generation and mirror.edition > before and latest is not None:
                return  # Another write, after this one, was answered first.
            if (mirror.generation, mirror.edition) != (told.generation, before) or latest is None:
                mirror = None
            else:
                if after != before:
                    again = [name for name in change.blobs if name not in stored.lasting]
                    mirror = mirror.without([*change.drop, *again], after)
                mirror.requests = latest
                mirror.add(change.blobs, stored.lasting)
            self._keep(key, mirror)

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
