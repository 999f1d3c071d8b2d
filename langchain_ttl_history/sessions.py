"""What all operations on a session share: head, log, fold, window and retention put together, as flows."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_ttl_history.amendments import informed, spelled_out
from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.conversation import fold, keyed
from langchain_ttl_history.errors import TTLHistoryError
from langchain_ttl_history.flow import Delete, Flow, Read, Write
from langchain_ttl_history.freeing.compaction import hard_limits, limits, plan, together
from langchain_ttl_history.freeing.message_cutting import Conversation
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.log_entries import Log, Seen, deltas_of
from langchain_ttl_history.pointers import hidden_places, pointed_at
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.storage.base import Blob, Change, Lease, Outcome, Query, Snapshot, Status
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import BODY, CHAIN, CHECKPOINT, LOG, head_name, key_of
from langchain_ttl_history.stored.packed_conversation import EMPTY
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.views import Turn, View, open_beside
from langchain_ttl_history.window import Caps, simple_start, visible, without_open_group

__all__ = ["Sessions"]

logger = logging.getLogger(__name__)

_DAY = 86_400.0
# By how much a session has to grow before it is freed again, where freeing it left it over `max_bytes`.
_GROWTH = 1.1


@dataclass(frozen=True)
class Sessions:
    """What the operations on a session have in common."""

    codec: Codec
    retention: Retention
    slack: float
    """The storage's."""
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
        """The conversation as it is now."""
        head, recall = head_name(""), self.recall(key)
        heavy = {} if lease is None else self.plans_above
        query = Query((head,), (CHECKPOINT, BODY), (LOG, head), lease, outline_over=heavy, known=recall.known)
        snapshot: Snapshot = yield Read(key, query)
        view = self.view_of(snapshot, recall)
        self.plan_freeing(key, view)
        return view

    def recall(self, key: SessionKey) -> Recall:
        """What this process remembers of a session's conversation."""
        known = self.cache.last(key)
        return Recall(EMPTY if known is None else known.bodies.conversation, self.codec)

    def view_of(self, snapshot: Snapshot, recall: Recall) -> View:
        """The conversation in a snapshot.

        Args:
            snapshot: Has the root's head and the log after its mark; gets the blobs that the read left out.
            recall: What this process remembers, and the read therefore left out.
        """
        blobs = snapshot.blobs = recall.completed(snapshot.blobs)
        pointer = blobs.get(head_name(""))
        entries = snapshot.lists.get(LOG, ())
        deltas = deltas_of(entries)
        if pointer is None:
            names = fold((), spelled_out(deltas, (), Seen()), Seen())
            messages = dict(zip(names, recall.decode(names, blobs), strict=True))
            log = Log(entries, deltas)
            return View(snapshot, None, names, names, names, Seen(snapshot.position), messages, log)
        record = pointed_at(pointer, blobs, self.codec)
        decoded = recall.decode(record.names, blobs)
        messages = dict(zip(record.names, decoded, strict=True))
        head, shown, hidden = self._visible(record.names, decoded, pointer)
        log = Log(entries, deltas, head, record.seen, hidden)

        def is_result(name: str) -> bool:
            return isinstance(messages.get(name) or recall.decode([name], blobs)[0], ToolMessage)

        names = fold(head, informed(spelled_out(deltas, head, record.seen), is_result), record.seen)
        if names is not head:
            new = [name for name in names if name not in messages]
            messages.update(zip(new, recall.decode(new, blobs), strict=True))
        closed = without_open_group(shown)
        if hidden and without_open_group(decoded) == len(decoded):
            closed = len(shown)  # What is hidden of a group, or removed, does not make it wait.
        open_keys = open_beside(log, names, messages)
        if closed == len(shown):
            seen = Seen(snapshot.position)
            history = [name for name in names if key_of(name) not in open_keys] if open_keys else names
            return View(snapshot, record, names, names, history, seen, messages, log)
        open_keys.update(keyed(head)[closed:])
        history = [name for name, key in zip(names, keyed(names), strict=True) if key not in open_keys]
        opening = closed
        while opening and not isinstance(shown[opening], HumanMessage):
            opening -= 1
        return View(
            snapshot,
            record,
            names,
            record.names,
            history,
            record.seen.until(snapshot.position),
            messages,
            log,
            (head[opening], *head[closed:]),
        )

    def _visible(
        self, names: Sequence[str], messages: Sequence[BaseMessage], pointer: Blob
    ) -> tuple[Sequence[str], Sequence[BaseMessage], frozenset[str]]:
        """Of the head's messages the names and messages that are visible, and the keys of the others."""
        hidden = hidden_places(pointer, self.codec)
        if not hidden:
            return names, messages, frozenset()
        places = [place for place in range(len(names)) if place not in hidden]
        visible = tuple([names[place] for place in places])
        keys = frozenset(map(key_of, names)).difference(map(key_of, visible))
        return visible, [messages[place] for place in places], keys

    def window(self, names: Sequence[str], messages: Mapping[str, BaseMessage]) -> Sequence[str]:
        """The newest of these names that fit the caps and are a valid chat."""
        return self.windowed(names, messages)[0]

    def windowed(
        self, names: Sequence[str], messages: Mapping[str, BaseMessage], known: KnownBodies | None = None
    ) -> tuple[Sequence[str], list[BaseMessage]]:
        """The window's names and their messages; `known` remembers which messages need no check the next time."""
        whole = [*map(messages.__getitem__, names)]
        if len({*names}) < len(names):
            whole = _apart(whole)
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
        """What the history shows now."""
        view = yield from self.read(key, self.lease)
        shown, messages = self.windowed(view.history, view.messages)
        left_out = {*view.history}.difference(shown)
        return Turn(messages, view.generation, [view.messages[name] for name in left_out])

    # Deleting

    def delete(self, user_id: str, session_id: str | None = None) -> Flow[int]:
        """Delete a session, or all of a user's, for good; how many live ones there were."""
        self.cache.drop(user_id, session_id)
        count: int = yield Delete(user_id, session_id, self.tombstone_ttl)
        return count

    # Freeing

    @cached_property
    def plans_above(self) -> Mapping[str, int]:
        """For each list the weight above which a read plans what to free."""
        return limits(self.retention, self.slack)

    @cached_property
    def frees_above(self) -> Mapping[str, int]:
        """For each list the weight above which a write frees at once."""
        return hard_limits(self.retention, self.slack)

    def plan_freeing(self, key: SessionKey, view: View) -> None:
        """Plan what the next write can free, if this read was answered with an outline."""
        if view.snapshot.outline and view.snapshot.generation:
            self.cache.keep_plan(key, self._plan(view))

    def write(self, key: SessionKey, change: Change) -> Flow[Outcome]:
        """Write a change, together with what a read planned to free."""
        freed = self.cache.take_plan(key)
        both = None if freed is None else together(change, freed)
        outcome: Outcome
        if both is not None:
            outcome = yield Write(key, both)
            if outcome.status not in (Status.MOVED, Status.MISSING):
                return outcome
        # There is no plan, or it is outdated because somebody else wrote meanwhile: a later turn will free it.
        outcome = yield Write(key, change)
        return outcome

    def is_heavy(self, key: SessionKey, outcome: Outcome) -> bool:
        """Whether a session is so far over its caps that it is freed now, not at the next turn."""
        bound, most, weights = self.retention.max_bytes, self.frees_above, outcome.weights
        if bound is not None and outcome.bytes > bound:
            known = self.cache.last(key)
            if known is None or outcome.bytes > known.tolerated:
                return True
        return any([weight > most.get(name, weight) for name, weight in weights.items()])  # noqa: C419  # a generator is slower

    def free_now(self, key: SessionKey) -> Flow[None]:
        """Free what is over the caps at once, after a write. That it fails undoes no write, so it is only logged."""
        try:
            yield from self._free(key)
        except TTLHistoryError as error:
            logger.warning("%s keeps more than its caps allow, since freeing it failed: %s", label(key), error)

    def _free(self, key: SessionKey) -> Flow[None]:
        snapshot: Snapshot = yield Read(key, Query(outline=True))
        if not snapshot.generation:
            return
        outcome: Outcome = yield Write(key, self._plan(self.view_of(snapshot, Recall(EMPTY, self.codec))))
        known = self.cache.last(key)
        if known is not None and outcome.status is Status.STORED:
            # What a `DeltaChannel` needs stays whatever the caps are. Each put would read the whole session in vain.
            known.tolerated = int(outcome.bytes * _GROWTH) if CHAIN in snapshot.lists else 0

    def _plan(self, view: View) -> Change:
        messages = view.messages
        windows = [(view.names, self.window(view.names, messages))]
        if view.history is not view.names:
            windows.append((view.history, self.window(view.history, messages)))

        def shows_as_before(left: AbstractSet[str]) -> bool:
            return all(
                [*self.window([name for name in names if name in left], messages)] == [*window]
                for names, window in windows
            )

        # A pending interrupt needs the open tool call and the message that opened its turn.
        head = () if view.record is None else view.record.names
        conversation = Conversation(view.names, messages, set(view.waiting), view.log, head)
        shown = {name for _, window in windows for name in window}
        return plan(view.snapshot, self.retention, self.lease, self.codec, conversation, shown, shows_as_before)


def _apart(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """The messages, each an object of its own.

    Those that say the same and have no id share a name and a body. Whoever reads them may give each an id.
    """
    given: set[int] = set()
    apart: list[BaseMessage] = []
    for message in messages:
        apart.append(copy.deepcopy(message) if id(message) in given else message)
        given.add(id(message))
    return apart
