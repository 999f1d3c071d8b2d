"""Which changes stay in the log when a session is freed, and what is left of them: pure, over an outline.

A change stays if it affects what is shown. Of those between the oldest such change and the newest ones, which stay for
runs under way, only what still counts is kept: an edit that a later one replaced, or a message that was removed again,
would otherwise stay for as long as anything said before it is shown. Of those before, it is what they did to the head,
and what puts a message that is shown where it stands, for runs under way that have not seen it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langchain_ttl_history.amendments import spelled_out, without_edits
from langchain_ttl_history.freeing.gaps import older_than_freed, without_edits_of
from langchain_ttl_history.log_entries import WHERE_IT_IS, Delta, Log, Seen, unseen
from langchain_ttl_history.stored.names import key_of

__all__ = ["Trimmed", "trimmed"]

# How many removals are kept for runs under way. No more than `compaction.limits` leaves room for.
_REMOVALS = 16


class _Spared(NamedTuple):
    """What is kept of changes that are freed, whether or not the head's run has seen them."""

    removing: AbstractSet[int]
    """Positions of changes whose removals are kept, whatever they remove."""
    again: Mapping[int, AbstractSet[str]]
    """By position the keys of messages of which a change is kept although the head has them."""
    hidden: AbstractSet[str]
    """Keys of the head's messages that are hidden, of which removals stay: somebody may still have them."""


class Trimmed(NamedTuple):
    """What is left of a log."""

    changes: list[Delta]
    """Those that stay, in order."""
    hidden: frozenset[str]
    """The keys of the head's messages that stood before what is freed."""


def trimmed(
    log: Log, shown: AbstractSet[str], needed: AbstractSet[str], names: Sequence[str], spare: int | None, room: float
) -> Trimmed:
    """What stays of a log: the changes that affect what is shown, and the newest, for runs under way.

    Args:
        log: The whole log.
        shown: Names of the messages that the history or a graph shows.
        needed: Names of messages that a pending interrupt needs.
        names: Names of the conversation.
        spare: At least how many messages' changes are kept for runs under way; None keeps all changes.
        room: How many bytes the removals may take that are kept for them besides.
    """
    _, deltas, head, seen, hidden = log
    if spare is None:
        return Trimmed([*deltas], frozenset())
    deltas = spelled_out(deltas, head, seen)
    later = [delta for delta in deltas if delta.position > seen.position]
    new = unseen(later, seen)
    # The head's run began inside a tool call of another one, which has seen nothing of this yet, and perhaps goes on
    # with what was removed meanwhile.
    nested = any(end is not None for _, end in seen.runs)
    matter = later if nested else new
    first = min(_needed(later, matter, shown, head), default=math.inf)
    recent, held = len(deltas), 0
    while recent and held < spare:
        recent -= 1
        held += len(deltas[recent].added)
    start = next((at for at, each in enumerate(deltas) if each.position >= first), len(deltas))
    start = _with_followed(deltas, min(start, recent), new)
    again = _placing(deltas, recent, {*map(key_of, shown)})
    spared = _Spared(_newest_removals(deltas[:recent], room), again, hidden)
    kept = [
        *_of_the_head(deltas[:start], matter, _LastWords.of(matter if head else (), later, seen), head, seen, spared),
        *_thinned(deltas[start:], max(0, recent - start), head, {*map(key_of, names)}, spared),
    ]
    left = _only_editing(without_edits(kept, new, head), {delta.position for delta in new}, {*map(key_of, head)})
    older = older_than_freed(head, left, names, shown | needed)
    return Trimmed(without_edits_of(older, left) if older else left, older)


def _only_editing(deltas: Iterable[Delta], new: AbstractSet[int], there: AbstractSet[str]) -> list[Delta]:
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
    placed: set[str] = set()
    for delta in deltas:
        keys = {*map(key_of, delta.added)}
        if keys and delta.position in new and not delta.is_carried_over:
            known = there - placed - {*delta.removed}
            edited.append(delta._replace(after=WHERE_IT_IS) if keys <= known else delta)
        else:
            edited.append(delta)
        placed |= keys
    return edited


