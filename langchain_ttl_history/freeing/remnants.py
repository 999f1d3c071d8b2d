"""What is left of single changes of the log when it is freed: pure.

A change that is freed leaves what it did to the head's messages (`left_for_head`), for the head has these for as long
as it is the head. One that is kept, but is not among the newest, stays without what no longer counts (`thinned`).
Whatever is left must not show anything it did not show before: `without_orphaned_edits` and `only_editing` see to that.

`log_trimming` says which changes are which.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langchain_ttl_history.log_entries import WHERE_IT_IS, Delta, Log
from langchain_ttl_history.stored.names import BodyName, MessageKey, key_of

__all__ = ["Spared", "concerning_head", "left_for_head", "only_editing", "thinned", "without_orphaned_edits"]


class Spared(NamedTuple):
    """What is kept, for runs under way, of changes that are freed or thinned, seen by the head's run or not."""

    removing: AbstractSet[int]
    """Positions of changes whose removals are kept, whatever they remove."""
    placing: Mapping[int, AbstractSet[MessageKey]]
    """By position the keys of messages of which a change is kept although the head has them."""


def concerning_head(log: Log) -> Sequence[Delta]:
    """The changes that count for what the head's messages are, and where they stand: those its run has not seen.

    If that began beside another run, also its own ones: the other has seen nothing of them yet, and perhaps goes on
    with what was removed meanwhile.
    """
    return log.later if log.seen.began_beside_another else log.new


class _LastWords(NamedTuple):
    """Which changes say last what a message is and where it stands: by its key their positions."""

    own: Mapping[MessageKey, int]
    """The last of the head's own run, which wins over those before it."""
    newest: Mapping[MessageKey, int]
    """The last that adds or edits it, among those that concern the head."""
    moved: Mapping[MessageKey, int]
    """The last that moves it, among these."""

    @classmethod
    def of(cls, log: Log) -> _LastWords:
        """Those of a log."""
        if not log.head:
            return cls({}, {}, {})  # They would be asked about nothing.
        own = [delta for delta in log.later if log.seen.ran(delta) and not delta.is_carried_over]
        matter = concerning_head(log)
        return cls(
            {key: delta.position for delta in own for key in delta.touched},
            {key: delta.position for delta in matter for key in delta.added_keys},
            {key: delta.position for delta in matter for key in delta.moved},
        )


def left_for_head(freed: Iterable[Delta], log: Log, spared: Spared) -> list[Delta]:
    """What is left of changes that are freed: removals, last places and last edits of the head's messages.

    The head has its messages for as long as it is the head, and without these they would be shown as they were and
    where they were, once what was said after them is removed.

    Args:
        freed: The oldest changes of the log.
        log: The whole log.
        spared: What is kept besides.
    """
    last = _LastWords.of(log)
    concerning = {delta.position for delta in concerning_head(log)}
    there = {*map(key_of, log.head)}
    left: list[Delta] = []
    for delta in freed:
        kept = _kept_removals(delta, log, spared)
        if delta.position in concerning:
            remnant = _about(delta, there, last, kept) if there or kept else None
            if remnant is not None:
                there.difference_update(remnant.only_removed)
        else:
            stays = spared.placing.get(delta.position, ())
            remnant = _only(delta, [*(key for key in delta.removed if key in stays), *kept], stays)
        if remnant is not None:
            left.append(remnant)
    return left


def _kept_removals(delta: Delta, log: Log, spared: Spared) -> Sequence[MessageKey]:
    """Keys of the messages that a change only removes, and whose removal is kept: somebody may still have them."""
    if delta.position in spared.removing:
        return delta.only_removed
    if delta.position > log.seen.position:
        return [key for key in delta.only_removed if key in log.hidden]
    return ()


def _about(
    delta: Delta, there: AbstractSet[MessageKey], last: _LastWords, kept: Collection[MessageKey]
) -> Delta | None:
    """What a change says of the head's messages that still counts; None if nothing does.

    Args:
        delta: The change; the head's run has not seen it.
        there: Keys of the head's messages that no earlier change removes.
        last: Only the last place and the last edit of a message count.
        kept: Keys of the messages that it only removes, and whose removal is kept whatever they are.
    """
    at = delta.position
    counting = {key for key in delta.touched if key in there and last.own.get(key, 0) < at}
    gone = [key for key in delta.only_removed if key in counting or key in kept]
    stays = counting.difference(gone)
    moved = [key for key in delta.removed if key in stays and last.moved.get(key) == at]
    return _only(delta, [*gone, *moved], {key for key in stays if at in (last.newest.get(key), last.moved.get(key))})


