"""Which checkpoints a session shows, which part of a log stays, and a write that frees as well: pure plans."""

from __future__ import annotations

from langchain_core.messages import HumanMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.freeing import compaction, log_trimming, pruning
from langchain_ttl_history.freeing.compaction import combined
from langchain_ttl_history.freeing.gaps import older_than_freed, without_hidden
from langchain_ttl_history.freeing.inputs import Conversation
from langchain_ttl_history.freeing.log_trimming import Trimmed
from langchain_ttl_history.freeing.message_cutting import with_fewer_messages
from langchain_ttl_history.freeing.pruning import within_cap
from langchain_ttl_history.freeing.remnants import Spared, left_for_head
from langchain_ttl_history.index import Line
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.log_entries import WHERE_IT_IS, Delta, Log, Seen
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.types import Blob, Change, Entry, Lease, Query, Snapshot
from langchain_ttl_history.stored.names import BodyName, MessageKey, checkpoint_name, writes_name
from langchain_ttl_history.testing import Clock

LEASE = Lease(60.0, None)
BODY = "m" + "0" * 24
USED = BODY + "used"


def root(number: int, parent: int | None = None) -> Line:
    """A root checkpoint, built on the one before unless told otherwise."""
    before = number - 1 if parent is None else parent
    return Line("", f"r{number}", f"r{before}" if before else None, None, None, None, None, 10 * number)


def sub(ns: str, id: str, under: int, position: int) -> Line:
    """A subgraph's checkpoint that ran under a root."""
    return Line(ns, id, None, f"r{under}", None, None, None, position)


def ids(lines: list[Line]) -> list[str]:
    return [line.id for line in lines]


ROOTS = [root(number) for number in range(1, 6)]


def test_the_newest_root_checkpoints_are_shown_oldest_first() -> None:
    assert ids(within_cap(ROOTS, (), 3, set())) == ["r3", "r4", "r5"]
    assert ids(within_cap(ROOTS, (), 9, set())) == ids(ROOTS)
    assert ids(within_cap(ROOTS, (), None, set())) == ids(ROOTS)


def test_one_that_waits_for_an_answer_is_shown_beyond_the_cap_unless_something_was_built_on_it() -> None:
    fork = root(6, parent=1)
    assert ids(within_cap([*ROOTS, fork], (), 1, {"r5"})) == ["r5", "r6"]
    assert ids(within_cap([*ROOTS, fork], (), 1, {"r1"})) == ["r6"]


def test_a_subgraphs_checkpoints_go_with_the_root_they_ran_under_but_for_what_it_remembers_across_turns() -> None:
    once = [sub("tool:1", "a", 2, 21), sub("tool:2", "b", 4, 41)]
    lasting = [sub("memory", "c", 1, 11), sub("memory", "d", 2, 22)]
    assert ids(within_cap(ROOTS, [*lasting, *once], 2, set())) == ["d", "r4", "b", "r5"]


def test_what_a_subgraph_put_under_a_root_that_is_not_there_is_done_once_another_was_built_on_that() -> None:
    before, after = sub("tool:1", "a", 2, 49), sub("tool:1", "b", 2, 51)
    lasting = [sub("memory", "c", 2, 47), sub("memory", "d", 2, 48)]
    assert ids(within_cap([root(5, parent=1)], [*lasting, before, after], 9, set())) == ["c", "d", "a", "r5", "b"]
    assert ids(within_cap([root(5, parent=2)], [*lasting, before, after], 9, set())) == ["c", "d", "r5", "b"]
    alone = before._replace(root=None)
    assert ids(within_cap([root(5), root(1)], [alone], 9, set())) == ["r1", "a", "r5"]


