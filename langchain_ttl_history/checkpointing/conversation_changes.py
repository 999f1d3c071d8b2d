"""What a put changes in the conversation: which channel holds it, and which messages the step added or removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_ttl_history.checkpointing.delta_channels import said_in
from langchain_ttl_history.checkpointing.put_inputs import Parent
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.conversation import diff
from langchain_ttl_history.encoding.langgraph_values import snapshot_value
from langchain_ttl_history.log_entries import CARRIED_OVER, Delta
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.bodies import decode_bodies
from langchain_ttl_history.stored.names import BodyName, MessageKey, key_of
from langchain_ttl_history.stored.values import LIST, is_conversation
from langchain_ttl_history.window import ends_open

__all__ = ["Step", "carried_over", "set_channel", "step_changes"]

# The channel that a run's input is written to.
_START = "__start__"


def set_channel(
    record: Record,
    values: Mapping[str, Any],
    channel: str,
    parent: Parent,
    held: Iterable[BodyName] | None,
) -> bool:
    """Set on a checkpoint's record which channel holds the conversation.

    Args:
        record: The checkpoint's record; updated in place.
        values: Its channel values.
        channel: The channel that may hold the conversation.
        parent: What the checkpoint builds on.
        held: For a `DeltaChannel` whose chain of writes before is gone: the names of the messages that the turn still
            holds (see `expired_turns.held_by`); else None.

    Returns:
        Whether the writes pending on the parent have yet to be applied to the names of its messages.
    """
    if channel in values:
        if is_conversation(snapshot_value(values[channel])):
            record.channel = channel
        return False
    versions = record.checkpoint["channel_versions"]
    if channel not in versions:
        return False
    before = parent.record
    if channel not in record.counters:
        # A graph without this channel, which LangGraph keeps for the graphs that have it. So what it was shown goes on.
        if held and not record.names:
            record.names = tuple(held)
        is_new = before is None or channel not in before.checkpoint["channel_versions"]
        kind = LIST if is_new or before is None else before.kept_in(channel)
        if kind is not None and (record.names or not is_new):
            record.channel, record.plain = channel, kind == LIST
        return False
    # A `DeltaChannel` between snapshots: its new value is the old one plus the writes pending on the parent, which
    # LangGraph stores before this checkpoint.
    record.channel, record.explicit = channel, False
    if before is not None and before.names != record.names:
        record.parent_names = record.names
    if before is not None and before.has_snapshot and record.parent_names is None and not parent.writes:
        # Nothing was written since that snapshot, so it is also this checkpoint's value.
        record.explicit = versions[channel] == before.checkpoint["channel_versions"][channel]
    if held is not None:
        # The checkpoints that the chain of writes began with are gone, so the whole value is stored.
        record.explicit, record.parent_names, record.names = True, None, tuple(held)
    return True


class Step(NamedTuple):
    """A step of a run, to tell what it changes."""

    record: Record
    """The checkpoint's record, with its conversation set."""
    value: Any
    """The value of the conversation's channel."""
    written: Sequence[Any]
    """For a `DeltaChannel`, which has no value, what the step wrote to it."""
    shown: Sequence[BodyName]
    """The names of the messages that the step was shown."""
    before: Record | None
    """The previous checkpoint of the same run; None if this is its first."""
    parent: Record | None
    """The checkpoint that it builds on; None if there is none, or it is not known."""

    @property
    def has_input(self) -> bool:
        """Whether its run was given input, and does not only go on."""
        if self.before is not None:
            return self.before.metadata.get("source") == "input"
        given = self.record.checkpoint["channel_versions"].get(_START)
        before = None if self.parent is None else self.parent.checkpoint["channel_versions"].get(_START)
        return given is not None and given != before

    @property
    def messages(self) -> Sequence[BaseMessage] | None:
        """The conversation, message by message as the record names them; None for a `DeltaChannel`."""
        messages = snapshot_value(self.value)
        # The run may have gone on and added to the list that it handed over.
        return messages[: len(self.record.names)] if is_conversation(messages) else None

    def has_no_result(self, at: int, key: MessageKey) -> bool:
        """Whether the message of this key certainly is no result; the first place to look is `at`."""
        messages = self.messages
        if messages is None or at >= len(messages) or key_of(self.record.names[at]) != key:
            return False
        return not isinstance(messages[at], ToolMessage)

    def new(self) -> list[BaseMessage]:
        """The messages that were not shown."""
        return [message for _, message in self.new_by_key()]

    def new_by_key(self) -> list[tuple[str | None, BaseMessage]]:
        """The messages that were not shown, each with its key."""
        messages = self.messages
        if messages is None:
            return [(message.id, message) for message in said_in(self.written)]
        old = {key_of(name) for name in self.shown}
        keyed = zip(map(key_of, self.record.names), messages, strict=False)  # It may have removed some, too.
        return [(key, message) for key, message in keyed if key not in old]


