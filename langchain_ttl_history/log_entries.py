"""The entries of a session's log: what each changes in the conversation, and which of them a run has seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from langchain_ttl_history.encoding.records import decoder, pack, unpack_each, unread_form
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.types import Entry
from langchain_ttl_history.stored.names import NO_KEY, BodyName, MessageKey, key_of

__all__ = ["CARRIED_OVER", "WHERE_IT_IS", "Delta", "Log", "Seen", "deltas_of", "done_with", "entries_of", "unseen"]

_FORMAT = 1

CARRIED_OVER = -1
"""`Delta.known` of a change that carries messages over from a session that ended while its turn ran."""

WHERE_IT_IS = NO_KEY
"""As `Delta.after`: the change only edits messages that are there, and adds none. No message has this key."""


class Seen(NamedTuple):
    """What a run has seen: every change up to a position, and beyond it those of some runs, and some edits."""

    position: int = 0
    runs: tuple[tuple[str, int | None], ...] = ()
    """(run, position): that run's changes are seen up to the position; all of them where it is None, as for its own."""
    edits: tuple[tuple[int, MessageKey], ...] = ()
    """(position, key): of the change at the position, what it made of this message is seen."""

    def ran(self, delta: Delta) -> bool:
        """Whether one of the runs made this change."""
        return any(run == delta.run and (end is None or delta.position <= end) for run, end in self.runs)

    @property
    def began_beside_another(self) -> bool:
        """Whether it is of a run that began beside another one, inside a tool call of that: see `until`."""
        return any(end is not None for _, end in self.runs)

    def until(self, position: int) -> Seen:
        """What a reader has seen who is given this state at a position: changes that the runs made later are unseen."""
        ends = [(run, position if end is None else end) for run, end in self.runs]
        return self._replace(runs=tuple((run, end) for run, end in ends if end > self.position))

    @property
    def last(self) -> int:
        """The newest position that it may have seen."""
        return max(self.position, *(end or 0 for _, end in self.runs), 0)

    def packed(self) -> list[str | list[str | int]]:
        """The runs and edits as they are stored."""
        stored: list[str | list[str | int]] = [run if end is None else [run, end] for run, end in self.runs]
        stored += [[position, key] for position, key in self.edits]
        return stored

    @classmethod
    def unpacked(cls, position: int, stored: Sequence[Any]) -> Seen:
        """What `packed` stored."""
        runs = [each for each in stored if type(each) is str or type(each[0]) is str]
        edits = [each for each in stored if type(each) is not str and type(each[0]) is int]
        return cls(
            position,
            tuple((run, None) if type(run) is str else (run[0], run[1]) for run in runs),
            tuple((position, key) for position, key in edits),
        )


class Delta(NamedTuple):
    """One entry of the log: what one step of a run changed."""

    run: str
    removed: tuple[MessageKey, ...] = ()
    """Keys of the messages that are removed, before others are added."""
    added: tuple[BodyName, ...] = ()
    """Names of the messages that are added or updated, in this order."""
    after: MessageKey | None = None
    """The key of the message that the added ones follow; None means the end, `WHERE_IT_IS` that they only edit."""
    position: int = 0
    known: int | None = None
    """The position up to which its run knew the log, where it removes or follows something; None: all before it. Or
    `CARRIED_OVER`."""
    keeps: tuple[MessageKey, ...] | None = None
    """For a change that replaces the whole conversation, the keys of the messages that stay: it also removes what was
    not shown because a window had cut it, which others may still have. None for one that removes only `removed`."""

    @property
    def added_keys(self) -> tuple[MessageKey, ...]:
        """The keys of the messages that it adds or updates, as in `added`."""
        return tuple(map(key_of, self.added))

    @property
    def touched(self) -> tuple[MessageKey, ...]:
        """The keys of the messages that it removes, adds or updates."""
        return (*self.removed, *self.added_keys)

    @property
    def moved(self) -> set[MessageKey]:
        """The keys of the messages that it removes and adds again, which gives them another place."""
        return {*self.removed}.intersection(self.added_keys) if self.removed else set()

    @property
    def only_removed(self) -> tuple[MessageKey, ...]:
        """The keys of the messages that are gone after it: of `removed`, without those that are only moved."""
        moved = self.moved
        return tuple(key for key in self.removed if key not in moved) if moved else self.removed

    @property
    def began(self) -> int:
        """The position at which its turn began, as far as this entry tells."""
        return self.position if self.after is None or self.known is None else self.known

    @property
    def is_of_graph(self) -> bool:
        """Whether a graph's run made it, whose id is a checkpoint's: ids of chains' turns are random, of version 4."""
        return self.run[14:15] != "4"

    @property
    def is_carried_over(self) -> bool:
        """Whether it carries over messages of a session that ended; they are no news."""
        return self.known == CARRIED_OVER

    def ignores(self, other: Delta) -> bool:
        """Whether its run did not know of this change."""
        return self.run != other.run and other.position > (self.position if self.known is None else self.known)

    def payload(self) -> bytes:
        """The entry's payload; `added` are its references."""
        record = [_FORMAT, self.run, list(self.removed), self.after]
        if self.keeps is not None:
            record += (self.known, list(self.keeps))
        elif self.known is not None:
            record.append(self.known)
        return pack(record)