def test_of_writes_only_those_without_their_checkpoint_are_freed_and_of_these_not_the_newest() -> None:
    lists = {writes_name("", f"r{number}"): [Entry(number, b"")] for number in range(1, 21)}
    lists[writes_name("sub", "r0")] = [Entry(0, b"")]
    blobs = {checkpoint_name(*each): Blob(b"") for each in (("sub", "r0"), ("", "r1"), ("", "r3"))}
    orphans = pruning._orphans(Snapshot(0.0, blobs=blobs, lists=lists))
    assert orphans == {writes_name("", "r2"), writes_name("", "r4")}


FREED = Change(
    LEASE,
    blobs={"h": Blob(b"old head"), "hsub": Blob(b"moved")},
    place=[("chain", Entry(3, b"line"))],
    drop=["c-old", USED, BODY, "set", "m-gone"],
    trim={"index": frozenset({1})},
    upkeep=True,
    at_position=7,
    at_generation=5,
)


def test_a_write_frees_what_was_planned_but_for_what_it_needs_itself() -> None:
    change = Change(LEASE, blobs={"h": Blob(b"head", (USED,)), "set": Blob(b"")}, append=[("log", b"", ("m-gone",))])
    both = combined(change, FREED)
    assert both is not None
    assert both.drop == ["c-old"], "neither what it refers to, nor the content that shares, nor what it sets"
    assert (both.trim, both.place, both.append) == (FREED.trim, FREED.place, change.append)
    assert both.blobs == {"h": Blob(b"head", (USED,)), "set": Blob(b""), "hsub": Blob(b"moved")}
    assert not both.upkeep


def test_a_write_frees_only_where_nobody_wrote_since_and_in_no_other_generation() -> None:
    both = combined(Change(LEASE), FREED)
    assert both is not None
    assert (both.at_position, both.at_generation) == (7, 5)
    assert combined(Change(LEASE, at_generation=5), FREED) is not None
    assert combined(Change(LEASE, at_generation=6), FREED) is None


def test_the_bytes_that_are_left_are_foretold_as_the_storage_counts_them() -> None:
    storage, key = MemoryStorage(clock=Clock()), SessionKey("alice", "s1")
    blobs = {"h": Blob(b"a pointer"), "c-old": Blob(b"a checkpoint"), "m": Blob(b"a message")}
    entries = [("log", b"one", ()), ("log", b"and two", ()), ("index", b"a line", ()), ("writes", b"a write", ())]
    storage.write(key, Change(LEASE, blobs=blobs, append=entries))
    before = storage.read(key, Query(outline=True))
    first, second = (entry.position for entry in before.lists["log"])
    change = Change(
        LEASE,
        blobs={"h": Blob(b"another"), "new": Blob(b"what was not there")},
        place=[("log", Entry(second, b"what two became")), ("chain", Entry(first, b"placed anew"))],
        drop=["c-old", "writes", "nothing"],
        trim={"log": frozenset({first})},
    )
    foretold = compaction._bytes_after(before, change)
    assert storage.write(key, change).bytes == foretold
    assert foretold != before.bytes


def names(*keys: str) -> tuple[BodyName, ...]:
    return tuple(BodyName(BODY + key) for key in keys)


def keys(*given: str) -> tuple[MessageKey, ...]:
    return tuple(map(MessageKey, given))


def test_what_stands_before_the_newest_message_that_is_freed_is_hidden_unless_it_stays() -> None:
    said = names("a", "freed", "b", "c", "freed as well", "d", "new")
    left = [Delta("run", added=names("new"))]
    assert older_than_freed(names("a", "b", "c", "d"), left, said, {*names("b")}) == {"a", "c"}
    assert older_than_freed(names("a"), left, names("a", "new"), set()) == frozenset()


def test_of_changes_to_hidden_messages_only_what_they_added_besides_and_their_removals_are_left() -> None:
    others = Delta("run", added=names("x"))
    both = Delta("run", removed=keys("y"), added=names("hidden", "x"))
    alone = Delta("run", removed=keys("y"), added=names("hidden"))
    left = [others, both._replace(added=names("x")), alone._replace(after=WHERE_IT_IS)]
    assert without_hidden({*keys("hidden")}, [others, both, alone]) == left


