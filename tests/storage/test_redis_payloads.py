"""Payloads and names come back as they were given, however Redis holds them, and count as they were given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import ormsgpack
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_ttl_history import CorruptRecordError
from langchain_ttl_history.keys import encoded
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis import payloads as payloads_module
from langchain_ttl_history.storage.redis.names import full_name, short_name
from langchain_ttl_history.storage.redis.payloads import full_payload, short_entry, short_record
from langchain_ttl_history.storage.types import Blob, Change, Entry, Query
from langchain_ttl_history.testing import Clock
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import another_worker, assert_counts, context_of, keys_of

_pieces = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([*payloads_module._WORDS, b"\xc1", b"\xc1\0", b"\xc1\1", b"\xd9$", b"\n"]),
    st.uuids().map(lambda each: b"\xd9$" + str(each).encode()),
    st.uuids().map(lambda each: 2 * (b"\xd9$" + str(each).encode())),
    st.uuids().map(lambda each: b"\xd9$" + str(each).upper().encode()),
)
_times = st.one_of(
    st.datetimes().map(lambda each: each.isoformat(timespec="microseconds")), st.just("2026-02-30T25:61:61.0000001")
)
_heads = st.one_of(st.just(b""), _times.map(lambda each: payloads_module._HEAD + each.encode()))
_records = st.tuples(_heads, st.lists(_pieces, max_size=12).map(b"".join)).map(b"".join)


def whole(short: bytes) -> bytes:
    """What stands behind its length."""
    return full_payload(short[4:], int.from_bytes(short[:4], "big"))


@given(_records)
@example(b"\xc1" + b"".join(payloads_module._WORDS))
@example(b"".join(payloads_module._WORDS))
@example(payloads_module._HEAD + b"2026-11-26 03:49:55.277471")  # A time as nobody writes it here.
@example(b"x" * len(payloads_module._HEAD) + b"2026-11-26T03:49:55.277471")
def test_a_record_comes_back_as_it_was(payload: bytes) -> None:
    short = short_record(payload)
    assert short is None or (len(short) < len(payload) and whole(short) == payload)
    stored, full = short_entry(payload)
    assert (full_payload(stored, full) if full else stored) == payload
    assert full in (0, len(payload))


def test_records_and_entries_take_less() -> None:
    payload = record()
    assert len(short_record(payload) or payload) < 0.6 * len(payload)
    assert len(short_entry(payload)[0]) < 0.8 * len(payload)
    assert short_entry(payload * 1_000) == (payload * 1_000, 0)
    id = b"\xd9$" + str(uuid4()).encode()
    assert len(short_entry(2 * id)[0]) == len(short_entry(id)[0]) + 2
    timed = payloads_module._HEAD + b"2026-11-26T03:49:55.277471+00:00\xa2id" + id
    assert len(short_record(timed) or timed) < 0.5 * len(timed)


def test_what_was_stored_before_is_read_for_ever() -> None:
    """Words have their codes by their order, so none may ever be moved."""
    short = bytes.fromhex("c10213c10500c1000123456789abcdef0123456789abcdef")
    expected = b"\xadversions_seen\x13\xa9__input__\x80\0\xd9$01234567-89ab-cdef-0123-456789abcdef"
    assert full_payload(short, len(expected)) == expected
    assert payloads_module._WORDS[15] == b"\x92\x00\xc4\x01\xc0"
    assert payloads_module._WORDS[-1] == b"\x92\x93\x00\xa8messages\x93\x02\x00\x01\x93\x01"
    assert len(payloads_module._WORDS) == 23
    short = bytes.fromhex("c1fd00e32124d5599a9fc109c1000123456789abcdef0123456789abcdefc1fe")
    id = b"\xd9$01234567-89ab-cdef-0123-456789abcdef"
    expected = b"\x9d\x01\x86\xa1v\x04\xa2ts\xd9 2026-11-26T03:49:55.277471+00:00\xa2id" + id + id
    assert full_payload(short, len(expected)) == expected


@pytest.mark.parametrize(
    "short", [b"four", b"\xc1\xfc", b"\xc1", b"a\xc1", b"\xc1\0123", b"\xc1\1", b"\xc1\xfe", b"\xc1\xfd" + 8 * b"\xff"]
)
def test_a_damaged_payload_is_an_error(short: bytes) -> None:
    with pytest.raises(CorruptRecordError):
        full_payload(short, 3)


# --- in a session -----------------------------------------------------------------------------------


def record(*more: Any) -> bytes:
    """Such a record as checkpoints are."""
    words = {"channel_versions": {"messages": 1}, "versions_seen": {"__start__": {}}, "updated_channels": ["messages"]}
    return ormsgpack.packb([words, *(str(uuid4()) for _ in range(3)), *more])


@pytest.mark.parametrize("known", [True, False])
def test_a_session_counts_payloads_as_they_were_given(
    storage: RedisStorage, admin: redis.Redis, *, known: bool
) -> None:
    """By both scripts that write, set anew with shorter and longer ones, cut and dropped."""
    text, other = b"a text, " * 200, record("another", *(str(uuid4()) for _ in range(20)))
    expected: dict[str, Blob] = {}
    log: list[Entry] = []

    def write(**change: Any) -> None:
        if not known:
            context_of(storage).numbers.forget(*KEY)
        outcome = storage.write(KEY, Change(LEASE, **change))
        expected.update(change.get("blobs", {}))
        for name in change.get("drop", ()):
            expected.pop(name)
        for _, payload, refs in change.get("append", ()):
            log.append(Entry(outcome.position, payload, refs))
        placed = {entry.position: entry for _, entry in change.get("place", ())}
        log[:] = sorted([*placed.values(), *(entry for entry in log if entry.position not in placed)])
        gone = change.get("trim", {}).get("log", ())
        log[:] = [entry for entry in log if entry.position not in gone]
        fresh = another_worker(storage)
        for each in (storage, fresh):
            found = each.read(KEY, Query(outline=True))
            assert found.blobs == expected
            assert list(found.lists.get("log", ())) == log
            assert found.bytes == outcome.bytes == sum(map(len, given_payloads()))
        fresh.close()
        _, session = keys_of(storage)
        assert_counts(admin.hgetall(session))

    def given_payloads() -> Iterator[bytes]:
        yield from (blob.payload for blob in expected.values())
        yield from (entry.payload for entry in log)

    write(blobs={"m1": Blob(text), "m2": Blob(b"short"), "c1": Blob(record(), ("m1", "m2"), 7, ("log",))})
    for number in range(30):
        write(append=[("log", record(number), ("m1",))])
    for blob in (Blob(other), Blob(b"", ("m2",)), Blob(text), Blob(record(), ("m2",)), Blob(other, ("m2",))):
        write(blobs={"m1": blob})
        write(blobs={"m1": blob})
    write(trim={"log": frozenset({1, 2, 3, 17, 30})})
    write(place=[("log", Entry(9, record("placed"))), ("log", Entry(40, b"last"))])
    write(drop=["m1"])
    write(trim={"log": frozenset(range(39))})
    assert storage.read(KEY, Query(outline=True)).bytes == sum(map(len, given_payloads()))


# --- names --------------------------------------------------------------------------------------------

_name_pieces = st.one_of(
    st.text(max_size=3),
    st.sampled_from(["m", "c\0", "\1", "\2", "\3", "\4", "-", "é", "\ud800"]),
    st.uuids().map(str),
    st.binary(min_size=12, max_size=12).map(bytes.hex),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.text("0123456789abcdef-", max_size=40),
)


@given(st.lists(_name_pieces, max_size=6).map("".join))
def test_a_name_comes_back_as_it_was_and_begins_as_it_did(name: str) -> None:
    short = short_name(name)
    assert full_name(encoded(short)) == name
    assert short[:1] == name[:1]


def test_names_of_the_usual_sorts_take_less() -> None:
    each, digest = str(uuid4()), os.urandom(12).hex()
    usual = {
        f"m{digest}{each}": 41,
        f"c\0{each}": 25,
        f"w\0{each}": 25,
        f"m{digest}": 18,
        f"v{os.urandom(16).hex()}": 24,
    }
    assert {name: len(short_name(name)) for name in usual} == usual


def test_blobs_and_lists_of_any_names_are_found_by_every_verb(storage: RedisStorage) -> None:
    each, digest = str(uuid4()), os.urandom(12).hex()
    content, message, value = f"m{digest}", f"m{digest}{each}", f"v{digest}{digest[:8]}"
    checkpoint, writes = f"c\0{each}", f"w\0{each}"
    odd = "m\1\2\3\4" + each
    blobs = {
        content: Blob(b"1"), message: Blob(b"", (content,)), odd: Blob(b"3"), value: Blob(b"4"),
        checkpoint: Blob(b"5", (message, odd, value), 1, (writes,)),
    }  # fmt: skip
    storage.write(KEY, Change(LEASE, blobs=blobs, append=[(writes, b"6", (message, checkpoint))]))
    storage.write(KEY, Change(LEASE, blobs=blobs, append=[(writes, b"7", (odd,)), ("log", b"8", ())]))
    assert {*context_of(storage).numbers.of(KEY).numbers} == {*blobs}
    for fresh in (False, True):
        if fresh:
            context_of(storage).mirrors.forget(*KEY)
        found = storage.read(KEY, Query((checkpoint,), ("m", "v", "w"), (writes, checkpoint)))
        assert found.blobs == blobs
        assert [entry.refs for entry in found.lists[writes]] == [(odd,)]
        assert storage.read(KEY, Query(outline=True)).blobs == blobs
        assert storage.read(KEY, Query((), outline_over={writes: 4})).outline
    assert storage.write(KEY, Change(LEASE, blobs={"c": Blob(b"", (f"{content}0",))})).missing == {f"{content}0"}
    assert storage.write(KEY, Change(LEASE, place=[(writes, Entry(9, b"", (content,)))])).weights == {writes: 7}
    storage.write(KEY, Change(LEASE, drop=[message, writes], trim={"log": frozenset({3})}))
    found = storage.read(KEY, Query(outline=True))
    assert ({*found.blobs}, found.lists) == ({*blobs} - {message}, {})
    assert found.blobs[checkpoint] == blobs[checkpoint]


@pytest.mark.parametrize("before", [191, 192, 0xC0FF - 1, 0xC0FF, 0xC0FFFF])
def test_no_position_that_follows_another_has_the_byte_that_keeps_records_from_being_shortened(
    storage: RedisStorage, before: int
) -> None:
    storage.write(KEY, Change(LEASE, place=[("l", Entry(before, b"", ()))]))
    for _ in range(3):
        position = storage.write(KEY, Change(LEASE, append=[("l", b"", ())])).position
        assert before < position <= before + 0x10001
        assert 193 not in position.to_bytes(6, "big")
        before = position


@pytest.mark.parametrize("quarters", [192, 193, 255, 193 * 255 - 1, 193 * 255, 194 * 255])
def test_no_position_that_tells_an_age_has_it_either(storage: RedisStorage, clock: Clock, quarters: int) -> None:
    storage.write(KEY, Change(LEASE))
    clock.advance(quarters / 4_000)
    position = storage.write(KEY, Change(LEASE, append=[("l", b"", ())])).position
    assert position >= quarters - 1
    assert 193 not in position.to_bytes(6, "big")


def test_what_is_no_record_is_stored_as_it_is(storage: RedisStorage) -> None:
    payload = b"\xa8messages" * 20
    for _ in range(2):  # The first is written by names, the second by numbers.
        storage.write(KEY, Change(LEASE, blobs={"m": Blob(payload), "also": Blob(payload, also=("m",))}))
        found = storage.read(KEY, Query(("m", "also")))
        assert ({each.payload for each in found.blobs.values()}, found.bytes) == ({payload}, 2 * len(payload))
        payload += b"more"
