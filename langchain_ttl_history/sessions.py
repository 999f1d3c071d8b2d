"""What all operations on a session share: reading it as it is now, and deleting it, as flows.

The window is cut by `session_window`, and `session_freeing` frees what is over the caps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.flow import Delete, Flow, Read
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.session_freeing import SessionFreeing
from langchain_ttl_history.session_window import SessionWindow
from langchain_ttl_history.storage.types import Lease, Query, Snapshot
from langchain_ttl_history.stored.names import BODY, CHECKPOINT, LOG, pointer_name
from langchain_ttl_history.stored.packed_conversation import EMPTY
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.views import Turn, View, view_of
from langchain_ttl_history.window import Caps

__all__ = ["Sessions"]

_DAY = 86_400.0


@dataclass(frozen=True)
class Sessions:
    """What the operations on a session have in common."""

    codec: Codec
    retention: Retention
    slack: float
    """The storage's; see `Storage.slack`."""
    cache: SessionCache = field(default_factory=SessionCache)

    @cached_property
    def lease(self) -> Lease:
        """By how long each use extends a session."""
        return Lease(self.retention.idle_seconds, self.retention.age_seconds)

    @cached_property
    def tombstone_ttl(self) -> float:
        """For how many seconds the tombstone of a deleted session stands."""
        return max(_DAY, self.retention.idle_seconds or _DAY)

    @cached_property
    def window(self) -> SessionWindow:
        """The window, within the retention's bounds."""
        kept = self.retention
        return SessionWindow(Caps(kept.max_messages, kept.max_tokens, kept.token_counter))

    @cached_property
    def freeing(self) -> SessionFreeing:
        """What frees sessions that are over their caps."""
        return SessionFreeing(self.codec, self.retention, self.lease, self.slack, self.window, self.cache)

    def read(self, key: SessionKey, lease: Lease | None) -> Flow[View]:
        """The conversation as it is now; with a lease, the read is a use of the session."""
        pointer, recall = pointer_name(""), self.recall(key)
        heavy = {} if lease is None else self.freeing.soft_limits
        query = Query((pointer,), (CHECKPOINT, BODY), (LOG, pointer), lease, outline_over=heavy, known=recall.known)
        snapshot: Snapshot = yield Read(key, query)
        view = view_of(snapshot, recall, self.codec)
        self.freeing.plan_after_read(key, view)
        return view

    def recall(self, key: SessionKey) -> Recall:
        """What this process remembers of a session's conversation."""
        known = self.cache.last(key)
        return Recall(EMPTY if known is None else known.bodies.conversation, self.codec)

    def turn(self, key: SessionKey) -> Flow[Turn]:
        """Read what the history shows now, as a use of the session."""
        view = yield from self.read(key, self.lease)
        shown, messages = self.window.with_messages(view.history, view.messages)
        left_out = {*view.history}.difference(shown)
        return Turn(messages, view.generation, [view.messages[name] for name in left_out])

    def delete(self, user_id: str, session_id: str | None = None) -> Flow[int]:
        """Delete a session, or all of a user's, for good; how many live ones there were."""
        self.cache.drop(user_id, session_id)
        count: int = yield Delete(user_id, session_id, self.tombstone_ttl)
        # Once more, since what was stored or read in the meantime is remembered again.
        self.cache.drop(user_id, session_id)
        return count