def test_a_message_that_is_shown_is_placed_by_what_first_added_it_since_its_removal_and_said_by_the_newest() -> None:
    deltas = [
        Delta("run", added=names("a", "b"), position=1),
        Delta("run", added=names("c", "not shown"), position=2),
        Delta("run", removed=keys("a"), added=names("a"), position=3),
        Delta("run", added=names("b"), position=4),
        Delta("run", added=names("a", "only newer"), position=5),
    ]
    shown = {*keys("a", "b", "c", "only newer")}
    assert log_trimming._placing(deltas, 4, shown) == {1: {"b"}, 2: {"c"}, 3: {"a"}, 4: {"b"}, 5: {"a"}}


def test_where_something_was_removed_what_is_shown_and_not_in_the_head_keeps_the_change_that_has_it() -> None:
    has, removal = Delta("run", added=names("call"), position=1), Delta("run", removed=keys("gone"), position=2)
    assert log_trimming._needed([removal], [has, removal], {*names("call")}, ()) == [1]
    assert log_trimming._needed([removal], [has, removal], {*names("call")}, names("call")) == []


def test_of_a_freed_change_only_removals_that_the_head_has_not_seen_of_messages_that_it_hides_are_left() -> None:
    seen = Delta("run", removed=keys("hidden", "other"), position=1)
    deltas = [seen, seen._replace(position=2), Delta("run", removed=keys("hidden"), added=names("hidden"), position=3)]
    log = Log((), deltas, seen=Seen(1), hidden=frozenset(keys("hidden")))
    left = left_for_head(deltas, log, Spared(frozenset(), {}))
    assert left == [Delta("run", removed=keys("hidden"), position=2)]


def test_of_a_freed_change_nothing_is_left_of_an_edit_that_the_head_has_seen() -> None:
    change = Delta("run", added=names("edited", "said"), position=1)
    log = Log((), [change], names("edited"), Seen(0, (), ((1, *keys("edited")),)))
    assert left_for_head([change], log, Spared(frozenset(), {})) == []


def cut(over: int, deltas: list[Delta], removed: tuple[BodyName, ...] = ()) -> Change:
    """Cut messages of 100 bytes from a log without a head, where some were removed by what is not there any more."""
    bodies = tuple(name for delta in deltas for name in delta.added)
    said = tuple(name for name in bodies if name not in removed)
    entries = [Entry(delta.position, delta.payload(), delta.added) for delta in deltas]
    snapshot = Snapshot(0.0, blobs={name: Blob(b"x" * 100) for name in bodies}, lists={"log": entries})
    messages = {name: HumanMessage("x") for name in said}
    conversation = Conversation(said, messages, frozenset(), Log(entries, deltas), ())
    return with_fewer_messages(snapshot, Change(LEASE), over, Trimmed(deltas, frozenset()), conversation, Codec())


def test_the_oldest_messages_are_cut_only_where_what_was_removed_does_not_free_enough() -> None:
    deltas = [Delta("run", added=names(key), position=at) for at, key in enumerate(("gone", "a", "b"))]
    enough = cut(60, deltas, names("gone"))
    assert (enough.drop, enough.trim) == ([*names("gone")], {"log": {0}})
    more = cut(101, deltas, names("gone"))
    assert (more.drop, more.trim) == ([*names("a", "gone")], {"log": {0, 1}})


def test_a_change_whose_messages_are_cut_stays_where_it_removes_what_stays() -> None:
    moved = Delta("run", removed=keys("b"), added=names("a"), position=1)
    deltas = [moved, Delta("run", added=names("b"), position=2)]
    change = cut(60, deltas)
    assert change.drop == [*names("a")]
    assert change.trim == {"log": frozenset()}
    assert change.place[0] == ("log", Entry(1, moved._replace(added=()).payload()))