def _placing(deltas: Sequence[Delta], count: int, shown: AbstractSet[str]) -> dict[int, set[str]]:
    """By position which changes put messages that are shown where they stand, or say last what they are.

    The head's run may have seen them, and a run under way not, which shows them anew once it is the head.

    Args:
        deltas: The log.
        count: Messages that none of its first so many changes add are left out.
        shown: The keys of the messages that are shown.
    """
    keys = shown & {key_of(name) for delta in deltas[:count] for name in delta.added}
    if not keys:
        return {}
    placing: dict[str, int] = {}
    newest: dict[str, int] = {}
    for delta in deltas:
        for key in delta.removed:
            placing.pop(key, None)
        for key in map(key_of, delta.added):
            if key in keys:
                placing.setdefault(key, delta.position)
                newest[key] = delta.position
    found: dict[int, set[str]] = {}
    for key, position in (*placing.items(), *newest.items()):
        found.setdefault(position, set()).add(key)
    return found


def _newest_removals(deltas: Sequence[Delta], room: float) -> frozenset[int]:
    """The positions of the newest removals, whoever has seen them, in at most `room` bytes.

    A run under way may go on with what was removed or cut meanwhile, and would bring it back. Of a message that was
    removed again and again the last removal is enough.
    """
    found: set[int] = set()
    gone: set[str] = set()
    for delta in reversed([delta for delta in deltas if delta.removed]):
        removed = _only_removed(delta)
        if delta.keeps is not None or not gone.issuperset(removed):
            gone.update(removed)
            room -= len(delta._replace(removed=removed, added=()).payload())
            if room < 0 or len(found) == _REMOVALS:
                break
            found.add(delta.position)
    return frozenset(found)


def _only_removed(delta: Delta) -> tuple[str, ...]:
    """The keys of the messages that a change removes, without those that it only moves."""
    added = {*map(key_of, delta.added)}
    return tuple(key for key in delta.removed if key not in added)


def _needed(later: Sequence[Delta], matter: Sequence[Delta], shown: AbstractSet[str], head: Sequence[str]) -> list[int]:
    """The positions of changes that are needed in full."""
    keys = set(map(key_of, shown))
    needed = [delta.position for delta in matter if not keys.isdisjoint(map(key_of, delta.added))]
    if not any(delta.removed for delta in later):
        return needed
    # A call that its results bring back is not in the head; perhaps only a change that was seen has it.
    missing = shown - {*head}
    needed += [delta.position for delta in later if not missing.isdisjoint(delta.added)]
    # What its run did not know of when it removed something may be results that keep their call.
    there = set(map(key_of, head))
    for removal in matter:
        if there.isdisjoint(removal.removed):
            continue
        behind = {*removal.removed}
        for delta in later:
            if delta.after in behind and removal.ignores(delta):
                behind.update(map(key_of, delta.added))
                needed.append(delta.position)
    return needed


class _LastWords(NamedTuple):
    """Which changes say last what a message is and where it stands; positions by key."""

    own: Mapping[str, int]
    """The last of the head's own run, which wins over those before it."""
    newest: Mapping[str, int]
    moved: Mapping[str, int]

    @classmethod
    def of(cls, matter: Sequence[Delta], later: Sequence[Delta], seen: Seen) -> _LastWords:
        """Those of a log.

        Args:
            matter: The changes that matter as far as they concern what the head has.
            later: The changes that the head's run had not seen when it began.
            seen: What the head's run has seen.
        """
        by_head = [delta for delta in later if seen.ran(delta) and not delta.is_carried_over]
        return cls(
            {key: delta.position for delta in by_head for key in delta.touched},
            {key_of(name): delta.position for delta in matter for name in delta.added},
            {
                key: delta.position
                for delta in matter
                for key in {*delta.removed}.intersection(map(key_of, delta.added))
            },
        )


