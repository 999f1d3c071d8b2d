"""Which channel of a root checkpoint is the conversation, and which messages that holds.

A graph hands over the conversation in one of three ways:

```text
 its value     of an ordinary channel, or a snapshot of a `DeltaChannel`
 its changes   of a `DeltaChannel` between snapshots: what a step wrote is pending on the step's parent
 nothing       of a graph without such a channel: the conversation goes on beside it
```
"""

from __future__ import annotations

from typing import Any, cast

from langchain_ttl_history.checkpointing.delta_channels import applied
from langchain_ttl_history.checkpointing.expired_turns import held_by, remove_aged
from langchain_ttl_history.checkpointing.put_inputs import Parent, PutInputs
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot, snapshot_value
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.names import BodyName
from langchain_ttl_history.stored.values import LIST, SNAPSHOT, is_conversation

__all__ = ["find_conversation"]


def find_conversation(
    sessions: Sessions, channel: str, inputs: PutInputs, record: Record, values: dict[str, Any]
) -> tuple[dict[str, Blob] | None, dict[str, Blob]]:
    """Set on a root checkpoint's record which channel is the conversation, and its messages unless its value tells.

    Args:
        sessions: What sessions have in common.
        channel: The channel that may be the conversation.
        inputs: What the put is planned from.
        record: The checkpoint's record, with the names of what its run was shown; updated in place.
        values: The channel values; left are those that have to be encoded, in the order they are stored.

    Returns:
        Two mappings of bodies by name. First, where there is no value and what the put builds on is gone, those that
        the turn still holds; else None. Then those of messages that its step wrote and that are not stored as bodies.
    """
    if channel in values:
        _use_value(sessions, channel, inputs, record, values)
        return None, {}
    parent = inputs.parent
    is_gone = inputs.lost_what_it_builds_on or parent.freed or parent.reduced
    held = held_by(sessions, inputs.put, parent.now) if is_gone else None
    if channel not in record.checkpoint["channel_versions"]:
        return held, {}
    names = None if held is None else cast("tuple[BodyName, ...]", tuple(held))
    if channel not in record.counters:  # LangGraph keeps its version for the graphs that have it.
        _keep_shown(channel, parent.record, record, names or ())
        return held, {}
    _continue_chain(channel, parent, record, names)
    record.names, written = applied(record.names, parent.writes, sessions.codec, inputs.put.key)
    return held, written


def _use_value(sessions: Sessions, channel: str, inputs: PutInputs, record: Record, values: dict[str, Any]) -> None:
    """Let the channel's value be the conversation, if it is one."""
    put, parent, run = inputs
    if put.token is not None and not run.same_session:
        remove_aged(values, channel, put.token, sessions.lease, parent.now)
    value = values[channel]
    messages = snapshot_value(value)
    if isinstance(messages, tuple) and messages is not value:
        messages = [*messages]  # What an `Overwrite` may hold.
        values[channel] = delta_snapshot(messages)
    if not is_conversation(messages):
        return
    record.channel = channel
    if parent.remembered and channel not in put.changed and run.shown and run.same_session:
        # The conversation is as it was shown, so all of it is stored already and need not be encoded.
        record.kept_as = LIST if values.pop(channel) is messages else SNAPSHOT


def _keep_shown(channel: str, before: Record | None, record: Record, held: tuple[BodyName, ...]) -> None:
    """Let the conversation stay what the run was shown, for a graph that says nothing in it.

    Args:
        channel: The channel that is the conversation.
        before: What the checkpoint builds on.
        record: The checkpoint's record; updated in place.
        held: The names of the messages that the turn still holds if that is gone.
    """
    record.names = record.names or held
    is_new = before is None or channel not in before.checkpoint["channel_versions"]
    kind = LIST if is_new or before is None else before.kept_in(channel)
    if kind is not None and (record.names or not is_new):
        record.channel, record.kept_as = channel, kind


def _continue_chain(channel: str, parent: Parent, record: Record, held: tuple[BodyName, ...] | None) -> None:
    """Let the conversation be what a `DeltaChannel` was before, to which its step's writes have yet to be applied.

    Args:
        channel: The channel that is the conversation.
        parent: What the checkpoint builds on.
        record: The checkpoint's record; updated in place.
        held: The names of the messages that the turn still holds if the checkpoints that the chain of writes began
            with are gone, so that the whole value has to be stored; else None.
    """
    before = parent.record
    record.channel = channel
    if held is not None:
        record.names = held
        return
    if before is not None and before.names != record.names:
        record.parent_names = record.names
    # If nothing was written since a snapshot, that is also this checkpoint's value.
    record.explicit = (
        before is not None
        and before.has_snapshot
        and record.parent_names is None
        and not parent.writes
        and record.checkpoint["channel_versions"][channel] == before.checkpoint["channel_versions"][channel]
    )