def _only(delta: Delta, removed: Sequence[MessageKey], added: Collection[MessageKey]) -> Delta | None:
    """A change that removes these messages, and of what it adds only those of these keys; None if that is nothing.

    Of most, which only added what is shown no more, nothing is left.
    """
    names = tuple(name for name in delta.added if key_of(name) in added) if added else ()
    return delta._replace(removed=tuple(removed), added=names) if removed or names else None


def thinned(
    older: Sequence[Delta],
    recent: Sequence[Delta],
    log: Log,
    said: AbstractSet[MessageKey],
    spared: Spared,
) -> list[Delta]:
    """The older of the changes that are kept, less what no longer counts of them.

    Of a message that the conversation has lost again, or of one that a later change edits once more, nothing has to be
    added, unless something follows it. Nor has it to be removed where nobody has it.

    Args:
        older: The changes.
        recent: Those after them, which are kept whole.
        log: The whole log.
        said: Keys of the conversation's messages.
        spared: What is kept of them besides.
    """
    if not older:
        return []
    kept = (*older, *recent)
    followed = {delta.after for delta in kept}
    newest = {key: delta.position for delta in kept for key in delta.added_keys}
    there = {*map(key_of, log.head)}
    left: list[Delta] = []
    for delta in older:
        at = delta.position
        stays = spared.placing.get(at, frozenset())
        is_spared = at in spared.removing
        removed = [key for key in delta.removed if is_spared or key in there or key in log.hidden or key in stays]
        there.difference_update(delta.removed)
        outdated = {key for key in delta.added_keys if key in there and newest[key] > at}
        counting = {key for key in delta.added_keys if (key in said or key in followed) and key not in outdated}
        remnant = _only(delta, removed, counting | stays)
        if remnant is not None:
            there.update(remnant.added_keys)
            left.append(remnant)
    return left


def without_orphaned_edits(kept: Iterable[Delta], log: Log) -> list[Delta]:
    """The kept changes, without edits of messages that are freed: alone, an edit would add its message where it stands.

    Args:
        kept: The changes that are kept, in their order.
        log: The whole log.
    """
    left = {delta.position: delta for delta in kept}
    removing = {delta.position: delta.removed for delta in left.values()}
    there = {*map(key_of, log.head)}
    orphaned: set[MessageKey] = set()
    for delta in log.new:
        # A message that is added after it was removed counts as another one.
        orphaned.difference_update(delta.removed)
        # A removal that is freed leaves the head its message.
        there.difference_update(removing.get(delta.position, ()))
        stays = left.get(delta.position)
        names: Sequence[BodyName] = () if stays is None else stays.added
        orphaned.update(key_of(name) for name in delta.added if key_of(name) not in there and name not in names)
        if stays is None:
            continue
        added = tuple(name for name in stays.added if key_of(name) not in orphaned)
        there.update(map(key_of, added))
        if added == stays.added:
            continue
        if added or delta.removed:
            left[delta.position] = stays._replace(added=added)
        else:
            del left[delta.position]
    return [*left.values()]


def only_editing(kept: Iterable[Delta], log: Log) -> list[Delta]:
    """The kept changes; unseen ones that only edit messages of the head become `WHERE_IT_IS`.

    What put such a message where it stands is freed, so a run under way that has not seen it would show it at the end.

    Args:
        kept: The changes that are kept, in their order.
        log: The whole log.
    """
    new = {delta.position for delta in log.new}
    there = {*map(key_of, log.head)}
    if not new or not there:
        return [*kept]
    edited: list[Delta] = []
    placed: set[MessageKey] = set()
    for delta in kept:
        keys = {*delta.added_keys}
        is_new = delta.position in new and not delta.is_carried_over
        only_edits = is_new and keys and keys <= there - placed - {*delta.removed}
        edited.append(delta._replace(after=WHERE_IT_IS) if only_edits else delta)
        placed |= keys
    return edited
