"""What all operations on a session share: head, log, fold, window and retention put together, as flows."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

from langchain_core.messages import BaseMessage

from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.errors import TTLHistoryError
from langchain_ttl_history.flow import Delete, Flow, Read, Write
from langchain_ttl_history.freeing import compaction
from langchain_ttl_history.freeing.inputs import Conversation, Shown
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.storage.types import Change, Lease, Outcome, Query, Snapshot, Status
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import BODY, CHAIN, CHECKPOINT, LOG, BodyName, pointer_name
from langchain_ttl_history.stored.packed_conversation import EMPTY
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.views import Turn, View, view_of
from langchain_ttl_history.window import Caps, simple_start, visible

__all__ = ["Sessions"]

logger: logging.Logger = logging.getLogger(__name__)

_DAY = 86_400.0
# By how much a session has to grow before it is freed again, where freeing it left it over `max_bytes`.
_GROWTH = 1.1


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
    def caps(self) -> Caps:
        """The window's bounds."""
        kept = self.retention
        return Caps(kept.max_messages, kept.max_tokens, kept.token_counter)

    # Reading

    def read(self, key: SessionKey, lease: Lease | None) -> Flow[View]:
        """The conversation as it is now; with a lease, the read is a use of the session."""
        pointer, recall = pointer_name(""), self.recall(key)
        heavy = {} if lease is None else self.soft_limits
        query = Query((pointer,), (CHECKPOINT, BODY), (LOG, pointer), lease, outline_over=heavy, known=recall.known)
        snapshot: Snapshot = yield Read(key, query)
        view = view_of(snapshot, recall, self.codec)
        self.plan_freeing(key, view)
        return view

    def recall(self, key: SessionKey) -> Recall:
        """What this process remembers of a session's conversation."""
        known = self.cache.last(key)
        return Recall(EMPTY if known is None else known.bodies.conversation, self.codec)

    def window(self, names: Sequence[BodyName], messages: Mapping[BodyName, BaseMessage]) -> Sequence[BodyName]:
        """The newest of these names that fit the caps and are a valid chat."""
        return self.window_with_messages(names, messages)[0]

    def window_with_messages(
        self, names: Sequence[BodyName], messages: Mapping[BodyName, BaseMessage], known: KnownBodies | None = None
    ) -> tuple[Sequence[BodyName], list[BaseMessage]]:
        """The window's names and their messages; `known` remembers which messages need no check the next time."""
        whole = [*map(messages.__getitem__, names)]
        if len({*names}) < len(names):
            whole = _as_separate_objects(whole)
        start = simple_start(whole, self.caps, 0 if known is None else known.sound_in(names))
        if start is not None:
            if start:
                names, whole = names[start:], whole[start:]
            if known is not None:
                known.sound = tuple(names)
            return names, whole
        positions = visible(whole, self.caps)
        if len(positions) == len(names):
            return names, whole
        return [names[each] for each in positions], [whole[each] for each in positions]

    def turn(self, key: SessionKey) -> Flow[Turn]:
        """Read what the history shows now, as a use of the session."""
        view = yield from self.read(key, self.lease)
        shown, messages = self.window_with_messages(view.history, view.messages)
        left_out = {*view.history}.difference(shown)
        return Turn(messages, view.generation, [view.messages[name] for name in left_out])

    # Deleting

    def delete(self, user_id: str, session_id: str | None = None) -> Flow[int]:
        """Delete a session, or all of a user's, for good; how many live ones there were."""
        self.cache.drop(user_id, session_id)
        count: int = yield Delete(user_id, session_id, self.tombstone_ttl)
        # Once more, since what was stored or read in the meantime is remembered again.
        self.cache.drop(user_id, session_id)
        return count

    # Freeing

    @cached_property
    def soft_limits(self) -> Mapping[str, int]:
        """For each list the weight above which a read plans what to free."""
        return compaction.soft_limits(self.retention, self.slack)

    @cached_property
    def hard_limits(self) -> Mapping[str, int]:
        """For each list the weight above which a write frees at once."""
        return compaction.hard_limits(self.retention, self.slack)

    def plan_freeing(self, key: SessionKey, view: View) -> None:
        """Plan what the next write can free, if this read was answered with an outline."""
        if view.snapshot.outline and view.snapshot.generation:
            self.cache.plans.keep(key, self._plan(view))

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
        outcome: Outcome = yield Write(key, self._plan(view_of(snapshot, Recall(EMPTY, self.codec), self.codec)))
        known = self.cache.last(key)
        if known is not None and outcome.status is Status.STORED:
            # What a `DeltaChannel` needs stays whatever the caps are, so each put would read the whole session in vain.
            known.tolerated = int(outcome.bytes * _GROWTH) if CHAIN in snapshot.lists else 0

    def _plan(self, view: View) -> Change:
        messages = view.messages
        windows = [(view.names, self.window(view.names, messages))]
        if view.history is not view.names:
            windows.append((view.history, self.window(view.history, messages)))

        def shows_as_before(left: AbstractSet[BodyName]) -> bool:
            return all(
                [*self.window([name for name in names if name in left], messages)] == [*window]
                for names, window in windows
            )

        # A pending interrupt needs the open tool call and the message that opened its turn.
        head = () if view.record is None else view.record.names
        conversation = Conversation(view.names, messages, set(view.waiting), view.log, head)
        shown = Shown({name for _, window in windows for name in window}, shows_as_before)
        return compaction.plan(view.snapshot, conversation, shown, self.retention, self.lease, self.codec)


def _as_separate_objects(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """The messages, each as an object of its own.

    Messages with the same content and no id share a name and a body, but their reader may give each an id of its own.
    """
    given: set[int] = set()
    apart: list[BaseMessage] = []
    for message in messages:
        apart.append(copy.deepcopy(message) if id(message) in given else message)
        given.add(id(message))
    return apart
