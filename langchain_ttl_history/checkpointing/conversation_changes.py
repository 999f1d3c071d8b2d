"""What a step of a run changes in the conversation: the messages that it adds and removes, and where they go.

A run opens a turn, or goes on with one. What others say meanwhile must not come in between, so each change in the log
names the message that it follows:

```text
 an agent is asked q2       1  adds q2, after nothing, as it opens a turn
 its model calls a tool     2  adds call, after q2
 a chain takes a turn       3  adds q3 a3
 the tool's result comes    4  adds result, after call: another run, which goes on with the turn
 the model answers          5  adds a2, after result
 the conversation              q2 call result a2 q3 a3
```

If a new question comes with the result, that is two changes: `result`, after `call`, and `q4`, after nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import takewhile
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_ttl_history.checkpointing.delta_channels import said_in
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.conversation import diff
from langchain_ttl_history.encoding.langgraph_values import snapshot_value
from langchain_ttl_history.log_entries import Delta
from langchain_ttl_history.stored.names import BodyName, MessageKey, key_of
from langchain_ttl_history.stored.values import is_conversation
from langchain_ttl_history.window import ends_open

__all__ = ["Step", "step_changes"]

# The channel that a run's input is written to.
_START = "__start__"


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
    previous: Record | None
    """The previous checkpoint of the same run; None if this is its first."""
    parent: Record | None
    """The checkpoint that it builds on; None if there is none, or it is not known."""

    @property
    def has_input(self) -> bool:
        """Whether its run was given input, and does not only go on."""
        if self.previous is not None:
            return self.previous.metadata.get("source") == "input"
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


class _Difference(NamedTuple):
    """What makes the conversation that a step was shown the one after it."""

    shown: Sequence[BodyName]
    names: Sequence[BodyName]
    """Those of the messages after it."""
    removed: tuple[MessageKey, ...]
    added: tuple[BodyName, ...]

    @property
    def stays(self) -> set[MessageKey]:
        """The keys of the messages that it was shown and does not remove."""
        return {key_of(name) for name in self.shown}.difference(self.removed)

    def without_edits(self, added: list[MessageKey]) -> list[MessageKey]:
        """Of the keys of the messages that it adds those of new ones."""
        if len(self.shown) + len(added) <= len(self.names):
            return added
        stays = self.stays
        return [key for key in added if key not in stays]


def step_changes(step: Step, back: AbstractSet[MessageKey]) -> list[Delta]:
    """The changes that a step of a run makes; some may be empty.

    Args:
        step: The step; `last` of its record is set here.
        back: Keys of messages that the window had cut and that came back (see `brought_back`); they are not new.
    """
    record, shown, previous = step.record, step.shown, step.previous
    names: Sequence[BodyName] = record.names
    if back:
        shown, names = ([name for name in each if key_of(name) not in back] for each in (shown, names))
    removed, added = diff(shown, names)
    difference = _Difference(shown, names, removed, added)
    last = None if previous is None else previous.last
    if last is None and shown and _continues(step, key_of(shown[-1])):
        last = key_of(shown[-1])
    nearest = _nearest_before(last, step, difference) if last in removed else last
    # Without one it follows what it removes, which is then gone for whoever folds this.
    after = last if nearest is None else nearest
    keys, known = [*map(key_of, added)], record.seen.last
    new = difference.without_edits(keys)
    record.last = new[-1] if new else nearest
    results = _results(step, difference, after) if new and new[0] == keys[0] else None
    rest = added if results is None else added[len(results.added) :]
    change = Delta(record.run, removed, rest, after, known=known if removed or after is not None else None)
    return [change] if results is None else [results, change]


def _continues(step: Step, last: MessageKey) -> bool:
    """Whether a step goes on with a turn that it was shown, and does not open one.

    Args:
        step: The step; its run has said nothing of what it was shown.
        last: The key of the last message that it was shown.
    """
    resumes = step.previous is None and step.record.metadata.get("source") == "loop"
    if resumes and not step.has_input and any(isinstance(each, ToolMessage) for each in step.new()):
        return True  # An answer, and what a `Command` says besides.
    before, said = _parted(step, last)
    answers = bool(said) and isinstance(said[0], ToolMessage)
    if not answers and not resumes:
        return False
    asks = any(isinstance(each, HumanMessage) for each in step.new())
    if answers:
        # A result, and whatever its tool says besides; but for a question that somebody asks.
        return not (asks and step.has_input)
    # It may have begun in another's tool, and removed its own question.
    return not asks and not (said and ends_open(before))


def _parted(step: Step, last: MessageKey) -> tuple[Sequence[BaseMessage], Sequence[BaseMessage]]:
    """The conversation after a step up to the last message that it was shown, and what follows that.

    For a `DeltaChannel`, nothing and what the step wrote.
    """
    messages, at, names = step.messages, len(step.shown), step.record.names
    if messages is None:
        return (), step.new()
    if at > len(messages) or key_of(names[at - 1]) != last:
        at = next((at for at, name in enumerate(names, 1) if key_of(name) == last), len(messages))
    return messages[:at], messages[at:]


def _nearest_before(last: MessageKey | None, step: Step, difference: _Difference) -> MessageKey | None:
    """The key of the message before the one that a turn would follow, where a step removed that; None if there is none.

    Args:
        last: The key of the message that the turn would follow.
        step: The step.
        difference: What it changed.
    """
    if step.messages is None:
        return None
    keys = [key_of(name) for name in difference.shown]
    before_it = keys[: keys.index(last)] if last in keys else []
    stays = {*before_it}.difference(difference.removed)
    keyed = zip(map(key_of, step.record.names), step.messages, strict=False)  # As in `Step.new_by_key`.
    if ends_open([message for key, message in keyed if key in stays]):
        return None  # Perhaps an open tool call: its results may arrive meanwhile and must follow it.
    return next((key for key in reversed(before_it) if key in stays), None)


def _results(step: Step, difference: _Difference, after: MessageKey | None) -> Delta | None:
    """The change for results that a step adds first, where their call is not what it follows; None if there are none.

    Args:
        step: The step.
        difference: What it changed; the first message that it adds is new.
        after: The key of the message that the step follows.
    """
    shown, names, _, added = difference
    at = len(shown) if names[len(shown) : len(shown) + 1] == added[:1] else names.index(added[0])
    caller = key_of(names[at - 1]) if at else after
    if caller == after or step.has_no_result(at, key_of(added[0])):
        return None  # As most steps, which go on with what they have said or begin a turn.
    kinds = {key: type(message) for key, message in step.new_by_key()}
    results = (*takewhile(lambda name: issubclass(kinds.get(key_of(name), object), ToolMessage), added),)
    return Delta(step.record.run, (), results, caller, known=step.record.seen.last) if results else None
