"""What a process remembers of the numbers of blobs in Redis is never believed for too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis import numbers as numbers_module
from langchain_ttl_history.storage.redis import writes
from langchain_ttl_history.storage.redis.commands import Script
from langchain_ttl_history.storage.types import Blob, Change, Query, Status
from langchain_ttl_history.testing import Clock
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import another_worker, context_of, sending


@pytest.mark.parametrize("loses", [True, False])
def test_two_workers_that_remember_different_things_refer_to_the_same(storage: RedisStorage, *, loses: bool) -> None:
    """One of them drops and stores again what the other has numbers for."""
    one, other = storage, another_worker(storage)
    one.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(b"%d" % number) for number in range(5)}))
    other.write(KEY, Change(LEASE, drop=["m1", "m3"]))
    other.write(KEY, Change(LEASE, blobs={"m3": Blob(b"new")}))
    if loses:
        context_of(one).numbers.forget(*KEY)
    refs = tuple(f"m{number}" for number in range(5))
    assert one.write(KEY, Change(LEASE, blobs={"c": Blob(b"", refs)})).missing == {"m1"}
    there = ("m0", "m2", "m3", "m4")
    assert one.write(KEY, Change(LEASE, blobs={"c": Blob(b"", there)})).status is Status.STORED
    for each in (one, other):
        found = each.read(KEY, Query(("c",), ("m",)))
        assert found.blobs["c"].refs == there
        assert found.blobs["m3"].payload == b"new"
    other.close()


def test_references_that_begin_within_a_table_and_end_in_another_keep_their_names(storage: RedisStorage) -> None:
    storage.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(b"%d" % number) for number in range(40)}))
    refs = tuple(f"m{number}" for number in range(10, 20))
    storage.write(KEY, Change(LEASE, blobs={"c": Blob(b"", refs)}))
    other = another_worker(storage)
    for query in (Query(("c",)), Query(("c",), ("m",))):
        found = other.read(KEY, query).blobs
        assert found.pop("c").refs == refs
        assert {*found} == {*(refs if query.follow else ())}
    other.close()


def test_a_new_name_keeps_its_number_though_all_others_of_its_table_went(storage: RedisStorage) -> None:
    names = [f"m{number}" for number in range(40)]
    storage.write(KEY, Change(LEASE, blobs={name: Blob(b"old") for name in names}))
    storage.write(KEY, Change(LEASE, drop=names))
    storage.write(KEY, Change(LEASE, blobs={"ma": Blob(b"a"), "mb": Blob(b"b")}))
    storage.write(KEY, Change(LEASE, blobs={"c": Blob(b"", ("mb", "ma"))}))
    other = another_worker(storage)
    assert other.read(KEY, Query(("c",), ("m",))).blobs == {
        "c": Blob(b"", ("mb", "ma")), "ma": Blob(b"a"), "mb": Blob(b"b"),
    }  # fmt: skip
    other.close()


def test_a_session_of_which_the_numbers_are_known_is_not_made_anew(storage: RedisStorage) -> None:
    begun = Change(LEASE, blobs={"m": Blob(b"m")}, append=[("log", b"1", ())], new=True)
    assert [storage.write(KEY, begun).status for _ in range(2)] == [Status.STORED, Status.MOVED]
    # Nor where the change depends on none of them.
    more = Change(LEASE, append=[("log", b"2", ())], new=True)
    assert storage.write(KEY, more).status is Status.MOVED
    assert storage.read(KEY, Query()).position == 1


def test_a_write_to_a_generation_that_another_worker_ended_is_refused(storage: RedisStorage, clock: Clock) -> None:
    other = another_worker(storage)
    old = storage.write(KEY, Change(LEASE)).generation
    other.delete(*KEY, 60.0)
    clock.advance(1)
    new = other.write(KEY, Change(LEASE)).generation
    append = [("log", b"1", ())]
    assert storage.write(KEY, Change(LEASE, append=append, at_generation=old)).status is Status.MOVED
    assert storage.write(KEY, Change(LEASE, append=append, at_generation=new)).status is Status.STORED
    other.close()


def test_numbers_of_a_session_that_is_no_more_are_not_believed(storage: RedisStorage, clock: Clock) -> None:
    other = another_worker(storage)
    storage.write(KEY, Change(LEASE, blobs={"m1": Blob(b"1"), "m2": Blob(b"2")}))
    other.delete(*KEY, 60.0)
    clock.advance(1)
    other.write(KEY, Change(LEASE, blobs={"m2": Blob(b"other"), "m1": Blob(b"one")}))
    assert storage.write(KEY, Change(LEASE, blobs={"c": Blob(b"", ("m1", "m2"))})).status is Status.STORED
    assert storage.read(KEY, Query(("c",))).blobs["c"].refs == ("m1", "m2")
    other.delete(*KEY, 60.0)
    clock.advance(1)
    assert storage.write(KEY, Change(LEASE, blobs={"c": Blob(b"", ("m1",))})).missing == {"m1"}
    other.close()


def test_what_is_remembered_of_numbers_is_bounded(storage: RedisStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers_module, "_MOST", 50)
    for number in range(20):
        key = SessionKey("ada", f"s{number}")
        storage.write(key, Change(LEASE, blobs={f"m{each}": Blob(b"") for each in range(10)}))
        storage.write(key, Change(LEASE, blobs={"c": Blob(b"", tuple(f"m{each}" for each in range(10)))}))
    known = context_of(storage).numbers
    assert {key: len(each.numbers) for key, each in known._known.items()} == {
        SessionKey("ada", "s18"): 11, SessionKey("ada", "s19"): 11,
    }  # fmt: skip
    for number in range(20):
        storage.write(SessionKey("bob", f"s{number}"), Change(LEASE))  # no names, yet something is remembered
    assert [*known._known] == [SessionKey("bob", f"s{number}") for number in range(15, 20)]
    assert known._size == 50
    storage.write(SessionKey("eve", "s0"), Change(LEASE, blobs={f"m{each}": Blob(b"") for each in range(60)}))
    assert [*known._known] == [SessionKey("eve", "s0")], "the newest is remembered, however large it is"
    assert known._size == 70
    assert storage.write(SessionKey("ada", "s0"), Change(LEASE, blobs={"c": Blob(b"", ("m9", "m1"))})).status


NAMES = tuple(f"m{number}" for number in range(20))


@pytest.mark.parametrize("of", ["blobs", "entries"])
@pytest.mark.parametrize("parts", [(NAMES, ("new",)), (("new",), NAMES)], ids=["first", "last"])
def test_numbers_that_only_a_part_of_a_write_depends_on_are_checked(
    storage: RedisStorage, another: Callable[[], RedisStorage], parts: tuple[tuple[str, ...], ...], of: str
) -> None:
    storage.write(KEY, Change(LEASE, blobs={name: Blob(b"1") for name in NAMES}))
    another().write(KEY, Change(LEASE, drop=["m3"]))
    change = Change(LEASE, blobs={"new": Blob(b"2")})
    if of == "entries":
        change.append = [("l", b"", refs) for refs in parts]
    else:
        change.blobs = {**change.blobs, "c1": Blob(b"", parts[0]), "c2": Blob(b"", parts[1])}
    assert storage.write(KEY, change).missing == {"m3"}


def scripts_for(storage: RedisStorage, change: Change) -> list[Script]:
    """Those by which a change is stored."""
    used: list[Script] = []

    def noted(send: Callable[[Any], Any], request: Any) -> Any:
        used.append(request.script)
        return send(request)

    with sending(storage, noted):
        assert storage.write(KEY, change).status is Status.STORED
    return used


def test_what_was_not_dropped_is_still_referred_to_by_number(
    storage: RedisStorage, another: Callable[[], RedisStorage]
) -> None:
    storage.write(KEY, Change(LEASE, blobs={name: Blob(b"1") for name in NAMES}))
    for name in ("m3", "m4"):
        storage.write(KEY, Change(LEASE, drop=[name]))
    assert scripts_for(storage, Change(LEASE, blobs={"c1": Blob(b"", NAMES[5:])})) == [writes._WRITE]
    another().write(KEY, Change(LEASE, drop=["m5"]))
    for each in (storage, another()):
        each.read(KEY, Query(("c1",), ("m",)))
        assert scripts_for(each, Change(LEASE, blobs={"c2": Blob(b"", ("c1", *NAMES[6:]))})) == [writes._WRITE]


@pytest.mark.parametrize(
    "change",
    [
        Change(LEASE, blobs={"new": Blob(b"2"), "c": Blob(b"", ("new",))}),
        Change(LEASE, blobs={"new": Blob(b"2")}, append=[("l", b"", ("new",))]),
    ],
)
def test_a_write_that_refers_to_nothing_stored_is_one_request_whatever_another_worker_dropped(
    storage: RedisStorage, another: Callable[[], RedisStorage], change: Change
) -> None:
    storage.write(KEY, Change(LEASE, blobs={name: Blob(b"1") for name in NAMES}))
    another().write(KEY, Change(LEASE, drop=["m3"]))
    assert scripts_for(storage, change) == [writes._WRITE]
