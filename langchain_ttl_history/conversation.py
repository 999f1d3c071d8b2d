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

An example: a run waits for a tool, and a chain speaks meanwhile. What another run is shown then
is the fold:

```text
 head  q1 call
 2     a chain             adds q2 a2
 3     the run goes on     adds result, after call
 4                         adds a1, after result
 fold  q1 call result a1 q2 a2
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from langchain_ttl_history.log_entries import WHERE_IT_IS, Delta, Seen, unseen
from langchain_ttl_history.log_turns import Turns, own_turns, seen_turns
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
        # By key; it has those too that `_remove` has taken out of the order, for `_add` to put back.
        self._names = dict(zip(self._order, names, strict=True))
        self._own_turns = own_turns(self._order, deltas, seen)
        # Of the messages that the changes applied so far have added.
        self._turns = Turns()

    @property
    def names(self) -> Sequence[BodyName]:
        """The names, as far as the changes were applied."""
        return [self._names[key] for key in self._order]

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
            if key in self._names and self._own.get(key, 0) < delta.position:
                del self._names[key]
                self._order.remove(key)
                for follower in behind.get(key, ()):
                    self._order.remove(follower)

    def _add(self, delta: Delta, behind: Mapping[MessageKey, Sequence[MessageKey]]) -> None:
        after = delta.after or NO_KEY
        opening: Delta | None
        # Most follow nothing, for which the whole order would be searched if it were asked first.
        if after in self._names and after in self._order:
            at, opening = self._order.index(after) + 1, self._turns.opening_of.get(after)
        else:
            at, opening = self._end_for(delta), delta
        placed: list[MessageKey] = []
        for name in delta.added:
            key = key_of(name)
            is_there = key in self._names
            if self._own.get(key, 0) > delta.position or (delta.after == WHERE_IT_IS and not is_there):
                continue
            if not is_there:
                placed += [key, *behind.get(key, ())]
            self._names[key] = name
        self._order[at:at] = placed
        self._turns.note(placed, delta.run, opening)

    def _carry_over(self, delta: Delta) -> None:
        """Add what a turn carries over from a session that ended, each after the one before it if that is there."""
        gone = self._gone_before(delta)
        at = len(self._order)
        for name in delta.added:
            key = key_of(name)
            if key in self._names:
                at = self._order.index(key) + 1
            elif key not in gone:
                self._order.insert(at, key)
                self._names[key] = name
                at += 1

    def _gone_before(self, delta: Delta) -> set[MessageKey]:
        """Keys of what it must not bring back: what was removed before it, or changed since by the head's own run."""
        gone: set[MessageKey] = set()
        for other in takewhile(lambda each: each.position < delta.position, self._deltas):
            if not other.is_carried_over:
                gone.difference_update(other.added_keys)
            gone.update(other.only_removed)
        gone.update(key for key, position in self._own.items() if position > delta.position)
        return gone

    def _end_for(self, delta: Delta) -> int:
        """Where the end is for a change that follows nothing that is there.

        A change that begins a turn goes to the end, or in front of what the head's own run began only after it. One
        that continues a turn, and tells what its run knew, goes behind what is left of that turn, or in front of what
        others have begun since:

        ```text
         1  run a  adds q1
         2  run b  adds q2
         3  run a  adds call, after q1
         4  run c  removes call          or also q1
         5  run a  adds result, after call
         fold      q1 result q2          or result q2
        ```
        """
        order, end = self._order, self._end_before_own_turns(delta)
        if delta.after is None or delta.known is None:
            return end
        turns = seen_turns(order, self._deltas, self._new).followed_by(self._turns)
        for at in range(len(order), 0, -1):
            if turns.run_of.get(order[at - 1]) == delta.run:
                return at
        # A change that moves messages knew of the turns that the head's run has seen, so only unseen ones count for it.
        opening_of = (self._turns if delta.removed else turns).opening_of
        for at, key in enumerate(order):
            opening = opening_of.get(key)
            if opening is not None and opening.began > delta.began:
                return at
        return end

    def _end_before_own_turns(self, delta: Delta) -> int:
        """The end, or where a turn begins that the head's own run opened only after this change; see `own_turns`."""
        order = self._order
        later = [order.index(key) for began, key in self._own_turns if delta.position < began and key in order]
        return min(later, default=len(order))


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

    A message that changed its place is removed and added again. As additions go to the end, so are those behind a new
    one: from `a b c` to `a new b c`, `b c` are removed, and `new b c` added.
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
