"""Which changes stay in the log when a session is freed: pure, over an outline. `remnants` says what is left of them.

A change stays if it affects what is shown, and so do the newest ones, for runs under way. Between the oldest change
that stays and the newest ones only what still counts is kept: an edit that a later one replaced, or a message that was
removed again, would otherwise stay for as long as anything said before it is shown. What came before all of these
leaves what it did to the head, and what puts a message that is shown where it stands, for runs under way that have not
seen it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langchain_ttl_history.amendments import with_removals_named, without_orphaned_edits
from langchain_ttl_history.freeing.gaps import older_than_freed, without_hidden
from langchain_ttl_history.freeing.remnants import LastWords, Spared, left_for_head, only_editing, thinned
from langchain_ttl_history.log_entries import Delta, Log, unseen
from langchain_ttl_history.stored.names import NO_KEY, BodyName, MessageKey, key_of

__all__ = ["Trimmed", "trimmed"]

# How many removals are kept for runs under way. No more than `compaction.soft_limits` leaves room for.
_REMOVALS = 16


class Trimmed(NamedTuple):
    """What is left of a log."""

    changes: list[Delta]
    """Those that stay, in order."""
    hidden: frozenset[MessageKey]
    """The keys of the head's messages that stood before what is freed."""


def trimmed(
    log: Log,
    shown: AbstractSet[BodyName],
    needed: AbstractSet[BodyName],
    names: Sequence[BodyName],
    spare: int | None,
    room: float,
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
    deltas = with_removals_named(deltas, head, seen)
    later = [delta for delta in deltas if delta.position > seen.position]
    new = unseen(later, seen)
    # A run that the head's one began beside has seen nothing of this yet, and perhaps goes on with what was removed
    # meanwhile.
    matter = later if seen.began_beside_another else new
    first = min(_needed(matter, later, shown, head), default=math.inf)
    recent, held = len(deltas), 0
    while recent and held < spare:
        recent -= 1
        held += len(deltas[recent].added)
    start = next((at for at, each in enumerate(deltas) if each.position >= first), len(deltas))
    start = _with_followed(deltas, min(start, recent), new)
    again = _placing(deltas, recent, {*map(key_of, shown)})
    spared = Spared(_newest_removals(deltas[:recent], room), again, hidden)
    kept = [
        *left_for_head(deltas[:start], matter, LastWords.of(matter if head else (), later, seen), head, seen, spared),
        *thinned(deltas[start:], max(0, recent - start), head, {*map(key_of, names)}, spared),
    ]
    kept = without_orphaned_edits(kept, new, head)
    left = only_editing(kept, {delta.position for delta in new}, {*map(key_of, head)})
    older = older_than_freed(head, left, names, shown | needed)
    return Trimmed(without_hidden(older, left) if older else left, older)


def _placing(deltas: Sequence[Delta], count: int, shown: AbstractSet[MessageKey]) -> dict[int, set[MessageKey]]:
    """By position which changes put messages that are shown where they stand, or say last what they are.

    The head's run may have seen them, and a run under way not, which shows them anew once it is the head.

    Args:
        deltas: The log.
        count: Messages that none of its first so many changes add are left out.
        shown: The keys of the messages that are shown.
    """
    keys = shown & {key for delta in deltas[:count] for key in delta.added_keys}
    if not keys:
        return {}
    placing: dict[MessageKey, int] = {}
    newest: dict[MessageKey, int] = {}
    for delta in deltas:
        for key in delta.removed:
            placing.pop(key, None)
        for key in delta.added_keys:
            if key in keys:
                placing.setdefault(key, delta.position)
                newest[key] = delta.position
    found: dict[int, set[MessageKey]] = {}
    for key, position in (*placing.items(), *newest.items()):
        found.setdefault(position, set()).add(key)
    return found


def _newest_removals(deltas: Sequence[Delta], room: float) -> frozenset[int]:
    """The positions of the newest removals, whoever has seen them, in at most `room` bytes.

    A run under way may go on with what was removed or cut meanwhile, and would bring it back. Of a message that was
    removed again and again the last removal is enough.
    """
    found: set[int] = set()
    gone: set[MessageKey] = set()
    for delta in reversed([delta for delta in deltas if delta.removed]):
        removed = delta.only_removed
        if delta.keeps is not None or not gone.issuperset(removed):
            gone.update(removed)
            room -= len(delta._replace(removed=removed, added=()).payload())
            if room < 0 or len(found) == _REMOVALS:
                break
            found.add(delta.position)
    return frozenset(found)


def _needed(
    matter: Sequence[Delta], later: Sequence[Delta], shown: AbstractSet[BodyName], head: Sequence[BodyName]
) -> list[int]:
    """The positions of changes that are needed in full."""
    keys = set(map(key_of, shown))
    needed = [delta.position for delta in matter if not keys.isdisjoint(delta.added_keys)]
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
                behind.update(delta.added_keys)
                needed.append(delta.position)
    return needed


def _with_followed(deltas: Iterable[Delta], start: int, new: Sequence[Delta]) -> int:
    """The place in the log from which it is kept, if those from `start` on are, and the unseen ones that these follow.

    What follows a message that is gone is shown at the end, perhaps behind what was said later.
    """
    if all(delta.after is None for delta in new):
        return start
    places = {delta.position: at for at, delta in enumerate(deltas)}
    added = {key: places[delta.position] for delta in reversed(new) for key in delta.added_keys}
    for delta in reversed(new):
        if places[delta.position] < start:
            break
        start = min(start, added.get(delta.after or NO_KEY, start))
    return start
