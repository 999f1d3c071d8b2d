"""What a chat history writes: messages added, updated, removed, or replaced as a whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    RemoveMessage,
    ToolMessage,
    message_chunk_to_message,
)

from langchain_ttl_history.conversation import diff, keyed
from langchain_ttl_history.errors import SessionDeletedError, StorageError, TypeNotAllowedError, brief
from langchain_ttl_history.flow import Flow
from langchain_ttl_history.given_messages import REMOVE_ALL_MESSAGES, as_messages
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.log_entries import Delta
from langchain_ttl_history.sessions import Sessions, Turn, View
from langchain_ttl_history.storage.base import Blob, Change, Guard, Status
from langchain_ttl_history.stored.bodies import check_id, encode_bodies, encode_new
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import LOG
from langchain_ttl_history.window import calls_of

__all__ = ["add", "replace"]

# How often a replacement is planned anew.
_ATTEMPTS = 10


def add(sessions: Sessions, key: SessionKey, given: Sequence[BaseMessage], turn: Turn | None = None) -> Flow[None]:
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
    guard = Guard() if turn is None else Guard(turn.generation)
    messages = _listed(given, key)
    if turn is not None:
        messages = _new_in(_answered([_checked(_spoken(message), key) for message in messages], turn), turn)
    ready = [_ready(message, key) for message in messages]
    if any(isinstance(message, RemoveMessage) and message.id == REMOVE_ALL_MESSAGES for message in ready):
        yield from replace(sessions, key, ready, guard)
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
        view = yield from sessions.read(key, None)
        after = _caller(ready[0], view)
    if not ready:
        return
    blobs: dict[str, Blob] = {}
    names = encode_new(added.values(), sessions.codec, label(key), blobs)
    delta = Delta(_new_id(), tuple(removed), tuple(names), after)
    # No retry is needed: the change brings every body it refers to.
    yield from _log(sessions, key, delta, blobs, guard)


def replace(sessions: Sessions, key: SessionKey, messages: Sequence[BaseMessage], guard: Guard = Guard()) -> Flow[None]:
    """Make these messages the whole conversation, but for a tool call that waits for its results.

    Raises:
        TypeNotAllowedError: One is not a message, or holds what would not come back.
        SessionDeletedError: The session this continues was deleted.
    """
    ready: dict[str | None, BaseMessage] = {}
    for message in [_ready(each, key) for each in _listed(messages, key)]:
        if not isinstance(message, RemoveMessage):
            ready[message.id] = message
        elif message.id == REMOVE_ALL_MESSAGES:
            ready.clear()
        else:
            ready.pop(message.id, None)
    for _ in range(_ATTEMPTS):
        view = yield from sessions.read(key, None)
        blobs: dict[str, Blob] = {}
        known = KnownBodies()
        known.learn_read(view.names, [view.messages[name] for name in view.names], view.snapshot.blobs, sessions.codec)
        names = encode_bodies([*ready.values()], known, sessions.codec, label(key), blobs)
        removed, added = diff(view.history, names)
        if not removed and not added:
            return
        delta = Delta(_new_id(), removed, added, known=view.snapshot.position if removed else None)
        if (yield from _log(sessions, key, delta, blobs, guard)):
            return
    raise StorageError(
        f"{label(key)}: others kept freeing what the new conversation shares with the old one; try again"
    )


def _log(sessions: Sessions, key: SessionKey, delta: Delta, blobs: Mapping[str, Blob], guard: Guard) -> Flow[bool]:
    """Store a change; False if bodies it counts on were freed in between."""
    change = Change(sessions.lease, guard, blobs, append=[(LOG, delta.payload(), delta.added)])
    outcome = yield from sessions.write(key, change)
    if outcome.status is Status.DELETED:
        raise SessionDeletedError(
            f"{label(key)} was deleted while this turn was running; what it said was not "
            "stored. A new turn starts a new session"
        )
    if outcome.status is Status.MISSING:
        return False
    if sessions.is_heavy(key, outcome):
        yield from sessions.free_now(key)
    return True


def _listed(messages: object, key: SessionKey) -> list[Any]:
    """Messages as a list.

    Raises:
        TypeNotAllowedError: They are a single message or a string, or cannot be iterated over.
    """
    if isinstance(messages, (str, BaseMessage)) or not isinstance(messages, Iterable):
        raise TypeNotAllowedError(
            f"{label(key)}: {brief(messages)} of type {type(messages).__name__} is no list of messages; pass [message]"
        )
    return list(messages)


def _spoken(message: object) -> object:
    """What a chain was given, as a message if it is one to LangChain: `("human", text)`, or a dict with a role."""
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
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    if type(message.id) is not str:
        check_id(message, label(key))
    if not message.id:
        message = message.model_copy(update={"id": _new_id()})
    return message


def _answered(messages: list[BaseMessage], turn: Turn) -> list[BaseMessage]:
    """The messages; their answer without its id if an earlier answer has it, so that it is stored anew.

    A model's cache gives an answer again with the id of the first time. A runnable that hands back what it was shown
    hands back more than that, as an agent does, or has edited it.
    """
    answer = messages[-1] if len(messages) > 1 else None
    if not isinstance(answer, AIMessage) or not answer.id:
        return messages
    known = {message.id: message for message in (*turn.cut, *turn.messages)}
    first = known.get(answer.id)
    if not isinstance(first, AIMessage) or any(message.id in known for message in messages[:-1]):
        return messages
    if (first.content, first.tool_calls) != (answer.content, answer.tool_calls):
        return messages
    return [*messages[:-1], answer.model_copy(update={"id": None})]


def _new_in(messages: Sequence[BaseMessage], turn: Turn) -> list[BaseMessage]:
    """The messages that are new to a turn, and not among those it was shown.

    A runnable that is a whole agent returns the history it was shown and its input as well. The input then comes twice:
    as it was given, without an id, and as the agent returned it, with one. An answer alone shows no such thing, since a
    model may say again what an answer among its input says.
    """
    shown = {message.id: message for message in turn.messages}
    new: list[BaseMessage] = []
    again: list[BaseMessage] = []
    for place, message in enumerate(messages):
        if message.id:
            if shown.get(message.id) != message:
                new.append(message)
            continue
        new.append(message)
        if any(
            type(later) is type(message) and later.id and later.id not in shown and later.content == message.content
            for later in messages[place + 1 :]
        ):
            again.append(message)
    if all(isinstance(message, AIMessage) for message in again):
        return new
    return [message for message in new if not any(message is each for each in again)]


def _caller(result: ToolMessage, view: View) -> str | None:
    """The key of the message that a tool's result follows: its call, or the last result of that call so far.

    Of several calls with this id it is the newest, since models use their ids again.
    """
    found: str | None = None
    in_group = False
    for name, key in zip(view.names, keyed(view.names), strict=True):
        message = view.messages[name]
        in_group = result.tool_call_id in calls_of(message) or (in_group and isinstance(message, ToolMessage))
        if in_group:
            found = key
    return found


def _new_id() -> str:
    # Not uuid.uuid4, which programs seed to get the ids they expect.
    return str(UUID(bytes=secrets.token_bytes(16), version=4))
