"""What a chat history writes: messages added, updated, removed, or replaced as a whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)

from langchain_ttl_history.chain_turns import new_in
from langchain_ttl_history.conversation import diff, keyed
from langchain_ttl_history.errors import SessionDeletedError, StorageError, TypeNotAllowedError, brief
from langchain_ttl_history.flow import Flow
from langchain_ttl_history.given_messages import REMOVE_ALL_MESSAGES, as_messages
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.log_entries import Delta
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Blob, Change, Guard, Status
from langchain_ttl_history.stored.bodies import check_id, encode_bodies, encode_new
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import LOG, MessageKey, key_of
from langchain_ttl_history.views import Turn, View
from langchain_ttl_history.window import answerable

__all__ = ["add", "guard_of", "replace"]

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
    guard = guard_of(turn)
    messages = _listed(given, key)
    if turn is not None:
        messages = new_in([_checked(_spoken(message), key) for message in messages], turn, sessions.codec)
    ready = [_ready(message, key) for message in messages]
    if any(isinstance(message, RemoveMessage) and message.id == REMOVE_ALL_MESSAGES for message in ready):
        yield from replace(sessions, key, ready, guard)
        return
    if not ready:
        return
    removed, added = _gathered(ready)
    groups: list[tuple[MessageKey | None, list[str]]] = [(None, [*added])]
    if not added or _has_late_results(sessions, key, added.values()):
        view = yield from sessions.read(key, None)
        if not added and view.generation is None:
            _check_deletion(view, guard, key)
            return  # There is nothing to remove, and no session to make.
        groups = _placed(added.values(), view)
    blobs: dict[str, Blob] = {}
    names = dict(zip(added, encode_new(added.values(), sessions.codec, label(key), blobs), strict=True))
    run = _new_id()
    deltas = [Delta(run, (), tuple(map(names.__getitem__, ids)), after) for after, ids in groups]
    deltas[0] = deltas[0]._replace(removed=removed)
    # No retry is needed: the change brings every body it refers to.
    yield from _log(sessions, key, deltas, blobs, guard)
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


def replace(sessions: Sessions, key: SessionKey, messages: Sequence[BaseMessage], guard: Guard) -> Flow[None]:
    """Make these messages the whole conversation, but for a tool call that waits for its results.

    Raises:
        TypeNotAllowedError: One is not a message, or holds what would not come back.
        SessionDeletedError: The session this continues was deleted.
    """
    _, ready = _gathered([_ready(message, key) for message in _listed(messages, key)])
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
        if (yield from _log(sessions, key, [delta], blobs, guard)):
            return
    raise StorageError(
        f"{label(key)}: others kept freeing what the new conversation shares with the old one; try again"
    )


def _log(
    sessions: Sessions, key: SessionKey, deltas: Iterable[Delta], blobs: Mapping[str, Blob], guard: Guard
) -> Flow[bool]:
    """Store changes; False if bodies they count on were freed in between."""
    append = [(LOG, delta.payload(), delta.added) for delta in deltas]
    change = Change(sessions.lease, guard, blobs, append)
    outcome = yield from sessions.write(key, change)
    if outcome.status is Status.DELETED:
        raise _deleted(key)
    if outcome.status is Status.MISSING:
        return False
    if sessions.is_heavy(key, outcome):
        yield from sessions.free_now(key)
    return True


def _check_deletion(view: View, guard: Guard, key: SessionKey) -> None:
    """Refuse what a storage is not asked to, since there is nothing to write.

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


def _listed(messages: object, key: SessionKey) -> list[Any]:
    """Messages as a list.

    Raises:
        TypeNotAllowedError: They are a single message, a string or a dict, or cannot be iterated over.
    """
    if isinstance(messages, (str, dict, BaseMessage)) or not isinstance(messages, Iterable):
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
    while isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)  # Of a program's own class of chunks it makes LangChain's.
    check_id(message, label(key))
    if not message.id:
        message = message.model_copy(update={"id": _new_id()})
    return message


def _has_late_results(sessions: Sessions, key: SessionKey, messages: Iterable[BaseMessage]) -> bool:
    """Whether results among these messages may belong to a call that is there, and not at the end.

    They stand first, or behind their call, or another message, that is said again. For the latter this process has to
    know of that: what others stored is not looked up, since nearly all results come with a new call.
    """
    callers: dict[str | None, str] = {}
    is_first = True
    for message in messages:
        id = message.id or ""
        if not isinstance(message, ToolMessage):
            callers.update(dict.fromkeys(answerable(message), id))
            is_first = is_first and sessions.cache.may_have(key, id)
        elif message.tool_call_id not in callers:
            if is_first:
                return True
        elif sessions.cache.may_have(key, callers[message.tool_call_id]):
            return True
    return False


def _placed(messages: Iterable[BaseMessage], view: View) -> list[tuple[MessageKey | None, list[str]]]:
    """The ids of these messages in groups, and for each the key of the message that it follows; None for the end.

    A late result goes to its call, and what answers it, up to the next question, with it. What is said behind a message
    that is there follows that, once anything went to its call.
    """
    groups: list[tuple[MessageKey | None, list[str]]] = [(None, [])]
    here = {*keyed(view.names)}
    # By the id of a call the message of these that made it, if that is there; results of a new one stay with it.
    # As long as nothing new was said but results, those of other calls are late as well.
    made: dict[str | None, MessageKey] = {}
    at, behind, is_first = 0, None, True
    for message in messages:
        id = MessageKey(message.id or "")
        is_there = id in here
        if not isinstance(message, ToolMessage):
            is_first = is_first and is_there
            for call in answerable(message):
                made.pop(call, None)
                if is_there:
                    made[call] = id
        if is_there:  # What is there stays in its place, and places nothing.
            behind = id if len(groups) > 1 else None
        elif isinstance(message, ToolMessage) and (is_first or message.tool_call_id in made):
            after = _caller(message, view, made.get(message.tool_call_id))
            at = next((place for place, (other, _) in enumerate(groups) if other == after), len(groups))
            behind = None
            if at == len(groups):
                groups.append((after, []))
        elif behind is not None or (groups[at][0] is not None and isinstance(message, (HumanMessage, SystemMessage))):
            asks = isinstance(message, (HumanMessage, SystemMessage))
            at = len(groups)
            groups.append((None if asks else behind, []))
            behind = None
        groups[at][1].append(id)
    return groups if groups[0][1] or len(groups) == 1 else groups[1:]


def _caller(result: ToolMessage, view: View, caller: MessageKey | None) -> MessageKey | None:
    """The key of the message that a tool's result follows: its call, or the last result of that call so far.

    Args:
        result: The result.
        view: The conversation.
        caller: The key of the message that made the call, if that is known; else it is the newest with a call of this
            id, since models use their ids again.
    """
    found: MessageKey | None = None
    in_group = False
    for name, key in zip(view.names, keyed(view.names), strict=True):
        message = view.messages[name]
        made_it = result.tool_call_id in answerable(message) and caller in (None, key)
        in_group = made_it or (in_group and isinstance(message, ToolMessage))
        if in_group:
            found = key
    return found


def _new_id() -> str:
    # Not uuid.uuid4, which programs seed to get the ids they expect. Of this version; see `Delta.is_of_graph`.
    return str(UUID(bytes=secrets.token_bytes(16), version=4))
