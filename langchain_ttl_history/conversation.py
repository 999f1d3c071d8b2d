"""Log, head and fold: what the conversation of a session is.

A message is stored once, as a **body** named after its content and its id, and everything else
refers to that name. The **log** holds changes in the order they were stored, each made by one
**run** (a chain's turn, or a graph's run). The **head** is the list of names the latest root
checkpoint shows, with what its run had seen of the log. The conversation is the head with every
unseen change folded in:

* what the head's run had seen is never applied again;
* a change that the head's own run made later to the same message wins;
* an addition goes after the message it says it follows; where that is gone, behind what is left of its turn, or before
  what others began since; otherwise to the end, or before a turn that the head's run opened later while another waited;
* what a turn carries over from a session that ended under it follows what it followed there, and brings back nothing
  that was removed or edited since;
* a message that is moved takes along the messages right after it that its mover did not know of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from langchain_ttl_history.log_entries import WHERE_IT_IS, Delta, Seen, unseen
from langchain_ttl_history.stored.names import NO_KEY, BodyName, MessageKey, key_of

__all__ = ["diff", "fold", "keyed"]


def fold(names: Sequence[BodyName], deltas: Sequence[Delta], seen: Seen) -> Sequence[BodyName]:
    """The names of the conversation: the head's, with the unseen changes applied."""
    new = unseen(deltas, seen)
    if not new:
        return names
    folding = _Folding(names, deltas, new, seen)
    for delta in new:
        folding.apply(delta)
    return folding.names


class _Folding:
    """A conversation in the making.

    Args:
        names: The head's.
        deltas: The log.
        new: Those of its changes that the head's run has not seen.
        seen: What the head's run has seen.
    """

    def __init__(self, names: Sequence[BodyName], deltas: Sequence[Delta], new: Sequence[Delta], seen: Seen) -> None:
        self._deltas = deltas
        self._new = new
        # For each key the position of the last change by the head's own run: it wins over unseen changes before it.
        self._own = {
            key: delta.position
            for delta in (deltas if seen.runs else ())
            if seen.ran(delta) and not delta.is_carried_over
            for key in delta.touched
        }
        self._order = keyed(names)
        # The name for each key.
        self._shown = dict(zip(self._order, names, strict=True))
        self._begun = _own_turns(deltas, seen, self._order)
        # For each key that was added at the end: the change that opened the turn it belongs to.
        self._opened: dict[MessageKey, Delta] = {}
        # For each key the run that added it.
        self._runs: dict[MessageKey, str] = {}

    @property
    def names(self) -> Sequence[BodyName]:
        """The names, as far as the changes were applied."""
        return [self._shown[key] for key in self._order]

    def apply(self, delta: Delta) -> None:
        """Apply a change; they are applied in the log's order."""
        if delta.is_carried_over:
            self._carry_over(delta)
            return
        behind = _behind_moved(self._order, delta) if delta.removed else {}
        self._remove(delta, behind)
        self._add(delta, behind)

    def _remove(self, delta: Delta, behind: Mapping[MessageKey, Sequence[MessageKey]]) -> None:
        for key in delta.removed:
            if key in self._shown and self._own.get(key, 0) < delta.position:
                del self._shown[key]
                self._order.remove(key)
                for follower in behind.get(key, ()):
                    self._order.remove(follower)

    def _add(self, delta: Delta, behind: Mapping[MessageKey, Sequence[MessageKey]]) -> None:
        # Most follow nothing, for which the whole order would be searched.
        follows = delta.after in self._shown and delta.after in self._order
        at = self._order.index(delta.after or NO_KEY) + 1 if follows else self._end_for(delta)
        placed: list[MessageKey] = []
        for name in delta.added:
            key = key_of(name)
            is_there = key in self._shown
            if self._own.get(key, 0) > delta.position or (delta.after == WHERE_IT_IS and not is_there):
                continue
            if not is_there:
                placed += [key, *behind.get(key, ())]
            self._shown[key] = name
        self._order[at:at] = placed
        opening = self._opened.get(delta.after or NO_KEY) if follows else delta
        if opening is not None:
            self._opened.update(dict.fromkeys(placed, opening))
        self._runs.update(dict.fromkeys(placed, delta.run))

    def _carry_over(self, delta: Delta) -> None:
        """Add what a turn carries over from a session that ended, each after the one before it if that is there."""
        gone: set[MessageKey] = set()
        for other in takewhile(lambda each: each.position < delta.position, self._deltas):
            gone.difference_update(() if other.is_carried_over else other.added_keys)
            gone.update(other.only_removed)
        gone.update(key for key, position in self._own.items() if position > delta.position)
        at = len(self._order)
        for name in delta.added:
            key = key_of(name)
            if key in self._shown:
                at = self._order.index(key) + 1
            elif key not in gone:
                self._order.insert(at, key)
                self._shown[key] = name
                at += 1

    def _end_for(self, delta: Delta) -> int:
        """Where the end is for a change that follows nothing that is there.

        That is never behind a turn that the head ends in if that began only after this change. If the change continues
        a turn, it is behind what is left of that turn, or in front of what others have begun since.
        """
        order, end = self._order, len(self._order)
        later = [order.index(key) for began, key in self._begun if delta.position < began and key in order]
        end = min(later, default=end)
        if delta.after is None or delta.known is None:
            return end
        runs, opened = self._seen_turns()
        runs.update(self._runs)
        opened.update(self._opened)
        for at in range(len(order), 0, -1):
            if runs.get(order[at - 1]) == delta.run:
                return at
        # A change that moves messages knew of the turns that the head's run has seen, so only unseen ones count for it.
        for at, key in enumerate(order):
            other = (self._opened if delta.removed else opened).get(key)
            if other is not None and other.began > delta.began:
                return at
        return end

    def _seen_turns(self) -> tuple[dict[MessageKey, str], dict[MessageKey, Delta]]:
        """For each key that a seen change added its run, and the change that opened its turn."""
        newest = {key: delta.position for delta in self._deltas for key in delta.added_keys}
        fresh = {delta.position for delta in self._new}
        runs: dict[MessageKey, str] = {}
        opened: dict[MessageKey, Delta] = {}
        for delta in self._deltas:
            if delta.position in fresh or delta.is_carried_over or delta.removed:
                continue
            keys = {*delta.added_keys}
            end = next((at for at in range(len(self._order), 0, -1) if self._order[at - 1] in keys), 0)
            if end < len(self._order) and newest.get(self._order[end], delta.position) < delta.position:
                continue  # It only edited: what it added is followed by nothing older.
            # What it edited besides stands further up.
            added = [*takewhile(keys.__contains__, reversed(self._order[:end]))]
            runs.update(dict.fromkeys(added, delta.run))
            opening = delta if delta.after is None else opened.get(delta.after)
            if opening is not None:
                opened.update(dict.fromkeys(added, opening))
        return runs, opened


