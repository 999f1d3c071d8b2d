"""What all operations on a session share: head, log, fold, window and retention put together, as flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_ttl_history.amendments import informed
from langchain_ttl_history.checkpoints import Record, pointed_at
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.compaction import hard_limits, limits, plan, together
from langchain_ttl_history.conversation import Seen, deltas_of, fold, keyed
from langchain_ttl_history.display import Portrait, info_card
from langchain_ttl_history.flow import Flow, Read, Write
from langchain_ttl_history.index import lines_of
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.memo import Memo
from langchain_ttl_history.pruning import leaves, waiting_roots
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.storage.base import Change, Lease, Outcome, Query, Snapshot, Status
from langchain_ttl_history.stored.bodies import Base
from langchain_ttl_history.stored.names import BODY, CHECKPOINT, INDEX, LOG, head_name, writes_name
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.stored.strip import NOTHING
from langchain_ttl_history.window import Caps, cut, simple_start, without_open_group

__all__ = ["SessionInfo", "Sessions", "Turn", "View"]


@dataclass(frozen=True)
class SessionInfo:
    """A live session's metadata; the times are aware, in UTC."""

    user_id: str
    session_id: str
    messages: int
    """How many messages its history shows."""
    checkpoints: int
    """How many root checkpoints it lists."""
    bytes: int
    """Every payload byte it holds."""
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime | None
    """None if the session is pinned and there is no `max_age`."""
    read_at: datetime | None = field(default=None, repr=False, compare=False)
    """When this was read, by the storage's clock."""

    def _repr_html_(self) -> str:
        return info_card(self)


class Turn(NamedTuple):
    """What a chain's turn was shown at its start."""

    messages: Sequence[BaseMessage]
    generation: int | None
    """The session's generation; None if there was no session."""


class View(NamedTuple):
    """A session's conversation as one read found it."""

    snapshot: Snapshot
    record: Record | None
    """The head."""
    head_id: str | None
    names: Sequence[str]
    """The whole conversation, before the window."""
    graph: Sequence[str]
    """What a graph is shown, before the window: the head alone while that ends in an open tool call."""
    history: Sequence[str]
    """What the history shows, before the window: everything but the open tool call and its results so far."""
    seen: Seen
    """What a run has seen that starts from what the graph is shown."""
    bodies: Mapping[str, BaseMessage]
    """The messages, by name."""
    waiting: Sequence[str] = ()
    """The message that opened the turn of the open tool call, then that call and its results so far; else empty."""

    @property
    def generation(self) -> int | None:
        """The session's generation; None if there is no such session."""
        return self.snapshot.generation or None


