"""One session read or changed: retention, log, head and window put together, as flows."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from uuid import UUID

from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    RemoveMessage,
    ToolMessage,
    message_chunk_to_message,
)

from langchain_ttl_history.checkpoints import INDEX, Record, decode_record, head_name, lines_of
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.collection import excess, plan
from langchain_ttl_history.conversation import (
    LOG,
    Base,
    Delta,
    Seen,
    decode_bodies,
    delta_of,
    diff,
    encode_bodies,
    fold,
    key_of,
    keyed,
)
from langchain_ttl_history.errors import SessionDeletedError, TypeNotAllowedError
from langchain_ttl_history.flow import Flow, reading, writing
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.storage.base import (
    Blob,
    Change,
    Guard,
    Lease,
    Outcome,
    Query,
    Snapshot,
    Status,
)
from langchain_ttl_history.window import Caps, calls_of, visible, without_open_group

__all__ = ["SessionInfo", "Sessions", "Turn", "View"]

REMOVE_ALL_MESSAGES = "__remove_all__"
"""The id LangGraph gives a `RemoveMessage` that removes everything."""


@dataclass(frozen=True)
class SessionInfo:
    """What is known of a live session; the times are aware, in UTC."""

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
    """None if it is pinned and has no maximal age."""


@dataclass(frozen=True)
class Turn:
    """What a chain's turn was shown at its start."""

    messages: Sequence[BaseMessage]
    generation: int | None
    """The session's generation; None if there was no session."""


@dataclass(frozen=True)
class View:
    """A session's conversation as one read found it."""

    snapshot: Snapshot
    record: Record | None
    """The head."""
    head_id: str | None
    names: Sequence[str]
    """The whole conversation, before the window."""
    graph: Sequence[str]
    """What a graph is shown, before the window: the head alone while it waits for results."""
    history: Sequence[str]
    """What the history shows, before the window: without the group that waits for results."""
    seen: Seen
    """What a run has seen that starts with what the graph is shown."""
    bodies: Mapping[str, BaseMessage]

    @property
    def generation(self) -> int | None:
        """The session's generation; None if there is no such session."""
        return self.snapshot.generation or None


