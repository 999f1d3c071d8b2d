"""What a checkpoint says: which of its channels is the conversation, and what its step changed in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter
from typing import Any

from langchain_core.messages import HumanMessage

from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.codec import Codec, delta_snapshot, snapshot_value
from langchain_ttl_history.conversation import Delta, diff
from langchain_ttl_history.delta_channels import applied
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.strip import key_of
from langchain_ttl_history.values import is_conversation
from langchain_ttl_history.window import ends_open

__all__ = ["find_talk", "keep_cut_first", "said"]

_id_of = attrgetter("id")


def find_talk(
    record: Record,
    values: Mapping[str, Any],
    channel: str,
    before: Record | None,
    delta: tuple[tuple[Any, ...], tuple[str, ...]],
    codec: Codec,
    key: SessionKey,
) -> None:
    """Find out what the conversation at this checkpoint is, and whether a channel is it.

    Args:
        record: The checkpoint; what is found is set on it.
        values: Its channels' values.
        channel: The one that may be the conversation.
        before: The checkpoint it builds on.
        delta: For a `DeltaChannel`: what was written to it on that checkpoint, and the names of what the
            turn holds of a session that ended under it.
        codec: Encodes what was written.
        key: Names the session.
    """
    if channel in values:
        if is_conversation(snapshot_value(values[channel])):
            record.channel = channel
        return
    counters = record.metadata.get("counters_since_delta_snapshot") or {}
    versions = record.checkpoint["channel_versions"]
    if channel not in counters or channel not in versions:
        return
    writes, held = delta
    # A `DeltaChannel` between snapshots: its new value is the old one and the parent's
    # writes, which LangGraph stores first.
    record.channel, record.explicit = channel, False
    if before is not None and before.names != record.names:
        record.base = record.names
    if before is not None and before.snapshot and record.base is None and not writes:
        # Not written since that snapshot, so it is this checkpoint's as well.
        record.explicit = versions[channel] == before.checkpoint["channel_versions"][channel]
    if held:
        # Nothing is left that a chain of writes could begin with.
        record.explicit, record.base = True, None
    record.names = applied(held or record.names, writes, codec, key)


def keep_cut_first(values: dict[str, Any], channel: str, cut: AbstractSet[str]) -> bool:
    """Leave what the window had cut where it stood.

    A subgraph may hold it still, and hand it back; the graph, which was not shown it, takes it for something new.

    Returns:
        Whether there is any of it.
    """
    value = values.get(channel)
    messages = snapshot_value(value)
    if not is_conversation(messages) or cut.isdisjoint(map(_id_of, messages)):
        return False
    back = [message for message in messages if message.id in cut]
    ordered = back + [message for message in messages if message.id not in cut]
    values[channel] = ordered if value is messages else delta_snapshot(ordered)
    return True


def said(record: Record, value: Any, shown: Sequence[str], before: Record | None, cut: AbstractSet[str]) -> Delta:
    """What this step of a run said, and which message of its own turn it follows.

    A run that resumes goes on with the turn that was interrupted; any other opens one, whose
    first message follows nothing.

    Args:
        record: The checkpoint, its conversation set.
        value: The conversation's channel.
        shown: What the step was shown.
        before: The checkpoint of the same run before this one.
        cut: Keys of what the window had cut and is handed back all the same, which is nothing that was said.
    """
    names: Sequence[str] = record.names
    if cut:
        shown, names = ([name for name in each if key_of(name) not in cut] for each in (shown, names))
    removed, added = diff(shown, names)
    last = before.last if before is not None else None
    if before is None and record.metadata.get("source") == "loop" and shown:
        messages = snapshot_value(value)
        old = {key_of(name) for name in shown}
        if not is_conversation(messages) or not any(
            isinstance(each, HumanMessage) and each.id not in old for each in messages
        ):
            last = key_of(shown[-1])
    new = [*map(key_of, added)]
    if removed or len(shown) + len(added) > len(names):
        # Some of them are there already, and were only changed.
        there = {key_of(name) for name in shown}.difference(removed)
        new = [key for key in new if key not in there]
    if last in removed:
        # Nothing stands there any more, so what the turn says next follows what stood before it.
        keys = [key_of(name) for name in shown]
        before_it = keys[: keys.index(last)] if last in keys else []
        last = next((key for key in reversed(before_it) if key not in removed), None)
        messages = snapshot_value(value)
        if last is not None and is_conversation(messages):
            stays = {*before_it}.difference(removed)
            if ends_open([message for message in messages if message.id in stays]):
                last = None  # Somebody's call, whose results may have come meanwhile.
    record.last = new[-1] if new else last
    return Delta(record.run, removed, added, last)