def step_changes(step: Step, back: AbstractSet[MessageKey]) -> list[Delta]:
    """The changes that a step of a run makes: what it added and removed, and which message of its turn that follows.

    A run that resumes continues the interrupted turn; any other run opens a turn, whose first message follows nothing.
    Results that it brings along for a call that waits go to that call.

    Args:
        step: The step; `last` of its record is set here.
        back: Keys of messages that the window had cut and that came back (see `brought_back`); they are not new.
    """
    record, shown, before = step.record, step.shown, step.before
    names: Sequence[BodyName] = record.names
    if back:
        shown, names = ([name for name in each if key_of(name) not in back] for each in (shown, names))
    removed, added = diff(shown, names)
    last = None if before is None else before.last
    if last is None and shown:
        last = _continued(step, key_of(shown[-1]))
    new = [*map(key_of, added)]
    if len(shown) + len(added) > len(names):
        # Some of the added messages replace ones that were shown, and are not new.
        there = {key_of(name) for name in shown}.difference(removed)
        new = [key for key in new if key not in there]
    # What it follows may be a message that it removes, and is then gone for whoever folds this.
    after = nearest = last
    if last in removed:
        nearest = _nearest_before(last, step, shown, removed)
        after = last if nearest is None else nearest
    record.last = new[-1] if new else nearest
    known = record.seen.last
    results = _results(step, removed, added, names, after) if new and new[0] == key_of(added[0]) else None
    rest = added[len(results.added) :] if results is not None else added
    change = Delta(record.run, removed, rest, after, known=known if removed or after is not None else None)
    return [change] if results is None else [results, change]


def _results(
    step: Step,
    removed: Sequence[MessageKey],
    added: Sequence[BodyName],
    names: Sequence[BodyName],
    after: MessageKey | None,
) -> Delta | None:
    """The change for results that a step adds first, where their call is not what it follows; None if there are none.

    Args:
        step: The step.
        removed: The keys of what it removes.
        added: The names of what it adds; the first is new.
        names: The names of the conversation after it.
        after: The key of the message that the step follows.
    """
    shown = step.shown
    at = len(shown) if names[len(shown) : len(shown) + 1] == added[:1] else names.index(added[0])
    caller = key_of(names[at - 1]) if at else after
    if caller == after or step.has_no_result(at, key_of(added[0])):
        return None  # As most steps, which go on with what they have said or begin a turn.
    if caller not in {key_of(name) for name in shown}.difference(removed):
        return None
    kinds = {key: type(message) for key, message in step.new_by_key()}
    results = (*takewhile(lambda name: issubclass(kinds.get(key_of(name), object), ToolMessage), added),)
    return Delta(step.record.run, (), results, caller, known=step.record.seen.last) if results else None


def _continued(step: Step, last: MessageKey) -> MessageKey | None:
    """The key of the message that a step follows if it continues a turn; None if it opens one.

    Args:
        step: The step; its run has said nothing of what it was shown.
        last: The key of the last message that it was shown.
    """
    messages = step.messages
    resumes = step.before is None and step.record.metadata.get("source") == "loop"
    if resumes and not step.has_input and any(isinstance(each, ToolMessage) for each in step.new()):
        return last  # An answer, and what a `Command` says besides.
    before: Sequence[BaseMessage] = ()
    if messages is None:
        said: Sequence[BaseMessage] = step.new()
    else:
        at, names = len(step.shown), step.record.names
        if at > len(messages) or key_of(names[at - 1]) != last:
            at = next((at for at, name in enumerate(names, 1) if key_of(name) == last), len(messages))
        before, said = messages[:at], messages[at:]
    answers = bool(said) and isinstance(said[0], ToolMessage)
    if not answers and not resumes:
        return None
    asks = any(isinstance(each, HumanMessage) for each in step.new())
    if answers:
        # A result, and whatever its tool says besides; but for a question that somebody asks.
        return None if asks and step.has_input else last
    # It may have begun in another's tool, and removed its own question.
    return None if asks or (said and ends_open(before)) else last


def _nearest_before(
    last: MessageKey, step: Step, shown: Sequence[BodyName], removed: Sequence[MessageKey]
) -> MessageKey | None:
    """The key of the message before the one that a turn would follow, where a step removed that; None if there is none.

    Args:
        last: The key of the message that the turn would follow.
        step: The step.
        shown: The names of the messages that it was shown.
        removed: The keys of those it removed.
    """
    if step.messages is None:
        return None
    keys = [key_of(name) for name in shown]
    before_it = keys[: keys.index(last)] if last in keys else []
    stays = {*before_it}.difference(removed)
    keyed = zip(map(key_of, step.record.names), step.messages, strict=False)  # As in `Step.new_by_key`.
    if ends_open([message for key, message in keyed if key in stays]):
        return None  # Perhaps an open tool call: its results may arrive meanwhile and must follow it.
    return next((key for key in reversed(before_it) if key not in removed), None)


def carried_over(record: Record, value: Any, held: Mapping[str, Blob], codec: Codec) -> list[Delta]:
    """The changes, one a turn, for what a run carries over into a session that began after its own ended.

    In between, an agent that ran in one of its tools may have carried over the same and said more.

    Args:
        record: The checkpoint's record with its conversation set; `record.last` is set here.
        value: The value of the conversation's channel.
        held: For a `DeltaChannel`, which has no value, the bodies of what the turn holds besides this step's messages.
        codec: Decodes these.
    """
    names, messages = record.names, snapshot_value(value)
    if not is_conversation(messages):
        messages = decode_bodies([*takewhile(held.__contains__, names)], held, codec)
    record.last = key_of(names[-1]) if names else None
    begins = [at for at in range(1, len(messages)) if _begins_turn(messages, at)]
    turns = [names[begin:end] for begin, end in pairwise([0, *begins, len(names)])]
    return [Delta(record.run, (), turn, None, known=CARRIED_OVER) for turn in turns if turn]


def _begins_turn(messages: Sequence[BaseMessage], at: int) -> bool:
    """Whether a turn begins at this place: with a question, or in another's tool."""
    kind = type(messages[at])
    return issubclass(kind, HumanMessage) or (not issubclass(kind, ToolMessage) and ends_open(messages[:at]))
