"""What a process remembers of the sessions it lately used in a SQLite file: pure, without I/O.

Every write gives a session's row a new version. What is remembered at a version is true as long as
the row, which each verb reads first, still has it; so a session that one process uses is read from
its memory, and what another process wrote is always seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import TypeVar

from langchain_ttl_history.storage.base import Blob, Change, Entry, Query
from langchain_ttl_history.storage.sqlite_row import Row

__all__ = ["Found", "Mirror", "Mirrors"]

T = TypeVar("T")

# How many sessions are remembered, how many bytes of each and of all together.
_SESSIONS = 1_000
_EACH = 4 * 1024 * 1024
_BYTES = 64 * 1024 * 1024
# What a name and its containers cost besides the payload, in bytes.
_OVERHEAD = 200

Blobs = dict[str, Blob]
Lists = dict[str, list[Entry]]
Found = tuple[Blobs, Lists]
"""Blobs and lists, as a read answers with them."""


class Mirror:
    """What is known of one session at one version.

    Attributes:
        row: Its row.
        weights: Of every list.
        stored: Names of blobs that are stored, and perhaps not known further.
    """

    __slots__ = ("_absent", "_blobs", "_tails", "_whole", "row", "size", "stored", "weights")

    def __init__(self, row: Row, weights: dict[str, int], *, whole: bool = False) -> None:
        self.row = row
        self.weights = weights
        self.stored: set[str] = set()
        self.size = _OVERHEAD
        self._whole = whole
        self._blobs: Blobs = {}
        self._absent: set[str] = set()
        # For a list, the position after which its entries are known, and these.
        self._tails: dict[str, tuple[int, list[Entry]]] = {}

    # Reading

    def is_over(self, bounds: Mapping[str, int]) -> bool:
        """Whether one of the lists weighs more than its bound."""
        return any(self.weights.get(name, 0) > most for name, most in bounds.items())

    def outline(self) -> Found | None:
        """Every blob and entry; None if not all are known."""
        if not self._whole or any(self._tails.get(name, (1, ()))[0] for name in self.weights):
            return None
        return dict(self._blobs), {name: list(self._tails[name][1]) for name in self.weights}

    def content(self, query: Query) -> Found | None:
        """What a query asks by name; None if not all of it is known."""
        blobs: Blobs = {}
        lists: Lists = {}
        known, follow = self._blobs, query.follow
        pending = list(query.names)
        if query.after_mark is not None:
            listed, marked = query.after_mark
            entries = self._after(listed, marked)
            if entries is None:
                return None
            lists[listed] = entries
            pending += [ref for entry in entries for ref in entry.refs if ref[:1] in follow]
        while pending:
            name = pending.pop()
            blob = known.get(name)
            if blob is not None:
                blobs[name] = blob
                refs = (*blob.refs, *blob.also) if blob.also else blob.refs
            elif name in lists or self._is_absent(name):
                continue
            else:
                since, tail = self._tail(name) if name in self.weights else (1, [])
                if since:
                    return None
                lists[name] = list(tail)
                refs = tuple(ref for entry in tail for ref in entry.refs)
            for ref in refs:
                if ref[:1] in follow and ref not in blobs:
                    found = known.get(ref)
                    if found is None or found.refs or found.also:
                        pending.append(ref)
                    else:
                        blobs[ref] = found
        return blobs, lists

    def _after(self, listed: str, marked: str) -> list[Entry] | None:
        """The entries of a list after the mark of a blob; None if they are not known."""
        blob = self._blobs.get(marked)
        if blob is None and not self._is_absent(marked):
            return None
        mark = blob.mark if blob else 0
        since, tail = self._tail(listed)
        return None if since > mark else [entry for entry in tail if entry[0] > mark]

    def _tail(self, name: str) -> tuple[int, list[Entry]]:
        """The position after which a list is known, and what is after it."""
        if name not in self.weights:
            return 0, []
        return self._tails.get(name) or (1 << 63, [])

    def _is_absent(self, name: str) -> bool:
        """Whether there is neither a blob nor a list of this name for sure."""
        return name not in self.weights and name not in self.stored and (self._whole or name in self._absent)

    def size_of(self, name: str) -> int | None:
        """The bytes of a blob, 0 if there is none; None if that is not known."""
        blob = self._blobs.get(name)
        if blob is not None:
            return len(blob.payload)
        return 0 if self._is_absent(name) else None

    # Learning what was read

    def learn(self, found: Found, absent: Iterable[str] = (), since: Mapping[str, int] | None = None) -> None:
        """Remember what was read.

        Args:
            found: What it found.
            absent: Names it looked for and did not find.
            since: For a list of which it read a part, the position after which.
        """
        blobs, lists = found
        for name, blob in blobs.items():
            self._set(name, blob)
        if len(self._absent) > 1_000:
            self._absent.clear()
        self._absent.update(absent)
        for name, entries in lists.items():
            start = (since or {}).get(name, 0)
            if self._tails.get(name, (start, None))[0] >= start and name in self.weights:
                self._forget(name)
                self._tails[name] = (start, list(entries))
                self.size += _cost(entries)

    def learn_whole(self, found: Found) -> None:
        """Remember all there is."""
        self._blobs, self._tails, self._absent, self.size = {}, {}, set(), _OVERHEAD
        self.learn(found)
        self._whole = True

    # Following a write

    def follow(self, change: Change, row: Row, weights: dict[str, int]) -> None:
        """Be what the session is after a change.

        Args:
            change: The change.
            row: The row after it.
            weights: Of every list after it.
        """
        for name, blob in change.blobs.items():
            self._set(name, blob)
        position = self.row.position
        for name, payload, refs in change.append:
            position += 1
            if name not in self.weights and name not in self._tails:
                self._tails[name] = (0, [])
            if name in self._tails:
                entry = Entry(position, payload, refs)
                self._tails[name][1].append(entry)
                self.size += _cost((entry,))
        for name, _ in change.place:
            self._forget(name)
        for name in change.drop:
            self._forget(name)
            old = self._blobs.pop(name, None)
            if old is not None:
                self.size -= len(old.payload) + _OVERHEAD
            self.stored.discard(name)
        for name, positions in change.trim.items():
            since, tail = self._tails.get(name, (0, []))
            if tail:
                self._forget(name)
                tail = [entry for entry in tail if entry[0] not in positions]
                self._tails[name] = (since, tail)
                self.size += _cost(tail)
        self.weights, self.row = weights, row

    def _set(self, name: str, blob: Blob) -> None:
        old = self._blobs.get(name)
        self.size += (
            len(blob.payload) + 60 * len(blob.refs) - (len(old.payload) + 60 * len(old.refs) if old else -_OVERHEAD)
        )
        self._blobs[name] = blob
        self.stored.add(name)

    def _forget(self, name: str) -> None:
        """Forget the entries of a list."""
        if name in self._tails:
            self.size -= _cost(self._tails.pop(name)[1])


def _cost(entries: Iterable[Entry]) -> int:
    return sum(len(entry.payload) + 60 * len(entry.refs) + _OVERHEAD for entry in entries)


class Mirrors:
    """The mirrors of the sessions used last, bounded in number and bytes; safe to share among threads.

    A write takes a mirror out and puts it back once it is through, so that no read sees half of it.
    They are found by the digests of the sessions' keys.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._mirrors: OrderedDict[bytes, tuple[Mirror, int]] = OrderedDict()
        self._bytes = 0

    def ask(self, key: bytes, row: Row, question: Callable[[Mirror], T]) -> T | None:
        """What a session's mirror answers; None if there is none of this version."""
        with self._lock:
            mirror, size = self._mirrors.get(key, (None, 0))
            if mirror is None or not _same(mirror.row, row):
                return None
            answer = question(mirror)
            if mirror.size != size:
                self._put(key, mirror)
            return answer

    def take(self, key: bytes) -> Mirror | None:
        """Take a mirror out."""
        with self._lock:
            return self._take(key)

    def put(self, key: bytes, mirror: Mirror) -> None:
        """Put a mirror in, or back."""
        with self._lock:
            self._put(key, mirror)

    def renew(self, key: bytes, before: Row, row: Row) -> None:
        """Go on with a session of which nothing but the row changed."""
        with self._lock:
            mirror = self._mirrors.get(key, (None, 0))[0]
            if mirror is not None and _same(mirror.row, before):
                mirror.row = row

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forget sessions that are gone."""
        with self._lock:
            for key in keys:
                self._take(key)

    def _take(self, key: bytes) -> Mirror | None:
        mirror, size = self._mirrors.pop(key, (None, 0))
        self._bytes -= size
        return mirror

    def _put(self, key: bytes, mirror: Mirror) -> None:
        self._take(key)
        if mirror.size > _EACH:
            mirror = Mirror(mirror.row, mirror.weights)
        self._mirrors[key] = (mirror, mirror.size)
        self._bytes += mirror.size
        while len(self._mirrors) > _SESSIONS or self._bytes > _BYTES:
            self._bytes -= self._mirrors.popitem(last=False)[1][1]


def _same(one: Row, other: Row) -> bool:
    return one.generation == other.generation and one.version == other.version
