"""Messages that a window had cut, and that a run brings back: they keep their old place, before the window.

A subgraph may still hold such messages and return them, and a client may send its whole conversation with each
question. The graph, which was not shown them, appends them as new:

```text
 the conversation    q1 a1 q2 a2
 a run is shown      q2 a2                 since the window has room for two messages
 its client sends    q1 a1 q2 a2 q3
 its model is shown  q2 a2 q1 a1 q3
 what is stored      q1 a1 q2 a2 q3 a3     q3 and a3 are new to the log, and nothing else is
```

They are known by what the checkpoint that the run loaded had before the window (`Token.cut`); and where that does not
tell, by what the checkpoints had that this one builds on (`knowing_past`).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from langchain_ttl_history.checkpointing.conversation_changes import Step
from langchain_ttl_history.checkpointing.put_inputs import Put
from langchain_ttl_history.checkpointing.run_token import Token
from langchain_ttl_history.checkpoints import decode_record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot, snapshot_value
from langchain_ttl_history.errors import TTLHistoryError
from langchain_ttl_history.flow import Flow, Read
from langchain_ttl_history.log_entries import deltas_of
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Query, Snapshot
from langchain_ttl_history.stored.names import LOG, NO_KEYS, MessageKey, checkpoint_name, key_of
from langchain_ttl_history.stored.values import is_conversation

__all__ = ["brought_back", "keep_cut_first", "knowing_past", "may_bring_back"]


def may_bring_back(put: Put, token: Token, channel: str) -> bool:
    """Whether a put may have messages that were cut before its run began: an answer before a question, both new.

    An agent that hands over to another by a question of its own looks the same.

    Args:
        put: The put.
        token: The put's.
        channel: The channel that holds the conversation.
    """
    messages = None if put.ns else snapshot_value(put.values.get(channel))
    answered = False
    # Few are new, so only these are looked at.
    for message in messages[token.shown_count :] if type(messages) is list else ():
        if answered and isinstance(message, HumanMessage):
            return is_conversation(messages)
        answered = answered or isinstance(message, AIMessage)
    return False


def knowing_past(sessions: Sessions, put: Put, token: Token, channel: str) -> Flow[Put]:
    """The put, with its token extended by the messages that were cut before its run began and that it brings back.

    That needs a read, since the checkpoint that its run has loaded does not tell what an earlier one still had.

    Args:
        sessions: What sessions have in common.
        put: The put, which `may_bring_back` messages.
        token: The put's.
        channel: The channel that holds the conversation.
    """
    cached = sessions.cache.last(put.key)
    past = None if cached is None or cached.past is None or cached.past[0] != token.id else cached.past[1]
    if past is None:
        snapshot: Snapshot = yield Read(put.key, Query(outline=True))
        try:
            past = _past(snapshot, token.id, sessions.codec)
        except TTLHistoryError:
            past = NO_KEYS  # What cannot be read tells nothing, and keeps no put from being stored.
        if cached is not None:
            cached.past = token.id, past
    given = {message.id for message in snapshot_value(put.values[channel])}.difference(map(key_of, token.names))
    return put._replace(token=token._replace(cut=token.cut.union(past.intersection(given))))


def _past(snapshot: Snapshot, id: str, codec: Codec) -> frozenset[MessageKey]:
    """The keys of all messages that a checkpoint and those it builds on had, but for those that were removed since."""
    blobs = {**snapshot.blobs}
    keys: set[MessageKey] = set()
    parent: str | None = id
    while parent is not None and (blob := blobs.pop(checkpoint_name("", parent), None)) is not None:
        record = decode_record(blob, codec)
        keys.update(map(key_of, record.names))
        parent = record.parent
    gone: set[MessageKey] = set()
    for delta in deltas_of(snapshot.lists.get(LOG, ())):
        gone.update(delta.removed)
        if delta.keeps is not None:
            gone.update(keys.difference(delta.keeps))
        gone.difference_update(delta.added_keys)
    return frozenset(keys - gone)


def brought_back(step: Step, cut: frozenset[MessageKey]) -> frozenset[MessageKey]:
    """The keys of the messages that belong before the window, if the step put any of them back; else empty.

    Args:
        step: The step; what it was shown begins with what steps before put back.
        cut: The keys of the messages that the window had cut when the run began.
    """
    names, count = step.record.names, len(step.shown)
    new = names[count:] if names[:count] == step.shown else names
    if cut.isdisjoint(map(key_of, new)):
        return NO_KEYS
    return cut.difference(_said_again(step, cut), _asked_again(step, cut))


def _said_again(step: Step, cut: frozenset[MessageKey]) -> frozenset[MessageKey]:
    """The keys of cut messages that an earlier step of the run has said again: they stand behind others."""
    keys = [*map(key_of, step.shown)]
    first = next((at for at, key in enumerate(keys) if key not in cut), len(keys))
    return cut.intersection(keys[first:])


def _asked_again(step: Step, cut: frozenset[MessageKey]) -> frozenset[MessageKey]:
    """The key of a cut question that somebody asks again, as the last one and without its old answer; else empty."""
    if not step.has_input and step.record.metadata.get("source") != "update":
        return NO_KEYS
    asked = NO_KEYS
    for message in step.new():
        if isinstance(message, AIMessage):
            if message.id not in cut:
                break  # The run's own.
            asked = NO_KEYS
        elif isinstance(message, HumanMessage):
            if message.id not in cut:
                return NO_KEYS
            asked = frozenset({MessageKey(message.id)})
    return asked


def keep_cut_first(value: Any, back: AbstractSet[MessageKey]) -> Any:
    """The value of the conversation's channel, with messages that the window had cut moved from its end to its front.

    Args:
        value: The channel's value.
        back: The keys of these messages.
    """
    messages = snapshot_value(value)
    ordered = [message for message in messages if message.id in back]
    ordered += [message for message in messages if message.id not in back]
    return ordered if value is messages else delta_snapshot(ordered)