@dataclass(frozen=True)
class Sessions:
    """What the operations on a session have in common."""

    codec: Codec
    retention: Retention

    @property
    def lease(self) -> Lease:
        """What one use gives a session."""
        return Lease(self.retention.idle_seconds, self.retention.age_seconds)

    @property
    def caps(self) -> Caps:
        """The window's bounds."""
        kept = self.retention
        return Caps(kept.max_messages, kept.max_tokens, kept.token_counter)

    # Reading

    def view(self, key: SessionKey, lease: Lease | None, follow: str = "cm") -> Flow[View]:
        """The conversation as it is now."""
        head = head_name("")
        query = Query((head,), tuple(follow), (LOG, head), lease)
        snapshot = yield from reading(key, query)
        return self.look(snapshot)

    def look(self, snapshot: Snapshot) -> View:
        """The conversation in a snapshot of the root's head and of the log after its mark."""
        blobs = snapshot.blobs
        pointer = blobs.get(head_name(""))
        record = None if pointer is None else decode_record(blobs[pointer.refs[0]], self.codec)
        deltas = [delta_of(entry) for entry in snapshot.lists.get(LOG, ())]
        if record is None:
            names = fold((), deltas, Seen())
            bodies = dict(zip(names, decode_bodies(names, blobs, self.codec)))
            return View(
                snapshot, None, None, names, names, names, Seen(snapshot.position), bodies
            )
        shown = decode_bodies(record.names, blobs, self.codec)
        bodies = dict(zip(record.names, shown))
        names = fold(record.names, deltas, record.seen)
        if names is not record.names:
            new = [name for name in names if name not in bodies]
            bodies.update(zip(new, decode_bodies(new, blobs, self.codec)))
        closed = without_open_group(shown)
        head_id = record.checkpoint["id"]
        if closed == len(shown):
            seen = Seen(snapshot.position)
            return View(snapshot, record, head_id, names, names, names, seen, bodies)
        waiting = set(keyed(record.names)[closed:])
        history = [name for name, key in zip(names, keyed(names)) if key not in waiting]
        return View(
            snapshot, record, head_id, names, record.names, history, record.seen, bodies
        )

    def window(self, names: Sequence[str], bodies: Mapping[str, BaseMessage]) -> Sequence[str]:
        """The newest of these names that fit the caps and are a valid chat."""
        positions = visible([bodies[name] for name in names], self.caps)
        return names if len(positions) == len(names) else [names[each] for each in positions]

    def turn(self, key: SessionKey) -> Flow[Turn]:
        """What the history shows now."""
        view = yield from self.view(key, self.lease)
        shown = self.window(view.history, view.bodies)
        return Turn([view.bodies[name] for name in shown], view.generation)

    def info(self, key: SessionKey) -> Flow[SessionInfo | None]:
        """What is known of the session; None if there is none. Not a use."""
        head = head_name("")
        query = Query((head, INDEX), ("c", "m"), (LOG, head))
        snapshot = yield from reading(key, query)
        if not snapshot.generation:
            return None
        view = self.look(snapshot)
        lines = lines_of(snapshot.lists.get(INDEX, ()))
        cap = self.retention.max_checkpoints
        return SessionInfo(
            key.user_id,
            key.session_id,
            len(self.window(view.history, view.bodies)),
            len(lines) if cap is None else min(cap, len(lines)),
            snapshot.bytes,
            _time(snapshot.created_at),
            _time(snapshot.last_used_at),
            None if snapshot.expires_at is None else _time(snapshot.expires_at),
        )

    # Changing

    def add(
        self, key: SessionKey, messages: Sequence[BaseMessage], turn: Turn | None = None
    ) -> Flow[None]:
        """Append or update messages, honouring `RemoveMessage`, as one run.

        Args:
            key: The session.
            messages: What is said.
            turn: What the run was shown, if it is a turn that began with a read.

        Raises:
            TypeNotAllowedError: One is not a message, or holds what would not come back.
            SessionDeletedError: The session this continues was deleted.
        """
        guard = Guard() if turn is None else Guard(turn.generation)
        if turn is not None:
            messages = _said(messages, turn)
        ready = [self._ready(message, key) for message in messages]
        for place, message in enumerate(ready):
            if isinstance(message, RemoveMessage) and message.id == REMOVE_ALL_MESSAGES:
                yield from self.replace(key, ready[place + 1 :], guard)
                return
        removed: dict[str, None] = {}
        added: dict[str, BaseMessage] = {}
        for message in ready:
            id = message.id or ""
            if isinstance(message, RemoveMessage):
                added.pop(id, None)
                removed[id] = None
            else:
                added[id] = message
        after = None
        if ready and isinstance(ready[0], ToolMessage):
            view = yield from self.view(key, None)
            after = _caller(ready[0], view)
        if not ready:
            return
        blobs: dict[str, Blob] = {}
        names = encode_bodies([*added.values()], Base(), self.codec, _where(key), blobs)
        delta = Delta(_new_id(), tuple(removed), tuple(names), after)
        yield from self._log(key, delta, blobs, guard)

    def replace(
        self, key: SessionKey, messages: Sequence[BaseMessage], guard: Guard = Guard()
    ) -> Flow[None]:
        """Make these messages the whole conversation.

        Raises:
            TypeNotAllowedError: One is not a message, or holds what would not come back.
            SessionDeletedError: The session this continues was deleted.
        """
        ready = {message.id: message for message in (self._ready(each, key) for each in messages)}
        view = yield from self.view(key, None)
        blobs: dict[str, Blob] = {}
        base = Base.of(view.names, view.snapshot.blobs, self.codec)
        names = encode_bodies([*ready.values()], base, self.codec, _where(key), blobs)
        removed, added = diff(view.names, names)
        if removed or added:
            yield from self._log(key, Delta(_new_id(), removed, added), blobs, guard)

    def _log(
        self, key: SessionKey, delta: Delta, blobs: Mapping[str, Blob], guard: Guard
    ) -> Flow[None]:
        change = Change(
            self.lease, guard, blobs, append=[(LOG, delta.payload(), delta.added)]
        )
        outcome = yield from writing(key, change)
        if outcome.status is Status.DELETED:
            raise SessionDeletedError(
                f"{_where(key)} was deleted while this turn was running; what it said was not "
                "stored. A new turn starts a new session"
            )
        yield from self.tidy(key, outcome)

    def tidy(self, key: SessionKey, outcome: Outcome) -> Flow[None]:
        """Free what is over the caps, once there is a quarter more than they allow."""
        if not excess(outcome, self.retention):
            return
        snapshot = yield from reading(key, Query(outline=True))
        if snapshot.generation:
            view = self.look(snapshot)
            shown = set(self.window(view.names, view.bodies)) | set(
                self.window(view.history, view.bodies)
            )
            change = plan(snapshot, shown, view.bodies, self.retention, self.lease, self.codec)
            yield from writing(key, change)

    @staticmethod
    def _ready(message: object, key: SessionKey) -> BaseMessage:
        """A message as it is stored: whole, not a chunk, and with an id of its own."""
        if not isinstance(message, BaseMessage):
            raise TypeNotAllowedError(
                f"{_where(key)}: {message!r} of type {type(message).__name__} is not a message; "
                "wrap text in HumanMessage, AIMessage or SystemMessage"
            )
        if isinstance(message, BaseMessageChunk):
            message = message_chunk_to_message(message)
        if not message.id:
            message = message.model_copy(update={"id": _new_id()})
        return message


def _said(messages: Sequence[BaseMessage], turn: Turn) -> list[BaseMessage]:
    """What a turn adds to what it was shown.

    A runnable that is a whole agent gives back the history it was shown, and its input once
    more, by now with an id.
    """
    shown = {message.id: message for message in turn.messages}
    said: list[BaseMessage] = []
    for place, message in enumerate(messages):
        if not isinstance(message, BaseMessage):
            said.append(message)  # Refused with a name later.
        elif message.id:
            if shown.get(message.id) != message:
                said.append(message)
        elif not any(
            isinstance(later, BaseMessage)
            and later.id
            and later.id not in shown
            and type(later) is type(message)
            and later.content == message.content
            for later in messages[place + 1 :]
        ):
            said.append(message)
    return said


def _caller(result: ToolMessage, view: View) -> str | None:
    """The key of the message a tool's result goes after: its call, or that call's results."""
    found: str | None = None
    for name, key in zip(view.names, keyed(view.names)):
        message = view.bodies[name]
        if result.tool_call_id in calls_of(message) or (
            found is not None and isinstance(message, ToolMessage) and found != key
        ):
            found = key
        elif found is not None:
            break
    return found


def _where(key: SessionKey) -> str:
    return f"session {tuple(key)}"


def _new_id() -> str:
    # Not uuid.uuid4, which programs seed to get the ids they expect.
    return str(UUID(bytes=secrets.token_bytes(16), version=4))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