@dataclass(frozen=True)
class Sessions:
    """What the operations on a session have in common."""

    codec: Codec
    retention: Retention
    slack: float
    """The storage's."""
    memo: Memo = field(default_factory=Memo)

    @cached_property
    def lease(self) -> Lease:
        """By how long each use extends a session."""
        return Lease(self.retention.idle_seconds, self.retention.age_seconds)

    @cached_property
    def caps(self) -> Caps:
        """The window's bounds."""
        kept = self.retention
        return Caps(kept.max_messages, kept.max_tokens, kept.token_counter)

    # Reading

    def view(self, key: SessionKey, lease: Lease | None) -> Flow[View]:
        """The conversation as it is now."""
        head, recall = head_name(""), self.recall(key)
        limits = {} if lease is None else self.limits
        query = Query((head,), (CHECKPOINT, BODY), (LOG, head), lease, outline_over=limits, known=recall.known)
        snapshot: Snapshot = yield Read(key, query)
        view = self.look(snapshot, recall)
        self.note(key, view)
        return view

    def recall(self, key: SessionKey) -> Recall:
        """What this process remembers of a session's conversation."""
        known = self.memo.last(key)
        return Recall(NOTHING if known is None else known.base.strip, self.codec)

    def look(self, snapshot: Snapshot, recall: Recall) -> View:
        """The conversation in a snapshot.

        Args:
            snapshot: Has the root's head and the log after its mark; gets the blobs that the read left out.
            recall: What this process remembers, and the read therefore left out.
        """
        blobs = snapshot.blobs = recall.completed(snapshot.blobs)
        pointer = blobs.get(head_name(""))
        record = None if pointer is None else pointed_at(pointer, blobs, self.codec)
        deltas = deltas_of(snapshot.lists.get(LOG, ()))
        if record is None:
            names = fold((), deltas, Seen())
            bodies = dict(zip(names, recall.decode(names, blobs), strict=True))
            return View(snapshot, None, None, names, names, names, Seen(snapshot.position), bodies)
        shown = recall.decode(record.names, blobs)
        bodies = dict(zip(record.names, shown, strict=True))

        def is_result(name: str) -> bool:
            return isinstance(bodies.get(name) or recall.decode([name], blobs)[0], ToolMessage)

        names = fold(record.names, informed(deltas, is_result), record.seen)
        if names is not record.names:
            new = [name for name in names if name not in bodies]
            bodies.update(zip(new, recall.decode(new, blobs), strict=True))
        closed = without_open_group(shown)
        head_id = record.checkpoint["id"]
        if closed == len(shown):
            seen = Seen(snapshot.position)
            return View(snapshot, record, head_id, names, names, names, seen, bodies)
        open_keys = set(keyed(record.names)[closed:])
        history = [name for name, key in zip(names, keyed(names), strict=True) if key not in open_keys]
        opening = closed
        while opening and not isinstance(shown[opening], HumanMessage):
            opening -= 1
        return View(
            snapshot,
            record,
            head_id,
            names,
            record.names,
            history,
            record.seen.until(snapshot.position),
            bodies,
            (record.names[opening], *record.names[closed:]),
        )

    def window(self, names: Sequence[str], bodies: Mapping[str, BaseMessage]) -> Sequence[str]:
        """The newest of these names that fit the caps and are a valid chat."""
        return self.windowed(names, bodies)[0]

    def windowed(
        self, names: Sequence[str], bodies: Mapping[str, BaseMessage], base: Base | None = None
    ) -> tuple[Sequence[str], list[BaseMessage]]:
        """The window's names and their messages; `base` remembers which messages need no check the next time."""
        messages = [*map(bodies.__getitem__, names)]
        start = simple_start(messages, self.caps, 0 if base is None else base.sound_in(names))
        if start is not None:
            if start:
                names, messages = names[start:], messages[start:]
            if base is not None:
                base.sound = tuple(names)
            return names, messages
        positions = cut(messages, self.caps)
        if len(positions) == len(names):
            return names, messages
        return [names[each] for each in positions], [messages[each] for each in positions]

    def turn(self, key: SessionKey) -> Flow[Turn]:
        """What the history shows now."""
        view = yield from self.view(key, self.lease)
        shown = self.window(view.history, view.bodies)
        return Turn([view.bodies[name] for name in shown], view.generation)

    def info(self, key: SessionKey) -> Flow[SessionInfo | None]:
        """The session's metadata; None if there is no such session. Not a use."""
        view = yield from self._glance(key)
        return None if view is None else (yield from self._info(key, view))

    def portrait(self, key: SessionKey) -> Flow[Portrait | None]:
        """The session for display, messages cut by the window included; None if there is none. Not a use."""
        view = yield from self._glance(key)
        if view is None:
            return None
        shown = frozenset(self.window(view.history, view.bodies))
        return Portrait(
            (yield from self._info(key, view)),
            self.retention,
            [view.bodies[name] for name in view.names],
            frozenset(place for place, name in enumerate(view.names) if name in shown),
            frozenset(place for place, name in enumerate(view.names) if name in view.waiting[1:]),
        )

    def _glance(self, key: SessionKey) -> Flow[View | None]:
        """The conversation as it is now, with the index in its snapshot, read without a lease."""
        head = head_name("")
        snapshot: Snapshot = yield Read(key, Query((head, INDEX), (CHECKPOINT, BODY), (LOG, head)))
        return self.look(snapshot, Recall(NOTHING, self.codec)) if snapshot.generation else None

    def _listed(self, key: SessionKey, snapshot: Snapshot) -> Flow[int]:
        """How many root checkpoints are listed: the newest, and those that wait for an answer whatever their age."""
        lines = lines_of(snapshot.lists.get(INDEX, ()))
        cap = self.retention.max_checkpoints
        if cap is None or len(lines) <= cap:
            return len(lines)
        old = {line.id for line in lines[:-cap]}
        ends = [line for line in leaves(lines) if line.id in old]
        if not ends:
            return cap
        writes: Snapshot = yield Read(key, Query(tuple(writes_name("", line.id) for line in ends)))
        return cap + len(waiting_roots(ends, writes, self.codec))

    def _info(self, key: SessionKey, view: View) -> Flow[SessionInfo]:
        snapshot = view.snapshot
        listed = yield from self._listed(key, snapshot)
        return SessionInfo(
            key.user_id,
            key.session_id,
            len(self.window(view.history, view.bodies)),
            listed,
            snapshot.bytes,
            _time(snapshot.created_at),
            _time(snapshot.last_used_at),
            None if snapshot.expires_at is None else _time(snapshot.expires_at),
            _time(snapshot.now),
        )

    # Freeing

    @cached_property
    def limits(self) -> Mapping[str, int]:
        """For each list the weight above which a read plans what to free."""
        return limits(self.retention, self.slack)

    @cached_property
    def hard_limits(self) -> Mapping[str, int]:
        """For each list the weight above which a write frees at once."""
        return hard_limits(self.retention, self.slack)

    def note(self, key: SessionKey, view: View) -> None:
        """Plan what the next write can free, if this read was answered with an outline."""
        if view.snapshot.outline and view.snapshot.generation:
            self.memo.plan(key, self._plan(view))

    def storing(self, key: SessionKey, change: Change) -> Flow[Outcome]:
        """Write a change, together with what a read planned to free."""
        freed = self.memo.planned(key)
        both = None if freed is None else together(change, freed)
        outcome: Outcome
        if both is not None:
            outcome = yield Write(key, both)
            if outcome.status not in (Status.MOVED, Status.MISSING):
                return outcome
        # There is no plan, or it is outdated because somebody else wrote meanwhile: a later turn will free it.
        outcome = yield Write(key, change)
        return outcome

    def is_heavy(self, outcome: Outcome) -> bool:
        """Whether a session is so far over its caps that it is freed now, not at the next turn."""
        bound, most, weights = self.retention.max_bytes, self.hard_limits, outcome.weights
        if bound is not None and outcome.bytes > bound:
            return True
        return any([weight > most.get(name, weight) for name, weight in weights.items()])  # noqa: C419  # a generator is slower

    def tidy(self, key: SessionKey) -> Flow[None]:
        """Free what is over the caps at once."""
        snapshot: Snapshot = yield Read(key, Query(outline=True))
        if snapshot.generation:
            yield Write(key, self._plan(self.look(snapshot, Recall(NOTHING, self.codec))))

    def _plan(self, view: View) -> Change:
        bodies = view.bodies
        shown = set(self.window(view.names, bodies))
        if view.history is not view.names:
            shown.update(self.window(view.history, bodies))
        # A pending interrupt needs the open tool call and the message that opened its turn.
        needed = set(view.waiting)
        return plan(view.snapshot, self.retention, self.lease, self.codec, shown, view.names, bodies, needed)


# Later than any clock's time zone can tell is as good as never.
_LATEST = datetime(9999, 1, 1, tzinfo=timezone.utc).timestamp()


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(min(seconds, _LATEST), timezone.utc)
