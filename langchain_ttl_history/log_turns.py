"""Which turns the messages of a conversation belong to, as far as the log tells.

A change that opens a turn follows nothing; one that continues a turn follows a message of it:

```text
 1  run a  adds q1 a1              opens a turn
 2  run b  adds q2                 opens another
 3  run b  adds call, after q2     continues that
 4  run c  adds q3 a3
 who said them, and what opened their turns    q1 a1: a, 1    q2 call: b, 2    q3 a3: c, 4
```
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile

from langchain_ttl_history.log_entries import Delta, Seen
from langchain_ttl_history.stored.names import MessageKey

__all__ = ["Turns", "own_turns", "seen_turns"]


class Turns:
    """Who said what, as far as is known: for keys of messages the run that added each, and what opened its turn."""

    def __init__(self) -> None:
        self.run_of: dict[MessageKey, str] = {}
        self.opening_of: dict[MessageKey, Delta] = {}

    def note(self, keys: Collection[MessageKey], run: str, opening: Delta | None) -> None:
        """Note that a run added these messages, and the change that opened their turn, if anything tells which."""
        self.run_of.update(dict.fromkeys(keys, run))
        if opening is not None:
            self.opening_of.update(dict.fromkeys(keys, opening))

    def followed_by(self, others: Turns) -> Turns:
        """These and others, which count where both know of a message."""
        both = Turns()
        both.run_of = {**self.run_of, **others.run_of}
        both.opening_of = {**self.opening_of, **others.opening_of}
        return both


def seen_turns(order: Sequence[MessageKey], deltas: Sequence[Delta], new: Sequence[Delta]) -> Turns:
    """The turns of the messages that stand where changes put them that the head's run has seen.

    Args:
        order: The keys of the conversation.
        deltas: The log.
        new: Those of its changes that the head's run has not seen.
    """
    newest = {key: delta.position for delta in deltas for key in delta.added_keys}
    unseen = {delta.position for delta in new}
    turns = Turns()
    for delta in deltas:
        if delta.position in unseen or delta.is_carried_over or delta.removed:
            continue
        opening = delta if delta.after is None else turns.opening_of.get(delta.after)
        turns.note(_said_by(delta, order, newest), delta.run, opening)
    return turns


def _said_by(delta: Delta, order: Sequence[MessageKey], newest: Mapping[MessageKey, int]) -> list[MessageKey]:
    """The messages that stand where a change put them, and which it therefore did not only edit.

    Args:
        delta: The change.
        order: The keys of the conversation.
        newest: For keys the position of the last change that added or edited each.
    """
    keys = {*delta.added_keys}
    end = next((at for at in range(len(order), 0, -1) if order[at - 1] in keys), 0)
    if end < len(order) and newest.get(order[end], delta.position) < delta.position:
        return []  # It only edited: what it added is followed by nothing older.
    # What it edited besides stands further up.
    return [*takewhile(keys.__contains__, reversed(order[:end]))]


def own_turns(order: Sequence[MessageKey], deltas: Sequence[Delta], seen: Seen) -> list[tuple[int, MessageKey]]:
    """Where the turns began that the head ends in, of runs that began while another one waited for results.

    Empty for any other run: it was shown all that had been said before. An example:

    ```text
     1  run f    adds q1 call          is in its tool from now on
     2  a chain  adds x
     3  run g    adds q2               begins in that tool, and is shown q1 call
     4  run g    adds a2, after q2     the head is q1 call q2 a2 from now on
     own turns   q2 began at 3, q1 at 1, and therefore x goes before q2
    ```

    Args:
        order: The keys of the head's messages.
        deltas: The log.
        seen: What the head's run has seen.

    Returns:
        For each its position in the log, and the key of its first message.
    """
    if not seen.began_beside_another:
        return []
    # For each key the position at which its turn began.
    began_of: dict[MessageKey, int] = {}
    # For each run the position at which it opened a turn; one that resumes goes on with the turn of another.
    opened: dict[str, int] = {}
    for delta in deltas:
        if delta.is_carried_over or not seen.ran(delta):
            continue
        began: int | None
        if delta.after is None:
            began = opened.setdefault(delta.run, delta.position)
        else:
            began = began_of.get(delta.after)
            if delta.after in delta.removed:
                # What goes on with another turn follows a message of that, or has removed it.
                began = opened.get(delta.run, began)
        if began is not None:
            began_of.update(dict.fromkeys(delta.added_keys, began))
    # Messages that it only edited stand further up.
    first = {began_of[key]: key for key in takewhile(began_of.__contains__, reversed(order))}
    return [*first.items()]
