"""Log, head and fold, over generated conversations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from langchain_ttl_history.amendments import with_calls_kept, with_removals_named
from langchain_ttl_history.conversation import diff, fold, keyed
from langchain_ttl_history.encoding.records import pack
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.log_entries import CARRIED_OVER, WHERE_IT_IS, Delta, Seen, deltas_of, unseen
from langchain_ttl_history.storage.types import Entry
from langchain_ttl_history.stored.names import content_name, key_of
from tests.core.compared import Compared

NOTHING_SEEN = Seen()
often = settings(max_examples=300)


def name(id: int | str | None, version: int = 0) -> str:
    return content_name(f"{version}".encode()) + ("" if id is None else f"i{id}")


ids = st.integers(0, 9)
versions = st.integers(0, 2)
named = st.builds(name, ids, versions)
unnamed = st.builds(name, st.none(), versions)


def unique(names: list[str]) -> list[str]:
    return list({key_of(each): each for each in names}.values())


conversations = st.lists(named, max_size=10).map(unique)
any_conversations = st.lists(named | unnamed, max_size=10)


@st.composite
def logs(draw: st.DrawFn) -> list[Delta]:
    """A log as runs write it: a change names what it adds once, and removes none of that first."""
    deltas = []
    position = 0
    for _ in range(draw(st.integers(0, 7))):
        position += draw(st.integers(1, 3))
        added = tuple(unique(draw(st.lists(named, max_size=4))))
        removed = tuple(f"i{each}" for each in draw(st.lists(ids, max_size=3, unique=True)))
        after = draw(st.none() | st.just(WHERE_IT_IS) | ids.map(lambda each: f"i{each}"))
        if after == WHERE_IT_IS:
            removed = tuple({*removed}.difference(map(key_of, added)))  # what is moved is added anew
        known = draw(st.none() | st.just(CARRIED_OVER) | st.integers(0, position))
        if known == CARRIED_OVER:
            removed, after = (), None
        keeps = None
        if known != CARRIED_OVER and not draw(st.integers(0, 3)):
            keeps = (*map(key_of, added), *(f"i{each}" for each in draw(st.lists(ids, max_size=3, unique=True))))
            removed = tuple({*removed}.difference(keeps))
        deltas.append(Delta(draw(st.sampled_from("abc")), removed, added, after, position, known, keeps))
    return deltas


ends = st.none() | st.integers(0, 16)
seens = st.builds(
    Seen,
    st.integers(0, 12),
    st.dictionaries(st.sampled_from("abc"), ends, max_size=2).map(lambda runs: (*runs.items(),)),
    st.lists(st.tuples(st.integers(1, 16), ids.map(lambda each: f"i{each}")), max_size=3).map(tuple),
)


def ran(delta: Delta, seen: Seen) -> bool:
    """Whether a change is one of those that a run is known by."""
    end = dict(seen.runs).get(delta.run, 0)
    return end is None or delta.position <= end


def began(delta: Delta) -> int:
    """Since when the turn goes on that a change belongs to."""
    return delta.position if delta.after is None or delta.known is None else delta.known


def naive(names: list[str], deltas: list[Delta], seen: Seen) -> list[str]:
    """The sentences of the module, one after the other."""
    shown = [[key_of(each), each] for each in names]
    begun: dict[str, Delta] = {}
    runs: dict[str, str] = {}

    def place(key: str | None) -> int | None:
        return next((at for at, (has, _) in enumerate(shown) if has == key), None)

    for stored in deltas:
        if stored.position <= seen.position or ran(stored, seen):
            continue  # what the head's run had seen is never applied again
        unread = tuple(each for each in stored.added if (stored.position, key_of(each)) not in seen.edits)
        delta = stored._replace(added=unread)

        def own_later_change(key: str, position: int = delta.position) -> bool:
            return any(
                ran(other, seen) and not other.is_carried_over and other.position > position and key in other.touched
                for other in deltas
            )

        if stored.is_carried_over:
            # It follows what it followed, and brings back nothing that is gone.
            before = None
            for each in delta.added:
                said = [other for other in deltas if other.position < stored.position and key_of(each) in other.touched]
                last = next((other for other in reversed(said) if not other.is_carried_over), None)
                gone = last is not None and key_of(each) not in map(key_of, last.added)
                if place(key_of(each)) is None and (gone or own_later_change(key_of(each))):
                    continue
                if place(key_of(each)) is None:
                    follows = place(before)
                    shown.insert(len(shown) if follows is None else follows + 1, [key_of(each), each])
                before = key_of(each)
            continue

        # What a run moves takes along what stands right behind it and the run knows nothing of.
        known = {*delta.removed, *map(key_of, delta.added)}
        moves = {key for key in delta.removed if key in map(key_of, delta.added)}
        behind: dict[str, list[list[str]]] = {}
        for here, (key, _) in enumerate(shown):
            rest = shown[here + 1 :]
            end = next((at for at, (other, _) in enumerate(rest) if other in known), len(rest))
            if key in moves and not own_later_change(key):
                behind[key] = rest[:end]
        for key in delta.removed:
            if not own_later_change(key) and (at := place(key)) is not None:
                del shown[at : at + 1 + len(behind.get(key, ()))]
        anchor = place(delta.after)
        at = len(shown) if anchor is None else anchor + 1
        if anchor is None and delta.after is not None and delta.known is not None:
            # What it follows is gone, so it goes after what its run added, or before what others began since its turn.
            since = {key for key, by in begun.items() if began(by) > delta.known}
            at = next((at for at, (key, _) in enumerate(shown) if key in since), at)
            at = max((at for at, (key, _) in enumerate(shown, 1) if runs.get(key) == delta.run), default=at)
        begins = delta if anchor is None else begun.get(delta.after or "")
        for each in delta.added:
            if own_later_change(key_of(each)):
                continue
            found = place(key_of(each))
            if found is None and delta.after == WHERE_IT_IS:
                continue  # a change of what is there adds nothing
            if found is None:
                new = [[key_of(each), each], *behind.get(key_of(each), ())]
                begun |= {key: begins for key, _ in new if begins is not None}
                runs |= {key: delta.run for key, _ in new}
                shown[at:at] = new
                at += len(new)
            else:
                shown[found][1] = each
    return [each for _, each in shown]


@often
@given(names=conversations, deltas=logs(), seen=seens)
def test_a_fold_is_what_its_sentences_say(names: list[str], deltas: list[Delta], seen: Seen) -> None:
    assert list(fold(names, deltas, seen)) == naive(names, deltas, seen)


@often
@given(names=any_conversations, deltas=logs(), seen=seens)
def test_what_was_seen_is_never_applied_again(names: list[str], deltas: list[Delta], seen: Seen) -> None:
    everything = Seen(max((delta.position for delta in deltas), default=0), seen.runs)
    assert list(fold(names, deltas, everything)) == names
    every_run = Seen(seen.position, (("a", None), ("b", None), ("c", None)))
    assert list(fold(names, deltas, every_run)) == names
    new = unseen(deltas, seen)
    assert all(delta.position > seen.position and not ran(delta, seen) for delta in new)
    assert not [delta for delta in new for each in delta.added if (delta.position, key_of(each)) in seen.edits]
    left_out = {delta.position for delta in deltas}.difference(delta.position for delta in new)
    assert left_out >= {delta.position for delta in deltas if delta.position <= seen.position or ran(delta, seen)}
    if not seen.edits:
        assert left_out == {delta.position for delta in deltas if delta.position <= seen.position or ran(delta, seen)}


@often
@given(names=conversations, deltas=logs(), at=st.integers(0, 7))
def test_folding_in_two_steps_is_folding_at_once(names: list[str], deltas: list[Delta], at: int) -> None:
    # Of what one has folded it is not told any more who put it where it stands.
    deltas = [delta._replace(known=None) for delta in deltas]
    first, later = deltas[:at], deltas[at:]
    middle = list(fold(names, first, NOTHING_SEEN))
    seen = Seen(first[-1].position if first else 0)
    assert list(fold(middle, deltas, seen)) == list(fold(names, deltas, NOTHING_SEEN))
    assert list(fold(middle, later, NOTHING_SEEN)) == list(fold(names, deltas, NOTHING_SEEN))


@often
@given(names=conversations, deltas=logs(), seen=seens)
def test_a_fold_shows_each_message_of_an_id_once_and_changes_no_argument(
    names: list[str], deltas: list[Delta], seen: Seen
) -> None:
    before = [*names], [*deltas]
    shown = fold(names, deltas, seen)
    assert (names, deltas) == before
    assert len(set(map(key_of, shown))) == len(shown)
    assert set(shown) <= {*names, *(each for delta in deltas for each in delta.added)}


def test_a_later_change_of_the_heads_own_run_wins() -> None:
    head = [name(1, 2), name(2)]
    other = Delta("other", ("i2",), (name(1, 1), name(3)), None, 5)
    mine = Delta("mine", (), (name(1, 2), name(2)), None, 6)
    seen = Seen(4, (("mine", None),))
    assert list(fold(head, [other, mine], seen)) == [name(1, 2), name(2), name(3)]
    earlier = Delta("mine", (), (name(1, 2), name(2)), None, 4)
    assert list(fold(head, [earlier, other], Seen(3, (("mine", None),)))) == [name(1, 1), name(3)]


def test_what_the_heads_own_run_removed_later_does_not_come_back() -> None:
    other = Delta("other", (), (name(1, 1),), None, 5)
    mine = Delta("mine", ("i1",), (), None, 6)
    assert list(fold([], [other, mine], Seen(4, (("mine", None),)))) == []


def test_what_continues_a_turn_that_is_gone_goes_before_what_others_began_since() -> None:
    log = [
        Delta("before", (), (name(1),), position=2),
        Delta("since", (), (name(2),), position=6),
        Delta("since", (), (name(3),), after="i9", position=7, known=4),
        Delta("turn", (), (name(5),), after="i4", position=8, known=3),
        Delta("turn", (), (name(6),), after="i5", position=9, known=3),
    ]
    assert list(fold([], log, NOTHING_SEEN)) == [name(1), name(5), name(6), name(2), name(3)]
    # Of who does not say how far it knew the log nobody can tell.
    assert list(fold([], [log[1], log[3]._replace(known=None)], NOTHING_SEEN)) == [name(2), name(5)]


def test_what_continues_a_turn_of_which_something_is_left_goes_behind_that() -> None:
    log = [
        Delta("turn", (), (name(1),), position=12),
        Delta("older", (), (name(2),), after="i8", position=20, known=4),
        Delta("turn", (), (name(3),), after="i9", position=32, known=8),
        Delta("older", (), (name(4),), after="i7", position=40, known=4),
    ]
    assert list(fold([], log, NOTHING_SEEN)) == [name(2), name(4), name(1), name(3)]
    # Nothing but when they began tells two turns apart of which only their ends are left.
    assert list(fold([], log[1:3], NOTHING_SEEN)) == [name(2), name(3)]
    assert list(fold([], [log[2], log[3]], NOTHING_SEEN)) == [name(4), name(3)]


def test_what_a_turn_brings_from_a_session_that_ended_brings_back_nothing_and_stays_in_one_piece() -> None:
    log = [
        Delta("inner", (), (name(1), name(2)), position=1, known=CARRIED_OVER),
        Delta("inner", (), (name(3),), position=2, known=CARRIED_OVER),
        Delta("inner", ("i1",), (name(2, 1), name(4)), "i3", position=3, known=0),
        Delta("outer", (), (name(1), name(2), name(5)), position=4, known=CARRIED_OVER),
    ]
    assert list(fold([], log, NOTHING_SEEN)) == [name(2, 1), name(5), name(3), name(4)]
    outer = [name(1), name(2), name(5)]
    assert list(fold(outer, log, Seen(0, (("outer", None),)))) == [name(2, 1), name(5), name(3), name(4)]


def test_additions_to_the_end_do_not_search_the_conversation_for_what_they_follow() -> None:
    def comparisons(count: int) -> int:
        added = [Compared(name(each)) for each in range(count)]
        deltas = [Delta(f"chain{at}", (), (each,), None, at) for at, each in enumerate(added, 1)]
        before = Compared.count
        assert len(fold([], deltas, NOTHING_SEEN)) == count
        return Compared.count - before

    assert comparisons(400) <= 5 * comparisons(100)


def test_an_addition_goes_after_the_message_it_follows_otherwise_to_the_end() -> None:
    head = [name(1), name(2), name(3)]
    turn = (name(7), name(8))
    assert list(fold(head, [Delta("r", (), turn, "i1", 1)], NOTHING_SEEN)) == [head[0], *turn, *head[1:]]
    assert list(fold(head, [Delta("r", (), turn, "gone", 1)], NOTHING_SEEN)) == [*head, *turn]
    assert list(fold(head, [Delta("r", (), turn, None, 1)], NOTHING_SEEN)) == [*head, *turn]
    replaced = (name(3, 1), name(7))
    assert list(fold(head, [Delta("r", (), replaced, "i1", 1)], NOTHING_SEEN)) == [
        name(1), name(7), name(2), name(3, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("removed", "expected"), [(("i2",), [1, 4, 3]), (("i1", "i2"), [4, 3])])
def test_what_continues_a_turn_stays_with_what_is_left_of_it_or_before_what_began_since(
    removed: tuple[str, ...], expected: list[int]
) -> None:
    log = [
        Delta("a", (), (name(1),), None, 1),
        Delta("b", (), (name(3),), None, 2),
        Delta("a", (), (name(2),), "i1", 3, known=1),
        Delta("c", removed, (), None, 4),
        Delta("a", (), (name(4),), "i2", 5, known=1),
    ]
    assert list(fold([], log, NOTHING_SEEN)) == [name(each) for each in expected]


def test_what_continues_a_turn_does_not_go_behind_what_its_run_only_edited() -> None:
    log = [
        Delta("a", (), (name(1),), None, 1),
        Delta("b", (), (name(2),), None, 2),
        Delta("c", (), (name(1, 1),), WHERE_IT_IS, 3),
        Delta("c", (), (name(3),), "gone", 4, known=3),
    ]
    assert list(fold([name(1, 1), name(2)], log, Seen(3))) == [name(1, 1), name(2), name(3)]


def test_a_turn_opened_beside_another_keeps_its_place_though_its_run_removes_what_it_follows() -> None:
    log = [
        Delta("outer", (), (name(1),), None, 1),
        Delta("chain", (), (name(2),), None, 2),
        Delta("inner", (), (name(3),), None, 3),
        Delta("inner", ("i1", "i3"), (name(4),), "i1", 4, known=3),
    ]
    assert list(fold([name(4)], log, Seen(0, (("inner", None), ("outer", 1))))) == [name(2), name(4)]


# --- diff -------------------------------------------------------------------------------------


@st.composite
def changed(
    draw: st.DrawFn, kinds: tuple[str, ...] = ("remove", "edit", "add", "insert")
) -> tuple[list[str], list[str]]:
    """A conversation, and what random changes of these kinds made of it."""
    base = draw(conversations)
    new = [*base]
    for what in draw(st.lists(st.sampled_from(kinds), max_size=5)):
        if what in ("add", "insert"):
            new.insert(len(new) if what == "add" else draw(st.integers(0, len(new))), name(f"new{draw(ids)}"))
        elif new:
            at = draw(st.integers(0, len(new) - 1))
            each = new.pop(at)
            if what == "edit":
                new.insert(at, name(key_of(each)[1:], draw(st.integers(3, 5))))
            elif what == "move":
                new.insert(draw(st.integers(0, len(new))), each)
    return base, unique(new)


@often
@given(pair=changed())
@example(pair=([name(1)], [name(2), name(1)]))
@example(pair=([], [name(1)]))
def test_folding_a_diff_onto_its_base_gives_the_new_list(pair: tuple[list[str], list[str]]) -> None:
    comes_out_as_it_was_changed(*pair)


@often
@given(pair=changed(("remove", "move", "add", "insert")))
@example(pair=([name(1), name(2)], [name(2), name(1)]))
def test_folding_a_diff_onto_its_base_gives_the_new_list_whatever_moved(pair: tuple[list[str], list[str]]) -> None:
    comes_out_as_it_was_changed(*pair)


def comes_out_as_it_was_changed(base: list[str], new: list[str]) -> None:
    removed, added = diff(base, new)
    folded = list(fold(base, [Delta("r", removed, added, None, 1)], NOTHING_SEEN))
    assert folded == new
    assert diff(folded, new) == ((), ())


@often
@given(pair=changed())
def test_a_diff_names_only_what_is_needed(pair: tuple[list[str], list[str]]) -> None:
    base, new = pair
    removed, added = diff(base, new)
    assert diff(base, base) == ((), ())
    assert set(removed) <= set(map(key_of, base))
    assert set(added) <= set(new)
    assert {*map(key_of, base)} - {*map(key_of, new)} <= set(removed)
    assert set(new) - set(base) <= set(added)
    assert len(set(removed)) == len(removed)
    assert len(set(added)) == len(added)


@often
@given(base=any_conversations, more=any_conversations)
def test_a_conversation_that_only_grew_removes_nothing(base: list[str], more: list[str]) -> None:
    base = unique(base)
    more = [each for each in unique(more) if key_of(each) not in set(map(key_of, base))]
    assert diff(base, [*base, *more]) == ((), tuple(more))


# --- keyed ------------------------------------------------------------------------------------


@often
@given(names=any_conversations)
def test_keys_are_unique_and_those_of_the_messages_where_they_can_be(names: list[str]) -> None:
    unique_keys = keyed(names)
    assert len(set(unique_keys)) == len(names) == len(unique_keys)
    for at, (key, each) in enumerate(zip(unique_keys, names, strict=True)):
        first = key_of(each) not in map(key_of, names[:at])
        assert (key == key_of(each)) == first
    assert keyed(names[: len(names) // 2]) == unique_keys[: len(names) // 2]


# --- calls and their results ------------------------------------------------------------------

CALLS = [name(each) for each in ("question", "call", "result", "second", "answer")]
QUESTION, CALL, RESULT, SECOND, ANSWER = CALLS
RESULTS = {RESULT, SECOND}


def turn_with(*others: Delta) -> list[Delta]:
    """What a run said that called a tool, and changes of others."""
    said = [
        Delta("run", (), (QUESTION, CALL), None, 10),
        Delta("run", (), (RESULT,), key_of(CALL), 20),
        Delta("run", (), (SECOND,), key_of(RESULT), 30),
        Delta("run", (), (ANSWER,), key_of(SECOND), 40),
    ]
    return sorted([*said, *others], key=lambda delta: delta.position)


def removal(position: int, *removed: str, known: int | None, run: str = "other") -> Delta:
    return Delta(run, tuple(map(key_of, removed)), (name("summary"),), None, position, known)


def told(head: list[str], deltas: list[Delta], seen: Seen) -> list[str]:
    return list(fold(head, with_calls_kept(deltas, RESULTS.__contains__), seen))


@pytest.mark.parametrize("position", [12, 22, 32, 42])
@pytest.mark.parametrize("known", [10, 11])
def test_a_removal_takes_no_call_whose_results_it_knew_nothing_of(position: int, known: int) -> None:
    deltas = turn_with(removal(position, QUESTION, CALL, known=known))
    its_run, other = Seen(5, (("run", None),)), Seen(5, (("run", known), ("other", None)))
    assert told(CALLS, deltas, its_run) == [*CALLS[1:], name("summary")]
    # What was said before the other's turn stands before it, as in the eyes of the run that said it.
    shown = [name("summary"), *CALLS[1:]] if position == 12 else [*CALLS[1:], name("summary")]
    assert told([name("summary")], deltas, other) == shown
    assert sorted(told([], deltas, NOTHING_SEEN)) == sorted([name("summary"), *CALLS[1:]])


def test_who_knew_one_of_two_results_leaves_that_as_well() -> None:
    deltas = turn_with(removal(35, QUESTION, CALL, RESULT, known=25))
    assert told(CALLS, deltas, Seen(5, (("run", None),))) == [*CALLS[1:], name("summary")]
    other = Seen(5, (("run", 25), ("other", None)))
    assert told([name("summary")], deltas, other) == [*CALLS[1:], name("summary")]


@pytest.mark.parametrize("known", [None, 30, 41])
def test_a_removal_of_a_call_whose_results_it_knew_stands(known: int | None) -> None:
    deltas = turn_with(removal(42, CALL, RESULT, SECOND, known=known))
    assert told(CALLS, deltas, Seen(5, (("run", None),))) == [QUESTION, ANSWER, name("summary")]
    own = turn_with(removal(42, *CALLS[:4], known=5, run="run"))
    assert told([ANSWER, name("summary")], own, Seen(5, (("run", None),))) == [ANSWER, name("summary")]
    assert told([], own, NOTHING_SEEN) == [ANSWER, name("summary")]


def test_a_removal_of_what_is_no_call_stands_though_its_run_did_not_know_what_followed() -> None:
    deltas = [
        Delta("run", (), (QUESTION, ANSWER), None, 10),
        removal(15, QUESTION, ANSWER, known=10),
        Delta("run", (), (name("more"),), key_of(ANSWER), 20),
    ]
    head = [QUESTION, ANSWER, name("more")]
    assert told(head, deltas, Seen(5, (("run", None),))) == [name("more"), name("summary")]


@given(deltas=logs())
def test_where_there_are_no_results_every_change_stands(deltas: list[Delta]) -> None:
    assert with_calls_kept(deltas, lambda _: False) is deltas


@often
@given(head=conversations, deltas=logs(), seen=seens)
def test_what_removes_all_but_some_leaves_only_those_and_what_it_did_not_know_of(
    head: list[str], deltas: list[Delta], seen: Seen
) -> None:
    spelled = with_removals_named(deltas, head, seen)
    assert [each._replace(removed=()) for each in spelled] == [each._replace(removed=()) for each in deltas]
    for at, (before, after) in enumerate(zip(deltas, spelled, strict=True)):
        implied = {*after.removed}.difference(before.removed)
        knew = before.position - 1 if before.known is None else before.known
        if before.keeps is None or seen.ran(before) or before.position <= seen.position or knew < seen.position:
            assert not implied
            continue
        unknown = [each for each in deltas[:at] if before.ignores(each)]
        unknown += [each for each in deltas[at + 1 :] if seen.ran(each)]
        may_stay = {*before.keeps}.union(*[each.touched for each in unknown])
        assert implied.isdisjoint(may_stay)
        assert {key_of(each) for each in fold(head, spelled[: at + 1], Seen())} <= may_stay


@pytest.mark.parametrize("known", [4, 5])
def test_a_replacement_removes_all_but_what_it_keeps_and_did_not_know_of_or_the_heads_run_said_since(
    known: int,
) -> None:
    log = [
        Delta("chain", (), (name("known"),), None, known),
        Delta("chain", (), (name("unknown"),), None, 6),
        Delta("other", (), (name("draft"),), None, 7),
        Delta("other", (), (name("summary"),), None, 8, known, (key_of(name("summary")),)),
        Delta("head", (), (name("edited", 1),), None, 9),
        Delta("late", (), (name("again", 1),), None, 10),
    ]
    head = [name("again"), name("edited")]
    replacement = with_removals_named(log, head, Seen(4, (("head", None),)))[3]
    assert replacement.removed == tuple(key_of(name(each)) for each in ("again", "known", "draft"))


def calls_in(work: Callable[[], object]) -> int:
    """How many functions are called for a piece of work."""
    count = 0

    def look(_frame: object, event: str, _: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("seen", [NOTHING_SEEN, Seen(1, (("run", None),))], ids=["no head", "a head"])
def test_replacements_at_every_turn_take_no_more_work_each_the_more_of_them_there_are(seen: Seen) -> None:
    def work(count: int) -> int:
        deltas = [Delta("run", (), (QUESTION,), None, 2)]
        for at in range(3, 3 + count):
            added = name(at)
            deltas.append(Delta(f"chain{at}", (), (added,), None, at, at - 1, (key_of(added),)))
        head = [QUESTION] if seen.runs else []
        assert told(head, [*with_removals_named(deltas, head, seen)], seen) == [name(2 + count)]
        return calls_in(lambda: told(head, [*with_removals_named(deltas, head, seen)], seen))

    assert work(400) < 5 * work(100)


# --- entries ----------------------------------------------------------------------------------

changes = st.builds(
    Delta,
    st.text(max_size=8),
    st.lists(st.text(max_size=8), max_size=3).map(tuple),
    st.lists(named, max_size=3).map(tuple),
    st.none() | st.text(max_size=8),
    st.integers(1, 2**40),
    st.none() | st.integers(0, 2**40),
    st.none() | st.lists(st.text(max_size=8), max_size=3).map(tuple),
)


@given(delta=changes)
def test_a_change_is_read_from_its_entry_as_it_was(delta: Delta) -> None:
    assert deltas_of([Entry(delta.position, delta.payload(), delta.added)]) == [delta]


@given(delta=changes, cut=st.integers(0, 10**6))
def test_a_truncated_entry_is_never_read(delta: Delta, cut: int) -> None:
    payload = delta.payload()
    for damaged in (payload[: cut % len(payload)], payload + b"\x00", payload[1:]):
        with pytest.raises(CorruptRecordError):
            deltas_of([Entry(1, damaged)])


@pytest.mark.parametrize("record", [[2, "r", [], None], [1, "r"], {}, None, 7, "text", []])
def test_an_entry_of_another_shape_or_a_newer_format_is_never_read(record: Any) -> None:
    with pytest.raises(CorruptRecordError):
        deltas_of([Entry(1, pack(record))])


@given(seen=seens, position=st.integers(0, 16), deltas=logs())
def test_who_is_given_a_state_has_seen_its_runs_changes_so_far_and_no_later_ones(
    seen: Seen, position: int, deltas: list[Delta]
) -> None:
    given = seen.until(position)
    for delta in unseen(deltas, given):
        assert delta in unseen(deltas, seen) or delta.position > position
    for delta in unseen(deltas, seen):
        assert delta in unseen(deltas, given)
    assert given.until(position) == given
    assert Seen.unpacked(given.position, given.packed()) == given
    assert Seen.unpacked(seen.position, seen.packed()) == seen
