"""Which checkpoints a session shows, and a write that frees as well: pure plans."""

from __future__ import annotations

from langchain_ttl_history.freeing import compaction
from langchain_ttl_history.freeing.compaction import combined
from langchain_ttl_history.freeing.pruning import within_cap
from langchain_ttl_history.index import Line
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.types import Blob, Change, Entry, Lease, Query
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
