"""What a process remembers of the numbers of blobs in Redis is never believed for too long."""

from __future__ import annotations

import pytest

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.base import Blob, Change, Query, Status
from langchain_ttl_history.storage.redis import numbers as numbers_module
from langchain_ttl_history.testing import Clock
from tests.storage.redis_cases import KEY, LEASE, another_worker, settings_of


@pytest.mark.parametrize("loses", [True, False])
def test_two_workers_that_remember_different_things_refer_to_the_same(storage: RedisStorage, *, loses: bool) -> None:
    """One of them drops and stores again what the other has numbers for."""
    one, other = storage, another_worker(storage)
    one.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(b"%d" % number) for number in range(5)}))
    other.write(KEY, Change(LEASE, drop=["m1", "m3"]))
    other.write(KEY, Change(LEASE, blobs={"m3": Blob(b"new")}))
    if loses:
        settings_of(one).numbers.forget(*KEY)
    refs = tuple(f"m{number}" for number in range(5))
    assert one.write(KEY, Change(LEASE, blobs={"c": Blob(b"", refs)})).missing == {"m1"}
    there = ("m0", "m2", "m3", "m4")
    assert one.write(KEY, Change(LEASE, blobs={"c": Blob(b"", there)})).status is Status.STORED
    for each in (one, other):
        found = each.read(KEY, Query(("c",), ("m",)))
        assert found.blobs["c"].refs == there
        assert found.blobs["m3"].payload == b"new"
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
    known = settings_of(storage).numbers
    assert known._size == sum(len(each.numbers) for each in known._known.values()) <= 50
    assert storage.write(SessionKey("ada", "s0"), Change(LEASE, blobs={"c": Blob(b"", ("m9", "m1"))})).status
