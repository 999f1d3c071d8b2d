"""Which changes stay in the log when a session is freed: pure, over an outline. `remnants` says what is left of them.

The log is divided at two places, the oldest change first:

```text
 freed                         | thinned                              | recent
 leaves what it did to the head | stays without what no longer counts  | stays as it is, for runs under way
                               '- start: the oldest change that is    '- the newest changes, which together add
                                  needed for what is shown               as many messages as are spared
```

An example: the head has `q1 a1`, chains said the rest, the window has room for four messages, and two are spared.

```text
 1  adds q2 a2     freed: nothing is left of it, and a1, which stood before it, is hidden from now on (see `gaps`)
 2  removes q1     freed, but all of it is left: the head would show q1 again
 3  adds q3 a3     thinned, and as it was: the window begins at q3
 4  edits a3       thinned: nothing is left of it, since it counts no longer
 5  edits a3       thinned, and as it was
 6  adds q4 a4     recent
```

Without the thinning an edit that a later one replaced, or a message that was removed again, would stay for as long as
anything said before it is shown.

The checkpoint of a run under way may become the head, though it began before what is freed now. For its sake stay also
the newest removals, or it would bring back what was removed; and what puts a message that is shown where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

from langchain_ttl_history.amendments import with_removals_named
from langchain_ttl_history.freeing.gaps import older_than_freed, without_hidden
from langchain_ttl_history.freeing.inputs import Conversation
from langchain_ttl_history.freeing.remnants import (
    Spared,
    concerning_head,
    left_for_head,
    only_editing,
    thinned,
    without_orphaned_edits,
)
from langchain_ttl_history.log_entries import Delta, Log
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


def trimmed(conversation: Conversation, shown: AbstractSet[BodyName], spare: int | None, room: float) -> Trimmed:
    """What stays of a conversation's log.

    Args:
        conversation: The session's, with the whole log.
        shown: Names of the messages that the history or a graph shows.
        spare: At least how many messages' changes are kept for runs under way; None keeps all changes.
        room: How many bytes the removals may take that are kept for them besides.
    """
    log = conversation.log
    if spare is None:
        return Trimmed([*log.deltas], frozenset())
    log = replace(log, deltas=with_removals_named(log.deltas, log.head, log.seen))
    recent = _where_recent_begin(log.deltas, spare)
    start = _where_kept_begin(log, shown, recent)
    older, newest = log.deltas[:recent], log.deltas[recent:]
    spared = Spared(_newest_removals(older, room), _placing(log.deltas, recent, {*map(key_of, shown)}))
    left = [
        *left_for_head(older[:start], log, spared),
        *thinned(older[start:], newest, log, {*map(key_of, conversation.names)}, spared),
        *newest,
    ]
    left = only_editing(without_orphaned_edits(left, log), log)
    hidden = older_than_freed(log.head, left, conversation.names, shown | conversation.needed)
    return Trimmed(without_hidden(hidden, left), hidden)


def _where_recent_begin(deltas: Sequence[Delta], spare: int) -> int:
    """The place in the log from which the changes add at least `spare` messages, or its start if it has fewer."""
    place, count = len(deltas), 0
    while place and count < spare:
        place -= 1
        count += len(deltas[place].added)
    return place


def _where_kept_begin(log: Log, shown: AbstractSet[BodyName], recent: int) -> int:
    """The place of the first change that is kept: the oldest that is needed, or that one of these follows.

    The place of the recent ones where nothing older is needed.
    """
    needed = {*_needed(concerning_head(log), log.later, shown, log.head)}
    start = next((at for at, delta in enumerate(log.deltas[:recent]) if delta.position in needed), recent)
    return _with_followed(log.deltas, start, log.new)


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
        return {}  # As mostly: what is shown is recent.
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
    """The positions of changes that are needed in full.

    Args:
        matter: Those that concern the head; see `concerning_head`.
        later: Those after what the head's run had seen when it began, its own included.
        shown: Names of the messages that are shown.
        head: Names of the head's messages.
    """
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


def _with_followed(deltas: Sequence[Delta], start: int, new: Sequence[Delta]) -> int:
    """The place in the log from which it is kept, if those from `start` on are, and the unseen ones that these follow.

    What follows a message that is gone is shown at the end, perhaps behind what was said later.
    """
    if all(delta.after is None for delta in new):
        return start  # As in most logs.
    places = {delta.position: at for at, delta in enumerate(deltas)}
    added_at = {key: places[delta.position] for delta in reversed(new) for key in delta.added_keys}
    for delta in reversed(new):
        if places[delta.position] < start:
            break
        start = min(start, added_at.get(delta.after or NO_KEY, start))
    return start
