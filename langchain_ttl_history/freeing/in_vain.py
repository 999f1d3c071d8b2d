"""What stays of a session over `max_bytes`, so that writes which change nothing about that do not free it in vain.

The head stays, and so does the question of the newest turn, whatever they weigh. Freeing reads all of the session, and
where these are over `max_bytes` already, nothing comes of it until another head or question takes their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.log_entries import deltas_of
from langchain_ttl_history.pointers import target_of
from langchain_ttl_history.storage.base import Blob, Change, Entry, Snapshot
from langchain_ttl_history.stored.names import CHAIN, HEAD, LOG, VALUE, BodyName, head_name, key_of

__all__ = ["Floor", "floor_of"]

# By how much a session has to grow before it is freed again, where freeing it left it over `max_bytes`.
_GROWTH = 1.1


class Floor(NamedTuple):
    """What stayed of a session that was freed, though it is over `max_bytes`."""

    bytes: int
    """How many there were of it."""
    values: frozenset[str] = frozenset()
    """Names of the values that the head refers to, besides its conversation."""
    by_values: bool = False
    """Whether these alone are over `max_bytes`."""
    by_question: bool = False
    """Whether they are together with the question of the newest turn."""
    chained: bool = False
    """Whether a `DeltaChannel` needs checkpoints over the caps."""

    def stays(self, bytes: int, change: Change, conversation: object) -> bool:
        """Whether freeing a session once more would leave it over `max_bytes` as well; within a tenth, not looked at.

        Args:
            bytes: How many it has now.
            change: What was written to it last.
            conversation: A list that has the messages which that adds; anything else if they are not known.
        """
        if not self.bytes <= bytes <= self.bytes * _GROWTH:
            return False  # If there are fewer now, others have freed it.
        logged = [each for each in change.append if each[0] == LOG]
        if self.chained or not (logged or any(name[0] == HEAD for name in change.blobs)):
            return True  # Writes that are pending only add to it.
        head = change.blobs.get(head_name(""))
        if head is not None and not self.values.issubset(change.blobs[target_of(head)].refs):
            return False
        return self.by_values or (self.by_question and not _asks(logged, conversation))


def _asks(logged: Sequence[tuple[str, bytes, tuple[str, ...]]], conversation: object) -> bool:
    """Whether entries of the log may add or edit a question, or remove one."""
    deltas = deltas_of([Entry(0, payload, refs) for _, payload, refs in logged])
    if any(delta.removed or delta.keeps is not None for delta in deltas):
        return True
    added = {key_of(name) for delta in deltas for name in delta.added}
    if not added or not isinstance(conversation, list):
        return bool(added)
    return any(isinstance(each, HumanMessage) and (not each.id or each.id in added) for each in conversation)


def floor_of(
    snapshot: Snapshot,
    change: Change,
    bytes: int,
    bound: int | None,
    head: Record | None,
    messages: Iterable[tuple[BodyName, BaseMessage]],
) -> Floor | None:
    """What stayed of a session that was freed; None if it is not over `max_bytes`.

    Args:
        snapshot: The outline of the session as it was.
        change: What freed it.
        bytes: How many are left.
        bound: The session's `max_bytes`.
        head: Its head.
        messages: Those of its conversation, by name and in order.
    """
    if bound is None or bytes <= bound:
        return None
    refs = () if head is None else head.refs
    values = frozenset([name for name in refs if name[0] == VALUE])
    gone = {*change.drop}
    questions = [name for name, message in messages if isinstance(message, HumanMessage) and name not in gone]
    weight = _weight(values, snapshot.blobs)
    return Floor(
        bytes,
        values,
        weight > bound,
        weight + _weight(questions[-1:], snapshot.blobs) > bound,
        CHAIN in snapshot.lists,
    )


def _weight(names: Iterable[str], blobs: Mapping[str, Blob]) -> int:
    """The payload bytes of these blobs; of a body that shares its content, those of that."""
    contents = {(blobs[name].refs or (name,))[0] for name in names}
    return sum(len(blobs[name].payload) for name in contents)
