"""Support for LangGraph's `DeltaChannel`, whose value is spread over the pending writes of a chain of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage

from langchain_ttl_history.checkpointing.input_checks import checked_name
from langchain_ttl_history.checkpoints import decode_record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.conversation import keyed
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot
from langchain_ttl_history.flow import Flow, Read
from langchain_ttl_history.given_messages import REMOVE_ALL_MESSAGES, as_messages
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.pointers import found_record
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Blob, Query, Snapshot
from langchain_ttl_history.stored.bodies import decode_bodies, encode_new
from langchain_ttl_history.stored.names import (
    BODY,
    CHECKPOINT,
    VALUE,
    BodyName,
    MessageKey,
    checkpoint_name,
    pointer_name,
    writes_name,
)
from langchain_ttl_history.stored.pending import PendingWrite, decode_writes
from langchain_ttl_history.stored.values import is_conversation

__all__ = ["applied", "delta_history", "said_in"]


def delta_history(
    sessions: Sessions, key: SessionKey, ns: str, id: str | None, channels: Sequence[str]
) -> Flow[dict[str, dict[str, Any]]]:
    """The writes that lead to a checkpoint, oldest first, and what each channel starts from.

    Raises:
        ConfigurationError: A channel's name is no string.
    """
    channels = [checked_name("a channel", channel) for channel in channels]
    codec = sessions.codec
    collected: dict[str, list[PendingWrite]] = {channel: [] for channel in channels}
    seeds: dict[str, Any] = {}
    remaining = set(channels)
    names = (pointer_name(ns),) if id is None else (checkpoint_name(ns, id),)
    snapshot: Snapshot = yield Read(key, Query(names, (CHECKPOINT, BODY)))
    record = found_record(ns, id, snapshot.blobs, codec)
    while record is not None and record.parent is not None and remaining:
        parent = record.parent
        query = Query(
            (checkpoint_name(ns, parent), writes_name(ns, parent), *(record.parent_names or ())), (BODY, VALUE)
        )
        snapshot = yield Read(key, query)
        writes = decode_writes(snapshot.lists.get(writes_name(ns, parent), ()), snapshot.blobs, codec)
        for channel in remaining:
            found = [write for write in writes if write.channel == channel]
            collected[channel] = found + collected[channel]
        if record.parent_names is not None and record.channel in remaining:
            messages = decode_bodies(record.parent_names, snapshot.blobs, codec)
            seeds[record.channel] = delta_snapshot(messages)
            remaining.discard(record.channel)
        blob = snapshot.blobs.get(checkpoint_name(ns, parent))
        if blob is None:
            break
        record = decode_record(blob, codec)
        values = record.decode_values(snapshot.blobs, codec)
        if record.channel in remaining and record.channel in record.values:
            messages = decode_bodies(record.names, snapshot.blobs, codec)
            values[record.channel] = delta_snapshot(messages) if record.has_snapshot else messages
        for channel in remaining & values.keys():
            seeds[channel] = values[channel]
            remaining.discard(channel)
    return {
        channel: {
            "writes": [(write.task_id, write.channel, write.value) for write in collected[channel]],
            **({"seed": seeds[channel]} if channel in seeds else {}),
        }
        for channel in channels
    }


def applied(
    names: tuple[BodyName, ...], writes: Sequence[Any], codec: Codec, key: SessionKey
) -> tuple[tuple[BodyName, ...], dict[str, Blob]]:
    """The conversation after a step's writes to it, in the order LangGraph applies them.

    Args:
        names: The names of its messages before.
        writes: What was written.
        codec: Encodes the messages.
        key: Names the session.

    Returns:
        The names of its messages, and the bodies of those that were not stored as bodies when they were written.
    """
    blobs: dict[str, Blob] = {}
    current = dict(zip(keyed(names), names, strict=True))
    for write in writes:
        replaced, value = _overwritten(write)
        if replaced:
            current = {}
        given = _as_list(value, whole=replaced)
        messages = as_messages(given)
        if messages is None:
            continue  # Another reducer than that for messages may accept it.
        # Only a list of messages is stored as bodies. Any other write is stored as it is: an `Overwrite` whole, and
        # pairs, texts and dictionaries, which become messages only in the channel.
        lacking = {} if write is value and is_conversation(given) else blobs
        for message in messages:
            if isinstance(message, RemoveMessage):
                if message.id == REMOVE_ALL_MESSAGES:
                    current = {}
                current.pop(MessageKey(message.id or ""), None)
                continue
            (name,) = encode_new([message], codec, label(key), lacking)
            key_in_it = MessageKey(message.id) if message.id else keyed([*current.values(), name])[-1]
            current[key_in_it] = name
    return tuple(current.values()), blobs


def said_in(writes: Sequence[Any]) -> list[BaseMessage]:
    """What writes to the conversation say, as far as it is messages and none that removes others."""
    said: list[BaseMessage] = []
    for write in writes:
        replaced, value = _overwritten(write)
        said += as_messages(_as_list(value, whole=replaced)) or ()
    return [message for message in said if not isinstance(message, RemoveMessage)]


def _as_list(value: Any, *, whole: bool) -> list[Any]:
    """What a write holds, as a list; `whole`: it is all of the channel's value, so a tuple is no single message."""
    return [*value] if isinstance(value, list) or (whole and isinstance(value, tuple)) else [value]


def _overwritten(value: Any) -> tuple[bool, Any]:
    """Whether a write replaces a channel's value (LangGraph's `Overwrite`), and the value it writes."""
    if any((kind.__module__, kind.__name__) == ("langgraph.types", "Overwrite") for kind in type(value).__mro__):
        return True, value.value
    if isinstance(value, dict) and set(value) == {"__overwrite__"}:
        return True, value["__overwrite__"]
    return False, value
