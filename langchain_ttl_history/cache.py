"""A cache of what this process read or wrote of sessions, so that a put needs no read.

It may be outdated. A write that is planned with it names the generation it expects, and refers to the
bodies it leaves out; if either is wrong the storage refuses, and the write is planned again from a read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from weakref import WeakValueDictionary

from langchain_ttl_history.cached_session import CachedSession, CacheEntry
from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, keys_concerned
from langchain_ttl_history.storage.types import Change

__all__ = ["SessionCache"]

# How many sessions are remembered, and how many bytes of the bodies of all together.
_SESSIONS = 1000
_BYTES = 32 * 1024 * 1024
# How many plans are kept, and the early interrupts of how many checkpoints.
_WAITING = 128
# At least so many of the newest puts, and of the newest messages, are remembered: more than there are steps at once.
_RECENT = 500


class _Recent:
    """The generations in which names of sessions were noted last.

    Hashes, since there are many, and each may be held long after what it stands for is gone. Two halves, of which the
    older is dropped as a whole, take less memory and time than one mapping in the order of use.
    """

    def __init__(self) -> None:
        self._lock = lock()
        self._newer: dict[int, int] = {}
        self._older: dict[int, int] = {}

    def note(self, key: SessionKey, name: str, generation: int) -> None:
        """Remember that a name was noted in a generation."""
        newer = self._newer
        newer[hash((key, name))] = generation
        if len(newer) >= _RECENT:
            with self._lock:
                if self._newer is newer:
                    # In this order, so that a reader without the lock finds each entry in one of the two.
                    self._older = newer
                    self._newer = {}

    def generation(self, key: SessionKey, name: str) -> int | None:
        """The generation in which a name was noted; None if it was not lately."""
        known = hash((key, name))
        # The newer half first, since it may become the older one between the two look-ups.
        found = self._newer.get(known)
        return self._older.get(known) if found is None else found


class SessionCache:
    """A bounded memory of what is known of sessions; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = lock()
        self._entries: OrderedDict[SessionKey, CacheEntry] = OrderedDict()
        # All entries that anyone holds: a run under way keeps its own here after `_entries` had no more room for it.
        self._held: WeakValueDictionary[SessionKey, CacheEntry] = WeakValueDictionary()
        self._put = _Recent()
        self._said = _Recent()
        self._plans: OrderedDict[SessionKey, Change] = OrderedDict()
        # By session and checkpoint.
        self._early: OrderedDict[tuple[SessionKey, str], list[Change]] = OrderedDict()
        self._bytes = 0

    def entry(self, key: SessionKey) -> CacheEntry | None:
        """The session's place, if anything is known of it."""
        return self._entries.get(key) or self._held.get(key)

    def held(self, key: SessionKey) -> object:
        """What a run that begins now has to hold, so that what it builds on stays known."""
        entry = self.entry(key)
        return entry, None if entry is None else entry.last

    def last(self, key: SessionKey) -> CachedSession | None:
        """What is known of the generation of a session that was seen last, even if that is gone by now."""
        entry = self._entries.get(key) or self._held.get(key)
        return None if entry is None else entry.last

    def last_with(self, key: SessionKey, name: str, generation: int | None) -> CachedSession | None:
        """What is known of the generation that has a checkpoint; if that is not remembered, of the given one."""
        entry = self.entry(key)
        known = [] if entry is None else entry.generations()
        having = [each for each in known if name in each.records]
        matching = having or [each for each in known if each.generation == generation]
        return matching[0] if matching else None

    def advance_to(self, key: SessionKey, generation: int) -> CachedSession:
        """Make this generation a session's last one, and return what is known of it.

        Of a new generation nothing is known at first; what was known of the one before stays with it (`before`).
        Generation 0 stands for one that is not told yet: the next generation that is takes over what is known of it.
        """
        with self._lock:
            entry = self.entry(key)
            if entry is None:
                entry = self._held[key] = CacheEntry(CachedSession(generation))
            elif not entry.last.generation:
                entry.last.generation = generation  # It begins with what was stored before this was told.
            elif entry.last.generation != generation:
                entry.begin(generation)
            elif entry.last.bodies.size > _BYTES:
                entry.last = CachedSession(generation)
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > _SESSIONS:
                self._remove(next(iter(self._entries)))
            return entry.last

    def count(self, key: SessionKey) -> None:
        """Count the bytes that were learned of a session, and forget others if all together are too many."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            size = entry.last.size
            self._bytes += size - entry.counted
            entry.counted = size
            while len(self._entries) > 1 and self._bytes > _BYTES:
                self._remove(next(iter(self._entries)))

    def _remove(self, key: SessionKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.counted
            entry.counted = 0

    def note_put(self, key: SessionKey, name: str, generation: int) -> None:
        """Remember that a checkpoint, or a list of writes pending on one, was put in this generation."""
        self._put.note(key, name, generation)

    def generation_of_put(self, key: SessionKey, name: str) -> int | None:
        """The generation in which a checkpoint, or a list of writes, is known to have been put; it may be freed by now.

        None if that is not known.
        """
        found = self._put.generation(key, name)
        if found is None:
            # Others were put since, but it may be what a run under way builds on.
            known = self.last_with(key, name, None)
            found = None if known is None else known.generation or None
        return found

    def note_said(self, key: SessionKey, ids: Iterable[str]) -> None:
        """Remember that a history added messages of these ids, in whichever generation."""
        for id in ids:
            self._said.note(key, id, 0)

    def may_have(self, key: SessionKey, id: str) -> bool:
        """Whether this process knows of a message of this id in a session, which may be gone by now."""
        known = self.last(key)
        return self._said.generation(key, id) is not None or (known is not None and id in known.bodies.by_id)

    def keep_plan(self, key: SessionKey, change: Change) -> None:
        """Remember what can be freed of a session."""
        with self._lock:
            self._plans[key] = change
            while len(self._plans) > _WAITING:
                self._plans.popitem(last=False)

    def take_plan(self, key: SessionKey) -> Change | None:
        """Take what can be freed of a session; None if nothing is planned."""
        return self._plans.pop(key, None) if self._plans else None

    def keep_early(self, key: SessionKey, name: str, change: Change) -> None:
        """Remember an interrupt that was stored before its checkpoint; that may be freed before the two can meet."""
        with self._lock:
            self._early.setdefault((key, name), []).append(change)
            while len(self._early) > _WAITING:
                self._early.popitem(last=False)

    def take_early(self, key: SessionKey, name: str) -> Sequence[Change]:
        """Take the interrupts that were stored before this checkpoint."""
        if not self._early:
            return ()
        with self._lock:
            return self._early.pop((key, name), ())

    def drop(self, user_id: str, session_id: str | None = None) -> None:
        """Forget what was said in a session, or in all of a user's."""
        with self._lock:
            known = {*self._entries, *self._held.keys(), *self._plans, *(key for key, _ in self._early)}
            for key in keys_concerned(known, user_id, session_id):
                self._remove(key)
                self._held.pop(key, None)
                self._plans.pop(key, None)
                for early in [each for each in self._early if each[0] == key]:
                    del self._early[early]