@dataclass(frozen=True)
class Log:
    """A session's log, and the head whose conversation it changes."""

    entries: Sequence[Entry]
    deltas: Sequence[Delta]
    """What the entries hold."""
    head: Sequence[BodyName] = ()
    """Names of the head's messages, without those that are hidden."""
    seen: Seen = Seen()
    """What the head's run has seen."""
    hidden: frozenset[MessageKey] = frozenset()
    """The keys of the head's messages that are hidden; see `freeing.gaps`."""

    @cached_property
    def new(self) -> list[Delta]:
        """The changes that the head's run has not seen."""
        return unseen(self.deltas, self.seen)

    @cached_property
    def later(self) -> list[Delta]:
        """The changes after what the head's run had seen when it began: the new ones, and its own."""
        return [delta for delta in self.deltas if delta.position > self.seen.position]


@decoder("a log entry")
def deltas_of(entries: Sequence[Entry]) -> list[Delta]:
    """The changes that entries of the log hold, in their order.

    Raises:
        CorruptRecordError: One is damaged or of a newer format.
    """
    deltas: list[Delta] = []
    for entry, record in zip(entries, unpack_each([entry.payload for entry in entries]), strict=True):
        if record[0] != _FORMAT:
            raise unread_form("a log entry", record[0], _FORMAT)
        _, run, removed, after, *others = record
        known, keeps = (*others, None, None)[:2]
        added: tuple[Any, ...] = entry.refs  # names of bodies
        if not {str}.issuperset(map(type, (run, *removed, *(keeps or ())))):
            raise CorruptRecordError("a log entry is damaged: runs and messages are named by text")
        deltas.append(
            Delta(run, tuple(removed), added, after, entry.position, known, None if keeps is None else tuple(keeps))
        )
    return deltas


def entries_of(deltas: Iterable[Delta], log: Log) -> list[Entry]:
    """The entries of what is left of a log, in order; a change that is as it was keeps its entry."""
    was = {entry.position: (delta, entry) for entry, delta in zip(log.entries, log.deltas, strict=True)}
    left: list[Entry] = []
    for delta in deltas:
        old, entry = was[delta.position]
        left.append(entry if delta == old else Entry(delta.position, delta.payload(), delta.added))
    return left


def unseen(deltas: Iterable[Delta], seen: Seen) -> list[Delta]:
    """The changes that are not among those seen."""
    new = [delta for delta in deltas if delta.position > seen.position]
    if seen.runs:
        new = [delta for delta in new if not seen.ran(delta)]
    if not seen.edits:
        return new
    known = {*seen.edits}
    left = [tuple(name for name in delta.added if (delta.position, key_of(name)) not in known) for delta in new]
    return [
        delta._replace(added=added)
        for delta, added in zip(new, left, strict=True)
        if added or delta.removed or not delta.added
    ]


def done_with(keys: frozenset[MessageKey], deltas: Iterable[Delta], seen: Seen) -> Seen:
    """What a run has seen, and also every unseen edit of these messages, which its window left out.

    Such an edit would otherwise add its message again, at the end.
    """
    edits: list[tuple[int, MessageKey]] = []
    anew: set[MessageKey] = set()
    for delta in unseen(deltas, seen):
        # A message that is added after it was removed counts as another one.
        anew.update(delta.removed)
        edits += [(delta.position, key) for key in delta.added_keys if key in keys and key not in anew]
    return seen._replace(edits=(*seen.edits, *edits))
