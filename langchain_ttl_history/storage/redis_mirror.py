"""The blobs that this process lately read or wrote in Redis, so that a read need not send them again.

A blob is what its number says for as long as its session's edition lasts, which the server tells with
every answer: an edition ends when a blob is dropped, or set anew with another content. A read says
which numbers are remembered here, and only if edition and generation are still the same the server
leaves them out. Lists are always sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from threading import Lock

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Blob
from langchain_ttl_history.storage.redis_numbers import KIND

__all__ = ["Mirror", "Mirrors"]

# How many bytes are remembered of a session, and of all together.
_EACH = 4 * 1024 * 1024
_BYTES = 32 * 1024 * 1024
# What a name and its containers cost besides the payload, in bytes.
_OVERHEAD = 300


class Mirror:
    """Some blobs of one edition of a session, with all they refer to. It is never changed, only replaced."""

    __slots__ = ("blobs", "edition", "generation", "numbers", "size")

    def __init__(
        self,
        generation: int,
        edition: int,
        found: Mapping[str, Blob],
        numbers: Mapping[str, int],
        base: Mirror | None = None,
    ) -> None:
        """Remember what was found, and what was remembered before; what has no number is not."""
        self.generation = generation
        self.edition = edition
        self.blobs: dict[str, Blob] = dict(base.blobs) if base else {}
        self.numbers: dict[str, int] = dict(base.numbers) if base else {}
        self.size: int = base.size if base else 0
        is_known = self.blobs.__contains__
        waiting = [(name, blob) for name, blob in found.items() if name in numbers and not blob.also]
        while True:
            later = []
            for name, blob in waiting:
                if not blob.refs or all(map(is_known, blob.refs)):
                    if name not in self.blobs:
                        self.size += _OVERHEAD + len(blob.payload)
                    self.blobs[name] = blob
                    self.numbers[name] = numbers[name]
                else:
                    later.append((name, blob))
            if len(later) in (0, len(waiting)):
                break
            waiting = later

    def without(self, names: Collection[str], edition: int) -> Mirror:
        """The next edition, which has something else for these names, or nothing."""
        if not any(name in self.blobs for name in names):
            mirror = Mirror(self.generation, edition, {}, {}, self)
        else:
            gone = set(names)
            found = {name: blob for name, blob in self.blobs.items() if name not in gone}
            mirror = Mirror(self.generation, edition, found, self.numbers)
        return mirror

    def runs(self) -> list[int]:
        """The numbers, as kind, first number and count of each run."""
        runs: list[int] = []
        first = after = -1
        for number in sorted(self.numbers.values()):
            if number != after:
                if after >= 0:
                    runs += (first >> KIND, first & _NUMBER, after - first)
                first = number
            after = number + 1
        if after >= 0:
            runs += (first >> KIND, first & _NUMBER, after - first)
        return runs

    def complete(self, blobs: dict[str, Blob], refs: Iterable[str], follow: tuple[str, ...]) -> None:
        """Add what these references lead to."""
        find = self.blobs.get
        pending = list(refs)
        while pending:
            name = pending.pop()
            if name not in blobs and name[:1] in follow:
                blob = find(name)
                if blob is not None:
                    blobs[name] = blob
                    pending += blob.refs


_NUMBER = (1 << KIND) - 1


class Mirrors:
    """Those of many sessions; the least recently used is forgotten first."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._mirrors: OrderedDict[SessionKey, Mirror] = OrderedDict()
        self._size = 0

    def of(self, key: SessionKey) -> Mirror | None:
        """What is remembered of a session."""
        return self._mirrors.get(key)

    def read(self, key: SessionKey, mirror: Mirror | None) -> None:
        """Remember what a read found; None if there is no session."""
        with self._lock:
            self._keep(key, mirror)

    def wrote(
        self, key: SessionKey, generation: int, editions: tuple[int, int], found: Mapping[str, Blob],
        numbers: Mapping[str, int], gone: Collection[str],
    ) -> None:  # fmt: skip
        """Remember what a write stored, between two editions, and forget what it dropped or set anew."""
        before, after = editions
        with self._lock:
            mirror = self._mirrors.get(key)
            if mirror is None or (mirror.generation == generation and mirror.edition > before):
                return  # Or the answer to a write that another overtook.
            if (mirror.generation, mirror.edition) != (generation, before):
                self._keep(key, None)
                return
            if after != before:
                mirror = mirror.without(gone, after)
            self._keep(key, Mirror(generation, after, found, numbers, mirror))

    def forget(self, user_id: str, session_id: str | None) -> None:
        """Forget a session, or all of a user's."""
        with self._lock:
            for key in [key for key in self._mirrors if key.user_id == user_id]:
                if session_id in (None, key.session_id):
                    self._keep(key, None)

    def _keep(self, key: SessionKey, mirror: Mirror | None) -> None:
        old = self._mirrors.pop(key, None)
        self._size -= old.size if old else 0
        if mirror is not None and mirror.size <= _EACH:
            self._mirrors[key] = mirror
            self._size += mirror.size
            while self._size > _BYTES:
                _, oldest = self._mirrors.popitem(last=False)
                self._size -= oldest.size
