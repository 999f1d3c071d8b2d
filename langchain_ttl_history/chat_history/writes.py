"""What a chat history writes: messages added, updated, removed, or replaced as a whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    RemoveMessage,
    message_chunk_to_message,
)

from langchain_ttl_history.chat_history.late_results import may_be_late, placed
from langchain_ttl_history.chat_history.turns import new_in
from langchain_ttl_history.conversation import diff
from langchain_ttl_history.errors import SessionDeletedError, StorageError, TypeNotAllowedError, brief
from langchain_ttl_history.flow import Flow
from langchain_ttl_history.given_messages import REMOVE_ALL_MESSAGES, as_messages
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.log_entries import Delta
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Blob, Change, Guard, Status
from langchain_ttl_history.stored.bodies import check_id, encode_bodies, encode_new
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import LOG, MessageKey, key_of
from langchain_ttl_history.views import Turn, View

__all__ = ["add_messages", "guard_of", "replace_conversation"]

# How often a replacement is planned anew.
_ATTEMPTS = 10


def add_messages(sessions: Sessions, key: SessionKey, given: Sequence[BaseMessage], turn: Turn | None) -> Flow[None]:
    """Append or update messages, honouring `RemoveMessage`, as one run.

    Args:
        sessions: What sessions have in common.
        key: The session.
        given: What is said.
        turn: What the run was shown, if it is a turn that began with a read.

    Raises:
        TypeNotAllowedError: One is not a message, or holds what would not come back.
        SessionDeletedError: The session this continues was deleted.
    """
    guard = guard_of(turn)
    messages = _as_list(given, key)
    if turn is not None:
        messages = new_in([_checked(_as_message(message), key) for message in messages], turn, sessions.codec)
    ready = [_ready(message, key) for message in messages]
    if any(isinstance(message, RemoveMessage) and message.id == REMOVE_ALL_MESSAGES for message in ready):
        yield from replace_conversation(sessions, key, ready, guard)
        return
    if not ready:
        return
    removed, added = _gathered(ready)
    groups: list[tuple[MessageKey | None, list[str]]] = [(None, [*added])]
    if not added or may_be_late(sessions, key, added.values()):
        view = yield from sessions.read(key, None)
        if not added and view.generation is None:
            _check_deletion(view, guard, key)
            return  # There is nothing to remove, and no session to make.
        groups = placed(added.values(), view)
    blobs: dict[str, Blob] = {}
    names = dict(zip(added, encode_new(added.values(), sessions.codec, label(key), blobs), strict=True))
    run = _new_id()
    deltas = [Delta(run, (), tuple(map(names.__getitem__, ids)), after) for after, ids in groups]
    deltas[0] = deltas[0]._replace(removed=removed)
    # No retry is needed: the change brings every body it refers to.
    yield from _append_to_log(sessions, key, deltas, blobs, guard)
    sessions.cache.note_said(key, added)


def _gathered(messages: Iterable[BaseMessage]) -> tuple[tuple[MessageKey, ...], dict[str, BaseMessage]]:
    """The ids that these messages remove, and by id the messages that they add or update."""
    removed: dict[str, None] = {}
    added: dict[str, BaseMessage] = {}
    for message in messages:
        id = message.id or ""
        if not isinstance(message, RemoveMessage):
            removed.pop(id, None)  # It takes the place of the one before, as in LangGraph.
            added[id] = message
        elif id == REMOVE_ALL_MESSAGES:
            added.clear()
        else:
            added.pop(id, None)
            removed[id] = None
    return cast("tuple[MessageKey, ...]", tuple(removed)), added


def guard_of(turn: Turn | None) -> Guard:
    """What a turn's write continues: the session that the turn read, if it read one."""
    return Guard() if turn is None else Guard(turn.generation)


