"""What is left of single changes of the log when it is freed: pure.

A change that goes leaves what it did to the head, which has its messages for as long as it is the head. A change that
stays for runs under way is kept without what no longer counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langchain_ttl_history.log_entries import WHERE_IT_IS, Delta, Seen
from langchain_ttl_history.stored.names import BodyName, MessageKey, key_of

__all__ = ["LastWords", "Spared", "left_for_head", "only_editing", "thinned"]


class Spared(NamedTuple):
    """What is kept of changes that are freed, whether or not the head's run has seen them."""

    removing: AbstractSet[int]
    """Positions of changes whose removals are kept, whatever they remove."""
    again: Mapping[int, AbstractSet[MessageKey]]
    """By position the keys of messages of which a change is kept although the head has them."""
    hidden: AbstractSet[MessageKey]
    """Keys of the head's messages that are hidden, of which removals stay: somebody may still have them."""


class LastWords(NamedTuple):
    """Which changes say last what a message is and where it stands; positions by key."""

    own: Mapping[MessageKey, int]
    """The last of the head's own run, which wins over those before it."""
    newest: Mapping[MessageKey, int]
    moved: Mapping[MessageKey, int]

    @classmethod
    def of(cls, matter: Sequence[Delta], later: Sequence[Delta], seen: Seen) -> LastWords:
        """Those of a log.

        Args:
            matter: The changes that matter as far as they concern what the head has.
            later: The changes that the head's run had not seen when it began.
            seen: What the head's run has seen.
        """
        by_head = [delta for delta in later if seen.ran(delta) and not delta.is_carried_over]
        return cls(
            {key: delta.position for delta in by_head for key in delta.touched},
            {key: delta.position for delta in matter for key in delta.added_keys},
            {key: delta.position for delta in matter for key in delta.moved},
        )


def left_for_head(
    deltas: Iterable[Delta],
    matter: Sequence[Delta],
    last: LastWords,
    head: Iterable[BodyName],
    seen: Seen,
    spared: Spared,
) -> list[Delta]:
    """What is left of the changes if only removals, the last places and the last edits of the head's messages are kept.

    The head has its messages for as long as it is the head, and without these they would be shown as they were and
    where they were, once what was said after them is removed.

    Args:
        deltas: Those that are freed.
        matter: Changes that matter as far as they concern what the head has.
        last: The last ones about each message.
        head: Names of the head's messages.
        seen: What the head's run has seen.
        spared: What is kept besides.
    """
    there = set(map(key_of, head))
    concerned = {delta.position for delta in matter}
    left: list[Delta] = []
    for delta in deltas:
        kept = _kept_removals(delta, seen, spared)
        found: Delta | None = None
        if delta.position in concerned:
            if kept or there:
                found = _left_of_unseen(delta, there, last, kept)
        elif kept or delta.position in spared.again:
            found = _left_of_seen(delta, spared.again.get(delta.position, ()), kept)
        # Of most, which only added what is shown no more, nothing is left.
        if found is not None:
            left.append(found)
    return left


def _kept_removals(delta: Delta, seen: Seen, spared: Spared) -> list[MessageKey]:
    """Keys of the messages that a change only removes, and whose removal is kept."""
    if delta.position in spared.removing:
        return [*delta.only_removed]
    if delta.position > seen.position and spared.hidden:
        return [key for key in delta.only_removed if key in spared.hidden]
    return []


def _left_of_seen(delta: Delta, stays: Collection[MessageKey], kept: Iterable[MessageKey]) -> Delta | None:
    """What is left of a change that the head has; None if nothing is.

    Args:
        delta: The change.
        stays: Keys of the messages of which it is kept nevertheless.
        kept: Keys of the messages that it only removes, and whose removal is kept.
    """
    removed = (*(key for key in delta.removed if key in stays), *kept)
    added = tuple(name for name in delta.added if key_of(name) in stays)
    return delta._replace(removed=removed, added=added) if removed or added else None


def _left_of_unseen(
    delta: Delta, there: set[MessageKey], last: LastWords, kept: Collection[MessageKey]
) -> Delta | None:
    """What is left of a change that the head has not, as far as it concerns the head's messages; None if nothing is.

    Args:
        delta: The change.
        there: Keys of the head's messages that no earlier change removes; those that this one removes are taken out.
        last: The last changes about each message: only its last place and its last edit are kept.
        kept: Keys of the messages that it only removes, and whose removal is kept.
    """
    at = delta.position
    counting = {key for key in delta.touched if key in there and last.own.get(key, 0) < at}
    removed = tuple(key for key in delta.only_removed if key in counting or key in kept)
    there.difference_update(removed)
    stays = counting.difference(removed)
    added = tuple(
        name
        for name, key in zip(delta.added, delta.added_keys, strict=True)
        if key in stays and at in (last.newest[key], last.moved.get(key))
    )
    removed += tuple(key for key in delta.removed if key in stays and last.moved.get(key) == at)
    return delta._replace(removed=removed, added=added) if removed or added else None


def thinned(
    deltas: Sequence[Delta], count: int, head: Iterable[BodyName], shown: Collection[MessageKey], spared: Spared
) -> list[Delta]:
    """The changes, less what no longer counts of the first ones.

    Args:
        deltas: Those that are kept.
        count: How many of the first may be thinned.
        head: Names of the head's messages.
        shown: Keys of the conversation's messages.
        spared: What is kept of them besides.
    """
    if not count:
        return [*deltas]
    followed = {delta.after for delta in deltas}
    newest = {key: delta.position for delta in deltas for key in delta.added_keys}
    there = set(map(key_of, head))
    left: list[Delta] = []
    for delta in deltas[:count]:
        stays = spared.again.get(delta.position, ())
        whole = delta.position in spared.removing
        removed = tuple(key for key in delta.removed if whole or key in there or key in spared.hidden or key in stays)
        there.difference_update(delta.removed)
        added = tuple(
            name
            for name, key in zip(delta.added, delta.added_keys, strict=True)
            if key in stays
            or ((key in shown or key in followed) and not (key in there and newest[key] > delta.position))
        )
        there.update(map(key_of, added))
        if removed or added:
            left.append(delta._replace(removed=removed, added=added))
    return [*left, *deltas[count:]]


def only_editing(deltas: Iterable[Delta], new: AbstractSet[int], there: AbstractSet[MessageKey]) -> list[Delta]:
    """The changes; unseen ones that only edit messages of the head become `WHERE_IT_IS`.

    What put such a message where it stands is freed, so a run under way that has not seen it would show it at the end.

    Args:
        deltas: Those that are kept.
        new: The positions of those that the head has not seen.
        there: The keys of the head's messages.
    """
    if not new or not there:
        return [*deltas]
    edited: list[Delta] = []
    placed: set[MessageKey] = set()
    for delta in deltas:
        keys = {*delta.added_keys}
        is_new = delta.position in new and not delta.is_carried_over
        only_edits = is_new and keys and keys <= there - placed - {*delta.removed}
        edited.append(delta._replace(after=WHERE_IT_IS) if only_edits else delta)
        placed |= keys
    return edited
