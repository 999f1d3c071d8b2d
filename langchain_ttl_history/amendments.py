"""What removals and replacements in the log come to when they meet something their run did not know of.

A read (`views`) amends the log in this order, and folds what comes of it:

1. `with_removals_named`: a replacement of the whole conversation says which messages stay, so it has to be found out
   which ones go.
2. `with_calls_kept`: no change removes a tool call from results that it did not know of.

Both give changes, and touch neither the head nor what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from langchain_ttl_history.conversation import keyed
from langchain_ttl_history.log_entries import Delta, Seen
from langchain_ttl_history.stored.names import NO_KEY, BodyName, MessageKey, key_of

__all__ = ["with_calls_kept", "with_removals_named"]


def with_removals_named(deltas: Sequence[Delta], head: Sequence[BodyName], seen: Seen) -> Sequence[Delta]:
    """The changes, of which those that remove all but some messages (`Delta.keeps`) name each one that they remove.

    What such a change did not know of stays, and so does what the head's own run said since:

    ```text
    the head                     q1 a1
    1 a chain                    adds q2
    2 another, knowing up to 0   adds s, keeps s and nothing else   -> removes q1 a1, and not q2
    ```

    Args:
        deltas: Changes in their order.
        head: Names of the head's messages.
        seen: What the head's run has seen, which stays as it is.
    """
    if all(delta.keeps is None for delta in deltas):
        return deltas
    there = dict.fromkeys(keyed(head))
    # For each key the position of the last change by the head's own run.
    own = {key: delta.position for delta in (deltas if seen.runs else ()) if seen.ran(delta) for key in delta.touched}
    named: list[Delta] = []
    for delta in deltas:
        removed = delta.removed
        if delta.keeps is not None and _says_what_goes(delta, seen):
            stays = {*delta.keeps, *removed}.union(*[other.touched for other in _unknown_to(delta, named)])
            removed += tuple(key for key in there if key not in stays and own.get(key, 0) <= delta.position)
        for key in removed:
            there.pop(key, None)
        there.update(dict.fromkeys(delta.added_keys))
        named.append(delta if delta.keeps is None else delta._replace(removed=removed))
    return named


def _says_what_goes(replacement: Delta, seen: Seen) -> bool:
    """Whether a replacement that the head's run has not seen can say what is to go of the head.

    It can only if its maker knew of everything that the head's run was shown: nothing tells which of the head's
    messages are new to it.
    """
    knew = replacement.position - 1 if replacement.known is None else replacement.known
    return replacement.position > seen.position and knew >= seen.position and not seen.ran(replacement)


def _unknown_to(delta: Delta, before: Sequence[Delta]) -> list[Delta]:
    """The changes that its run did not know of, among those before it, which are in their order.

    They are among the newest. The others are not looked at, for a log may hold a replacement for each turn.
    """
    known = delta.position if delta.known is None else delta.known
    since = takewhile(lambda other: other.position > known, reversed(before))
    return [other for other in since if delta.ignores(other)]


@dataclass
class _RemovedCall:
    """A message that some changes remove, which may be a tool call, as far as the log was gone through."""

    removals: list[Delta] = field(default_factory=list)
    """All changes that remove it, later ones included."""
    group: dict[MessageKey, BodyName] = field(default_factory=dict)
    """The newest names, by key, of the message and behind it of its results; empty as long as nobody has added it."""


def with_calls_kept(deltas: Sequence[Delta], is_result: Callable[[BodyName], bool]) -> Sequence[Delta]:
    """The changes, without removals of tool calls whose results the remover did not know of.

    A run that starts while another waits for results is shown the call without them, and so is an edit of what that run
    left. If either removes the call, the results keep it, or bring it back if it is gone already:

    ```text
    1 a run                        adds q call
    2 another, knowing up to 1     removes q call          -> removes q
    3 the run, after call          adds result             -> adds call result, of which call is there already
    ```

    Args:
        deltas: Changes in their order.
        is_result: Whether the message of this name is a tool's result.
    """
    removed: dict[MessageKey, _RemovedCall] = {}
    for delta in deltas:
        if delta.removed:  # As few do.
            for key in delta.only_removed:
                removed.setdefault(key, _RemovedCall()).removals.append(delta)
    if not removed:
        return deltas
    # For each result the key of its call, which a result of the same call may follow as well.
    call_of: dict[MessageKey, MessageKey] = {}
    # (position, key): the removal at the position leaves the call of this key, with its results.
    spared: set[tuple[int, MessageKey]] = set()
    amended: list[Delta] = []
    for delta in deltas:
        followed = delta.after or NO_KEY
        key = call_of.get(followed, followed)
        call = removed.get(key)
        brought_back: Sequence[BodyName] = ()
        if call is not None:
            results = {key_of(name): name for name in takewhile(is_result, delta.added)}
            ignoring = [each for each in call.removals if results and each.ignores(delta)]
            spared.update((each.position, key) for each in ignoring)
            call_of.update(dict.fromkeys(results, key))
            if ignoring:
                brought_back = (*call.group.values(),)
            if call.group:
                call.group.update(results)
        amended.append(delta._replace(added=(*brought_back, *delta.added)) if brought_back else delta)
        for name in delta.added:
            if key_of(name) in removed:
                removed[key_of(name)].group[key_of(name)] = name
    if not spared:
        return deltas
    return [
        delta._replace(
            removed=tuple(key for key in delta.removed if (delta.position, call_of.get(key, key)) not in spared)
        )
        for delta in amended
    ]