def replace_conversation(
    sessions: Sessions, key: SessionKey, messages: Sequence[BaseMessage], guard: Guard
) -> Flow[None]:
    """Make these messages the whole conversation, but for a tool call that waits for its results.

    Raises:
        TypeNotAllowedError: One is not a message, or holds what would not come back.
        SessionDeletedError: The session this continues was deleted.
    """
    _, ready = _gathered([_ready(message, key) for message in _as_list(messages, key)])
    for _ in range(_ATTEMPTS):
        # Where nothing is to be changed this read alone is the use.
        view = yield from sessions.read(key, sessions.lease)
        blobs: dict[str, Blob] = {}
        known = KnownBodies()
        known.learn_read(view.names, [view.messages[name] for name in view.names], view.snapshot.blobs, sessions.codec)
        names = encode_bodies([*ready.values()], known, sessions.codec, label(key), blobs)
        waiting = {*view.waiting[1:]}
        removed, added = diff([name for name in view.names if name not in waiting], names)
        # Runs under way, and a graph that waits, still have what is hidden.
        removed += tuple(view.log.hidden.difference(map(key_of, (*view.names, *names))))
        if not removed and not added:
            _check_deletion(view, guard, key)
            return
        keeps = (*map(key_of, names), *map(key_of, view.waiting[1:]))
        delta = Delta(_new_id(), removed, added, known=view.snapshot.position, keeps=keeps)
        if (yield from _append_to_log(sessions, key, [delta], blobs, guard)):
            return
    raise StorageError(
        f"{label(key)}: others kept freeing what the new conversation shares with the old one; try again"
    )


def _append_to_log(
    sessions: Sessions, key: SessionKey, deltas: Iterable[Delta], blobs: Mapping[str, Blob], guard: Guard
) -> Flow[bool]:
    """Append changes to the session's log; False if bodies that they refer to were freed in between."""
    append = [(LOG, delta.payload(), delta.added) for delta in deltas]
    change = Change(sessions.lease, guard, blobs, append)
    outcome = yield from sessions.freeing.write(key, change)
    if outcome.status is Status.DELETED:
        raise _deleted(key)
    if outcome.status is Status.MISSING:
        return False
    if sessions.freeing.is_heavy(key, outcome):
        yield from sessions.freeing.free_now(key)
    return True


def _check_deletion(view: View, guard: Guard, key: SessionKey) -> None:
    """Refuse, as a storage would, a write that continues a deleted session but has nothing to store.

    Raises:
        SessionDeletedError: The session it continues was deleted.
    """
    if guard.generation is not None and guard.generation <= view.snapshot.fence:
        raise _deleted(key)


def _deleted(key: SessionKey) -> SessionDeletedError:
    return SessionDeletedError(
        f"{label(key)} was deleted while this turn was running; what it said was not stored. "
        "A new turn starts a new session"
    )


def _as_list(messages: object, key: SessionKey) -> list[Any]:
    """Messages as a list.

    Raises:
        TypeNotAllowedError: They are a single message, a string or a dict, or cannot be iterated over.
    """
    if isinstance(messages, (str, dict, BaseMessage)) or not isinstance(messages, Iterable):
        raise TypeNotAllowedError(
            f"{label(key)}: {brief(messages)} of type {type(messages).__name__} is not a list of messages; "
            "pass [message]"
        )
    return list(messages)


def _as_message(message: object) -> object:
    """What a chain was given, as a message if LangChain accepts it as one: `("human", text)`, or a dict with a role."""
    messages = as_messages([message]) if isinstance(message, (tuple, dict)) else None
    return message if messages is None else messages[0]


def _checked(message: object, key: SessionKey) -> BaseMessage:
    """The message, if it is one.

    Raises:
        TypeNotAllowedError: It is none.
    """
    if isinstance(message, BaseMessage):
        return message
    raise TypeNotAllowedError(
        f"{label(key)}: {brief(message)} of type {type(message).__name__} is not a message; "
        "wrap text in HumanMessage, AIMessage or SystemMessage"
    )


def _ready(given: object, key: SessionKey) -> BaseMessage:
    """A message as it is stored: whole, not a chunk, and with an id of its own."""
    message = _checked(given, key)
    while isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)  # Of a program's own class of chunks it makes LangChain's.
    check_id(message, label(key))
    if not message.id:
        message = message.model_copy(update={"id": _new_id()})
    return message


def _new_id() -> str:
    # Not uuid.uuid4, which programs seed to get the ids they expect. Of this version; see `Delta.is_of_graph`.
    return str(UUID(bytes=secrets.token_bytes(16), version=4))