def _own_turns(deltas: Sequence[Delta], seen: Seen, order: Sequence[MessageKey]) -> list[tuple[int, MessageKey]]:
    """Where the turns began that the head ends in, of runs that began while another one waited for results.

    Empty for any other run: it was shown all that had been said before.

    Args:
        deltas: The log.
        seen: What the head's run has seen.
        order: The keys of the head's messages.

    Returns:
        For each its position in the log, and the key of its first message.
    """
    if not seen.began_beside_another:
        return []
    # For each key the position at which its turn began. A run that resumes goes on with the turn of another.
    turns: dict[MessageKey, int] = {}
    opened: dict[str, int] = {}
    for delta in deltas:
        if delta.is_carried_over or not seen.ran(delta):
            continue
        began = turns.get(delta.after or NO_KEY)
        if delta.after is None:
            began = opened.setdefault(delta.run, delta.position)
        elif delta.after in delta.removed:
            # What goes on with another turn follows a message of that, or has removed it.
            began = opened.get(delta.run, began)
        if began is not None:
            turns.update(dict.fromkeys(delta.added_keys, began))
    # Messages that it only edited stand further up.
    first = {turns[key]: key for key in takewhile(turns.__contains__, reversed(order))}
    return [*first.items()]


def _behind_moved(order: Sequence[MessageKey], delta: Delta) -> dict[MessageKey, list[MessageKey]]:
    """For each message that a change moves, the messages right after it that the change does not mention.

    Another run added those meanwhile, perhaps as the results of a call, so they move along with the message.
    """
    moved, touched = delta.moved, {*delta.touched}
    behind: dict[MessageKey, list[MessageKey]] = {}
    if not moved:
        return behind
    last: MessageKey | None = None
    for key in order:
        if key in touched:
            last = key if key in moved else None
        elif last is not None:
            behind.setdefault(last, []).append(key)
    return behind


def diff(base: Sequence[BodyName], names: Sequence[BodyName]) -> tuple[tuple[MessageKey, ...], tuple[BodyName, ...]]:
    """What turns one list of names into another, as keys removed and names added.

    A message that changed its place is removed and added again.
    """
    names, base = tuple(names), tuple(base)
    count = len(base)
    if names[:count] == base:
        return (), names[count:]  # As for most steps; the following would find the same.
    before = dict(zip(keyed(base), base, strict=True))
    after = dict(zip(keyed(names), names, strict=True))
    removed = [key for key in before if key not in after]
    stays = [key for key in before if key in after]
    moved: set[MessageKey] = set()
    place = 0
    for key in after:
        if place < len(stays) and stays[place] == key:
            place += 1
        elif place < len(stays):
            # A new or moved message precedes some that stay: those are all removed and added again after it.
            moved.update(stays[place:])
            place = len(stays)
    added = [name for key, name in after.items() if key in moved or before.get(key) != name]
    return (*removed, *(key for key in before if key in moved)), tuple(added)


def keyed(names: Iterable[BodyName]) -> list[MessageKey]:
    """A key for each name, unique even where a message occurs twice."""
    keys = [key_of(name) for name in names]
    if len(set(keys)) == len(keys):
        return keys
    counts: dict[MessageKey, int] = {}
    unique: list[MessageKey] = []
    for key in keys:
        count = counts[key] = counts.get(key, 0) + 1
        unique.append(key if count == 1 else MessageKey(f"{key}\0{count}"))
    return unique
