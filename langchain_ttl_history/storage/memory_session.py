"""One session in memory: its blobs and lists, its times, and how a write changes them.

The memory storage keeps sessions so, and the SQLite storage what a process remembers of a session. An example:

```text
 blobs     h, which refers to c1 and has mark 1; c1, which refers to m1 m2 v1; m1 m2 m3 v1
 log       1, which refers to m2; 2, which refers to m3; its weight is 4
 a read    of h, the log after the mark of h, and the c and m that they lead to
 finds     h c1 m1 m2 m3, and entry 2
 a write   drops m3 and trims entry 2: the weight is 2 then, and next comes position 3
```
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import filterfalse

from langchain_ttl_history.storage.types import KEEP, Blob, Change, Entry, Keep, Lease, Query, Snapshot

__all__ = ["REFERENCE", "MemorySession"]

# What a name and its container cost besides the payload, in bytes.
_OVERHEAD = 200
REFERENCE = 8
"""What each reference costs, in bytes: a checkpoint that shows thousands of messages holds little else."""
# Fewer references than this are looked up faster than compared with `sound`.
_MANY = 8


class MemorySession:
    """One session's contents and times; its storage's lock guards it."""

    __slots__ = (
        "blobs", "bytes", "cost", "created_at", "deadline", "generation", "idle_ttl", "last_used_at",
        "lists", "position", "queued_until", "references", "sound", "weights",
    )  # fmt: skip

    def __init__(self, generation: int, now: float) -> None:
        self.generation: int = generation
        self.created_at: float = now
        self.last_used_at: float = now
        self.deadline: float | None = None
        self.queued_until: float | None = None
        """Where it stands in its storage's `ExpiryQueue`: never after its deadline; None if it does not."""
        self.idle_ttl: float | Keep | None = KEEP
        self.position: int = 0
        self.bytes: int = 0
        self.references: int = 0
        """How many references all blobs and entries have."""
        self.blobs: dict[str, Blob] = {}
        self.lists: dict[str, list[Entry]] = {}
        self.weights: dict[str, int] = {}
        self.sound: tuple[str, ...] = ()
        """References that were found to be stored; valid until something is dropped."""
        self.cost: int = 0
        """How many bytes it counts for in the storage's `max_bytes`."""

    def is_expired(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and now >= self.deadline

    def use(self, now: float, lease: Lease) -> None:
        """Record a use, and move the deadline."""
        self.last_used_at = now
        if self.idle_ttl is KEEP and lease.max_age is None and lease.idle_ttl is not None:
            self.deadline = now + lease.idle_ttl  # The result of `renew` for most sessions, found faster.
        else:
            self.renew(lease)

    def renew(self, lease: Lease) -> None:
        """Set the deadline anew, from the last use."""
        idle = lease.idle_ttl if isinstance(self.idle_ttl, Keep) else self.idle_ttl
        ends = [] if idle is None else [self.last_used_at + idle]
        if lease.max_age is not None:
            ends.append(self.created_at + lease.max_age)
        self.deadline = min(ends, default=None)

    def missing(self, refs: tuple[str, ...]) -> list[str]:
        """Which of these references lead to no blob."""
        known = len(self.sound)
        # Usually these are the references of the previous checkpoint and a few more.
        rest = refs[known:] if known and refs[:known] == self.sound else refs
        found = list(filterfalse(self.blobs.__contains__, rest))
        if not found and len(refs) >= _MANY:
            self.sound = refs
        return found

    def set(self, named: Iterable[tuple[str, Blob]]) -> None:
        """Set blobs."""
        blobs = self.blobs
        for name, blob in named:
            old = blobs.get(name)
            if old is None:
                more, references = len(blob.payload), len(blob.refs)
            else:
                more, references = len(blob.payload) - len(old.payload), len(blob.refs) - len(old.refs)
            self.bytes += more
            self.references += references
            blobs[name] = blob

    def replace(self, name: str, entries: list[Entry]) -> None:
        """Set a list's entries."""
        old = self.lists.get(name, ())
        weight = sum(1 + len(entry.refs) for entry in entries)
        self.bytes += sum(len(entry.payload) for entry in entries)
        self.bytes -= sum(len(entry.payload) for entry in old)
        self.references += weight - len(entries) - self.weights.get(name, 0) + len(old)
        if entries:
            self.lists[name] = entries
            self.weights[name] = weight
        else:
            self.lists.pop(name, None)
            self.weights.pop(name, None)

    def append(self, name: str, payload: bytes, refs: tuple[str, ...], least: int = 0) -> None:
        """Append to a list, at the next position, or at `least` if that is later."""
        self.position = max(self.position + 1, least)
        self.bytes += len(payload)
        self.add(name, Entry(self.position, payload, refs))

    def add(self, name: str, entry: Entry) -> None:
        """Put an entry at the end of a list; its position and bytes are counted already."""
        entries, references = self.lists.get(name), len(entry.refs)
        self.references += references
        if entries is None:
            self.lists[name] = [entry]
            self.weights[name] = 1 + references
        else:
            entries.append(entry)
            self.weights[name] += 1 + references

    def place(self, placed: Iterable[tuple[str, Entry]]) -> None:
        """Put entries at positions of their own; those that are there already are replaced."""
        # A copy of a session places all its entries, so each list is merged once and not for each entry.
        merged: dict[str, dict[int, Entry]] = {}
        for name, entry in placed:
            if name not in merged:
                merged[name] = {each.position: each for each in self.lists.get(name, ())}
            merged[name][entry.position] = entry
            self.position = max(self.position, entry.position)
        for name, entries in merged.items():
            self.replace(name, sorted(entries.values()))

    def snapshot(self, query: Query, now: float, fence: int) -> Snapshot:
        """What a read asks for."""
        outline = query.outline or any(self.weights.get(name, 0) > most for name, most in query.outline_over.items())
        if outline:
            blobs, lists = dict(self.blobs), {name: list(entries) for name, entries in self.lists.items()}
        else:
            blobs, lists = self._found(query)
        return Snapshot(
            now=now,
            fence=fence,
            generation=self.generation,
            position=self.position,
            bytes=self.bytes,
            created_at=self.created_at,
            last_used_at=self.last_used_at,
            expires_at=self.deadline,
            blobs=blobs,
            lists=lists,
            outline=outline,
        )

    def _found(self, query: Query) -> tuple[dict[str, Blob], dict[str, list[Entry]]]:
        """The blobs and lists that a query names, and those that it follows from them."""
        blobs: dict[str, Blob] = {}
        lists: dict[str, list[Entry]] = {}
        stored, follow, is_known = self.blobs, query.follow, query.known.__contains__
        pending = list(query.names)
        if query.after_mark is not None:
            name, marked = query.after_mark
            mark = stored[marked].mark if marked in stored else 0
            lists[name] = _after(self.lists.get(name, []), mark)
            pending += [ref for entry in lists[name] for ref in entry.refs if ref[0] in follow]
        while pending:
            name = pending.pop()
            if name in stored:
                blob = blobs[name] = stored[name]
                refs = (*blob.refs, *blob.also) if blob.also else blob.refs
            elif name in self.lists and name not in lists:
                lists[name] = list(self.lists[name])
                refs = tuple(ref for entry in lists[name] for ref in entry.refs)
            else:
                continue
            for ref in filterfalse(is_known, refs):
                if ref[0] in follow:
                    found = stored.get(ref)
                    if found is None or found.refs or found.also:
                        if ref not in blobs:
                            pending.append(ref)
                    else:
                        blobs[ref] = found  # It leads nowhere, so it need not be pending.
        return blobs, lists

    def apply(self, change: Change, least: int = 0) -> None:
        """Change the contents as a write says; what it appends gets no position before `least`."""
        blobs = self.blobs
        self.set(change.blobs.items())
        for name, payload, refs in change.append:
            self.append(name, payload, refs, least)
        if change.place:
            self.place(change.place)
        # Entries go before the blobs they refer to: an exception from a signal handler may come between any two steps.
        for name, positions in change.trim.items():
            kept = [entry for entry in self.lists.get(name, ()) if entry.position not in positions]
            self.replace(name, kept)
        if change.drop:
            self.sound = ()
        for name in change.drop:
            gone = blobs.pop(name, None)
            if gone is not None:
                self.bytes -= len(gone.payload)
                self.references -= len(gone.refs)
            if name in self.lists:
                self.replace(name, [])
        self.cost = self.bytes + REFERENCE * self.references + _OVERHEAD * (1 + len(blobs) + len(self.weights))

    def weights_of(self, change: Change) -> dict[str, int]:
        """The weights of the lists that a write changed."""
        weights = self.weights
        found = {name: weights[name] for name, _, _ in change.append if name in weights}
        if change.place or change.trim:
            names = [*change.trim, *(name for name, _ in change.place)]
            found.update({name: weights[name] for name in names if name in weights})
        return found


def _after(entries: list[Entry], mark: int) -> list[Entry]:
    """The entries after a position; they stand in the order of their positions."""
    start = len(entries)
    while start and entries[start - 1].position > mark:
        start -= 1
    return entries[start:]
