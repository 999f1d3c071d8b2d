"""Frees what a session holds over its caps: planned by a read, and stored by the next write, or at once if it is much.

An example in memory, with at most 4 messages. Each turn of a chain adds an entry with 2 messages to the log, which
weighs 3:

```text
 turn 10              its read finds a log of 27, its write leaves one of 30, and neither frees anything
 turn 11              30 is over the soft limit, 28: its read is answered with the whole session, and plans what to free
                      its write takes that along, and drops 8 of the entries
 30 messages at once  43 is over the hard limit, 30: another read and another write free what can go, right after it
```
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.errors import TTLHistoryError
from langchain_ttl_history.flow import Flow, Read, Write
from langchain_ttl_history.freeing import compaction
from langchain_ttl_history.freeing.inputs import Conversation, Shown
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.session_window import SessionWindow
from langchain_ttl_history.storage.types import Change, Lease, Outcome, Query, Snapshot, Status
from langchain_ttl_history.stored.names import CHAIN, BodyName
from langchain_ttl_history.stored.packed_conversation import EMPTY
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.views import View, view_of

__all__ = ["SessionFreeing"]

logger: logging.Logger = logging.getLogger(__name__)

# By how much a session has to grow before it is freed again, where freeing it left it over `max_bytes`.
_GROWTH = 1.1


@dataclass(frozen=True)
class SessionFreeing:
    """Plans and stores what is freed."""

    codec: Codec
    retention: Retention
    lease: Lease
    slack: float
    """The storage's; see `Storage.slack`."""
    window: SessionWindow
    cache: SessionCache

    @cached_property
    def soft_limits(self) -> Mapping[str, int]:
        """For each list the weight above which a read plans what to free."""
        return compaction.soft_limits(self.retention, self.slack)

    @cached_property
    def hard_limits(self) -> Mapping[str, int]:
        """For each list the weight above which a write frees at once."""
        return compaction.hard_limits(self.retention, self.slack)

    def plan_after_read(self, key: SessionKey, view: View) -> None:
        """Plan what the next write can free, if this read was answered with an outline."""
        if view.snapshot.outline and view.snapshot.generation:
            self.cache.plans.keep(key, self._change_for(view))

    def write(self, key: SessionKey, change: Change) -> Flow[Outcome]:
        """Write a change, together with what a read planned to free."""
        freed = self.cache.plans.take(key)
        both = None if freed is None else compaction.combined(change, freed)
        outcome: Outcome
        if both is not None:
            outcome = yield Write(key, both)
            if outcome.status not in (Status.MOVED, Status.MISSING):
                return outcome
        # There is no plan, or another write has outdated it: a later turn will free what is over the caps.
        outcome = yield Write(key, change)
        return outcome

    def is_heavy(self, key: SessionKey, outcome: Outcome) -> bool:
        """Whether a session is so far over its caps that it is freed now, not at the next turn."""
        bound, most, weights = self.retention.max_bytes, self.hard_limits, outcome.weights
        if bound is not None and outcome.bytes > bound:
            known = self.cache.last(key)
            if known is None or outcome.bytes > known.tolerated:
                return True
        return any([weight > most.get(name, weight) for name, weight in weights.items()])  # noqa: C419  # a generator is slower

    def free_now(self, key: SessionKey) -> Flow[None]:
        """Free what is over the caps at once, after a write. A failure is only logged, since the write is stored."""
        try:
            yield from self._free(key)
        except TTLHistoryError as error:
            logger.warning("%s keeps more than its caps allow, since freeing it failed: %s", label(key), error)

    def _free(self, key: SessionKey) -> Flow[None]:
        snapshot: Snapshot = yield Read(key, Query(outline=True))
        outcome: Outcome = yield Write(key, self._change_for(view_of(snapshot, Recall(EMPTY, self.codec), self.codec)))
        known = self.cache.last(key)
        if known is not None and outcome.status is Status.STORED:
            # What a `DeltaChannel` needs stays whatever the caps are, so each put would read the whole session in vain.
            known.tolerated = int(outcome.bytes * _GROWTH) if CHAIN in snapshot.lists else 0

    def _change_for(self, view: View) -> Change:
        messages = view.messages
        windows = [(view.names, self.window.names(view.names, messages))]
        if view.history is not view.names:
            windows.append((view.history, self.window.names(view.history, messages)))

        def shows_as_before(left: AbstractSet[BodyName]) -> bool:
            return all(
                [*self.window.names([name for name in names if name in left], messages)] == [*window]
                for names, window in windows
            )

        # A pending interrupt needs the open tool call and the message that opened its turn.
        head = () if view.record is None else view.record.names
        conversation = Conversation(view.names, messages, set(view.waiting), view.log, head)
        shown = Shown({name for _, window in windows for name in window}, shows_as_before)
        return compaction.plan(view.snapshot, conversation, shown, self.retention, self.lease, self.codec)
