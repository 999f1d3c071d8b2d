"""What edits, removals and replacements in the log come to when they meet something their run did not know of.

That can be the results of a tool call that they remove, or that a message they edit was cut or freed. A read (`views`)
amends the log in this order: `with_removals_named`, so that each change says which messages it removes; then
`with_calls_kept`, so that none removes a call from results it did not know of. What is left is folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from langchain_ttl_history.conversation import keyed
from langchain_ttl_history.log_entries import Delta, Seen, unseen
from langchain_ttl_history.stored.names import NO_KEY, BodyName, MessageKey, key_of

__all__ = ["done_with", "with_calls_kept", "with_removals_named"]


def with_removals_named(deltas: Sequence[Delta], head: Sequence[BodyName], seen: Seen) -> Sequence[Delta]:
    """The changes, of which those that remove all but some messages (`Delta.keeps`) name each one that they remove.

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
    spelled: list[Delta] = []
    for each in deltas:
        delta = each
        # A replacement can only say what is to go of the head if its maker knew of everything that the head's run was
        # shown: nothing tells which of the head's messages are new to it.
        knew = delta.position - 1 if delta.known is None else delta.known
        if delta.keeps is not None and delta.position > seen.position and knew >= seen.position and not seen.ran(delta):
            # What it did not know of stays, and so does what the head's own run said since.
            unknown = _unknown_to(delta, spelled)
            stays = {*delta.keeps, *delta.removed}.union(*[other.touched for other in unknown])
            gone = (key for key in there if key not in stays and own.get(key, 0) <= delta.position)
            delta = delta._replace(removed=(*delta.removed, *gone))
        for key in delta.removed:
            there.pop(key, None)
        there.update(dict.fromkeys(delta.added_keys))
        spelled.append(delta)
    return spelled


def _unknown_to(delta: Delta, before: Sequence[Delta]) -> list[Delta]:
    """The changes that its run did not know of, among those before it, which are in their order.

    They are among the newest. The others are not looked at, for a log may hold a replacement for each turn.
    """
    known = delta.position if delta.known is None else delta.known
    since = takewhile(lambda other: other.position > known, reversed(before))
    return [other for other in since if delta.ignores(other)]


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


def with_calls_kept(deltas: Sequence[Delta], is_result: Callable[[BodyName], bool]) -> Sequence[Delta]:
    """The changes, without removals of tool calls whose results the remover did not know of.

    A run that starts while another waits for results is shown the call without them, and so is an edit of what that run
    left. If either removes the call, the results keep it, or bring it back if it is gone already.

    Args:
        deltas: Changes in their order.
        is_result: Whether the message of this name is a tool's result.
    """
    removals: dict[MessageKey, list[Delta]] = {}
    for delta in deltas:
        for key in delta.only_removed:
            removals.setdefault(key, []).append(delta)
    if not removals:
        return deltas
    # Of each call that is removed the newest names, its own first and those of its results so far behind.
    groups: dict[MessageKey, dict[MessageKey, BodyName]] = {}
    call_of: dict[MessageKey, MessageKey] = {}
    spared: set[tuple[int, MessageKey]] = set()
    amended: list[Delta] = []
    for delta in deltas:
        call = call_of.get(delta.after or NO_KEY, delta.after or NO_KEY)
        results = {key_of(name): name for name in takewhile(is_result, delta.added)} if call in removals else {}
        late = [each for each in removals[call] if each.ignores(delta)] if results else []
        if late and call in groups:
            amended.append(delta._replace(added=(*groups[call].values(), *delta.added)))
        else:
            amended.append(delta)
        spared.update((each.position, call) for each in late)
        call_of.update(dict.fromkeys(results, call))
        if call in groups:
            groups[call].update(results)
        for name in delta.added:
            if key_of(name) in removals:
                groups.setdefault(key_of(name), {})[key_of(name)] = name
    if not spared:
        return deltas
    return [
        delta._replace(
            removed=tuple(key for key in delta.removed if (delta.position, call_of.get(key, key)) not in spared)
        )
        for delta in amended
    ]