def _of_the_head(
    deltas: Iterable[Delta],
    matter: Sequence[Delta],
    last: _LastWords,
    head: Iterable[str],
    seen: Seen,
    spared: _Spared,
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
        at = delta.position
        removing = {*delta.removed} if at in spared.removing else spared.hidden if at > seen.position else ()
        kept = [key for key in _only_removed(delta) if key in removing] if removing else []
        if not kept and not (there if at in concerned else at in spared.again):
            continue  # As most do, which only added what is shown no more.
        found = _about(delta, there, last, kept) if at in concerned else _again(delta, spared.again.get(at, ()), kept)
        if found is not None:
            left.append(found)
    return left


def _again(delta: Delta, stays: Collection[str], kept: Iterable[str]) -> Delta | None:
    """What is left of a change that the head has; None if nothing is.

    Args:
        delta: The change.
        stays: Keys of the messages of which it is kept nevertheless.
        kept: Keys of the messages that it only removes, and whose removal is kept.
    """
    removed = (*(key for key in delta.removed if key in stays), *kept)
    added = tuple(name for name in delta.added if key_of(name) in stays)
    return delta._replace(removed=removed, added=added) if removed or added else None


def _about(delta: Delta, there: set[str], last: _LastWords, kept: Collection[str]) -> Delta | None:
    """What is left of a change that the head has not, as far as it concerns the head's messages; None if nothing is.

    Args:
        delta: The change.
        there: Keys of the head's messages that no change before it removes; less what it removes afterwards.
        last: The last changes about each message: only its last place and its last edit are kept.
        kept: Keys of the messages that it only removes, and whose removal is kept.
    """
    at = delta.position
    counting = {key for key in delta.touched if key in there and last.own.get(key, 0) < at}
    removed = tuple(key for key in _only_removed(delta) if key in counting or key in kept)
    there.difference_update(removed)
    stays = counting.difference(removed)
    added = tuple(
        name
        for name, key in zip(delta.added, map(key_of, delta.added), strict=True)
        if key in stays and at in (last.newest[key], last.moved.get(key))
    )
    removed += tuple(key for key in delta.removed if key in stays and last.moved.get(key) == at)
    return delta._replace(removed=removed, added=added) if removed or added else None


def _thinned(
    deltas: Sequence[Delta], count: int, head: Iterable[str], here: Collection[str], spared: _Spared
) -> list[Delta]:
    """The changes, less what no longer counts of the first ones.

    Args:
        deltas: Those that are kept.
        count: How many of the first may be thinned.
        head: Names of the head's messages.
        here: Keys of the conversation's messages.
        spared: What is kept of them besides.
    """
    if not count:
        return [*deltas]
    followed = {delta.after for delta in deltas}
    newest = {key_of(name): delta.position for delta in deltas for name in delta.added}
    there = set(map(key_of, head))
    thinned: list[Delta] = []
    for delta in deltas[:count]:
        stays = spared.again.get(delta.position, ())
        whole = delta.position in spared.removing
        removed = tuple(key for key in delta.removed if whole or key in there or key in spared.hidden or key in stays)
        there.difference_update(delta.removed)
        added = tuple(
            name
            for name, key in zip(delta.added, map(key_of, delta.added), strict=True)
            if key in stays
            or ((key in here or key in followed) and not (key in there and newest[key] > delta.position))
        )
        there.update(map(key_of, added))
        if removed or added:
            thinned.append(delta._replace(removed=removed, added=added))
    return [*thinned, *deltas[count:]]


def _with_followed(deltas: Iterable[Delta], start: int, new: Sequence[Delta]) -> int:
    """The place in the log from which it is kept, if those from `start` on are, and the unseen ones that these follow.

    What follows a message that is gone is shown at the end, perhaps behind what was said later.
    """
    if all(delta.after is None for delta in new):
        return start
    places = {delta.position: at for at, delta in enumerate(deltas)}
    added = {key_of(name): places[delta.position] for delta in reversed(new) for name in delta.added}
    for delta in reversed(new):
        if places[delta.position] < start:
            break
        start = min(start, added.get(delta.after or "", start))
    return start
