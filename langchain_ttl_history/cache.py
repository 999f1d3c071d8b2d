"""A cache of what this process read or wrote of sessions, so that a put needs no read.

It may be outdated. A write that is planned with it names the generation it expects, and refers to the
bodies it leaves out; if either is wrong the storage refuses, and the write is planned again from a read:

```text
 a run loads its checkpoint   c1 is known, with its messages m1 m2; the run's token holds what is known of the session
 it puts the next one         a write of c2 and m3, which refers to m1 and m2 and expects generation 7
 it is stored                 c2 and m3 are known as well
 the session ends, and the
 run puts one more            a write that expects generation 7 is refused; all that the run needs in generation 8 is
                              taken from what its token holds
```
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from weakref import WeakValueDictionary

from langchain_ttl_history.cached_session import CachedSession, Generations
from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, keys_concerned
from langchain_ttl_history.recent_names import RecentNames
from langchain_ttl_history.waiting_changes import EarlyInterrupts, PlansToFree

__all__ = ["SessionCache"]

# How many sessions are remembered, and how many bytes of the bodies of all together.
_SESSIONS = 1000
_BYTES = 32 * 1024 * 1024


class SessionCache:
    """A bounded memory of what is known of sessions; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = lock()
        # The sessions used last.
        self._recent: OrderedDict[SessionKey, Generations] = OrderedDict()
        # All that anyone holds: a run under way keeps its own here after `_recent` had no more room for it.
        self._held: WeakValueDictionary[SessionKey, Generations] = WeakValueDictionary()
        self._bytes = 0
        self._put = RecentNames()
        self._said = RecentNames()
        self.plans: PlansToFree = PlansToFree()
        """What can be freed of sessions."""
        self.early: EarlyInterrupts = EarlyInterrupts()
        """Interrupts that were stored before their checkpoints."""

    def held(self, key: SessionKey) -> object:
        """What a run that begins now has to hold, so that what it builds on stays known."""
        known = self._known(key)
        return known, None if known is None else known.last

    def last(self, key: SessionKey) -> CachedSession | None:
        """What is known of the generation of a session that was seen last, even if that is gone by now."""
        known = self._known(key)
        return None if known is None else known.last

    def generations(self, key: SessionKey) -> list[CachedSession]:
        """What is known of the generation of a session that was seen last, and of those before it."""
        known = self._known(key)
        return [] if known is None else known.all()

    def last_with(self, key: SessionKey, name: str, generation: int | None) -> CachedSession | None:
        """What is known of the generation that has a checkpoint; if that is not remembered, of the given one."""
        known = self.generations(key)
        having = [each for each in known if name in each.records]
        matching = having or [each for each in known if each.generation == generation]
        return matching[0] if matching else None

    def advance_to(self, key: SessionKey, generation: int) -> CachedSession:
        """Make this generation a session's last one, and return what is known of it.

        Of a new generation nothing is known at first; what was known of the one before stays with it (`before`).
        Generation 0 stands for one that is not told yet: the next generation that is takes over what is known of it.
        """
        with self._lock:
            known = self._known(key)
            if known is None:
                known = self._held[key] = Generations(CachedSession(generation))
            elif not known.last.generation:
                known.last.generation = generation  # It begins with what was stored before this was told.
            elif known.last.generation != generation:
                known.begin(generation)
            elif known.last.bodies.size > _BYTES:
                known.last = CachedSession(generation)  # Too much by itself.
            self._recent[key] = known
            self._recent.move_to_end(key)
            if len(self._recent) > _SESSIONS:
                self._remove(next(iter(self._recent)))
            return known.last

    def count(self, key: SessionKey) -> None:
        """Count the bytes that were learned of a session, and forget others if all together are too many."""
        with self._lock:
            known = self._recent.get(key)
            if known is None:
                return
            size = known.last.size
            self._bytes += size - known.counted
            known.counted = size
            while len(self._recent) > 1 and self._bytes > _BYTES:
                self._remove(next(iter(self._recent)))

    def _known(self, key: SessionKey) -> Generations | None:
        return self._recent.get(key) or self._held.get(key)

    def _remove(self, key: SessionKey) -> None:
        known = self._recent.pop(key, None)
        if known is not None:
            self._bytes -= known.counted
            known.counted = 0

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

    def drop(self, user_id: str, session_id: str | None = None) -> None:
        """Forget what was said in a session, or in all of a user's."""
        with self._lock:
            for key in keys_concerned({*self._recent, *self._held.keys()}, user_id, session_id):
                self._remove(key)
                self._held.pop(key, None)
        self.plans.drop(user_id, session_id)
        self.early.drop(user_id, session_id)
