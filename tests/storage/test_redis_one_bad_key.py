"""One key in Redis that is damaged, or holds something else, and what becomes of all the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from langchain_ttl_history import CorruptRecordError, Retention, SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis.commands import Eval
from langchain_ttl_history.storage.redis.requests import delete
from langchain_ttl_history.storage.types import Blob, Change, Lease, Query, Status, Usage
from langchain_ttl_history.testing import Clock
from tests.shared.one_session import FOREVER, KEY, LEASE
from tests.shared.redis_cases import admin_of, appended, context_of, keys_of, prefix_of, sending, stored_texts

Call = Callable[..., Any]

BAD = SessionKey("user 1", "s1")
EVERY = [SessionKey(f"user {user}", f"s{session}") for user in range(3) for session in range(2)]


def damage_record(admin: Any, user: bytes, session: bytes) -> bytes:
    admin.hset(session, "*", b"\xc1")
    return session


def retype_session(admin: Any, user: bytes, session: bytes) -> bytes:
    admin.delete(session)
    admin.set(session, "another program's")
    return session


def cut_entry(admin: Any, user: bytes, session: bytes) -> bytes:
    admin.hset(user, b"s" + session[-32:], b"\1")
    return user


def change_entry(admin: Any, user: bytes, session: bytes) -> bytes:
    entry = admin.hget(user, b"s" + session[-32:])
    admin.hset(user, b"s" + session[-32:], entry[:-1] + b"9")
    return user


def retype_user(admin: Any, user: bytes, session: bytes) -> bytes:
    admin.delete(user)
    admin.lpush(user, "another program's")
    return user


# What happens to BAD, and whether the error names its ids: an entry that is damaged may not tell them.
OF_SESSION = [damage_record, retype_session]
OF_ENTRY = [cut_entry, change_entry]
DAMAGES = [*OF_SESSION, *OF_ENTRY, retype_user]


def lost(damage: Any) -> set[SessionKey]:
    """The sessions that a damage hides from calls about many of them."""
    return {each for each in EVERY if each.user_id == BAD.user_id} if damage is retype_user else {BAD}


def filled(storage: RedisStorage) -> SessionBuffer:
    buffer = SessionBuffer(storage, retention=Retention(idle_ttl=100))
    for key in EVERY:
        buffer.history(*key).add_system_message("hello")
    return buffer


async def walk(call: Any, buffer: SessionBuffer, *, user: str | None = None) -> tuple[set[SessionKey], list[str]]:
    """The sessions that a list has, and its errors."""
    listing: Any = buffer.asessions(user, all_users=user is None)
    if call == "sync":
        listing = buffer.sessions(user, all_users=user is None)
    found, told = set(), []
    for _ in range(20):
        try:
            info = await anext(listing) if call == "async" else await asyncio.to_thread(next, listing, None)
        except StopAsyncIteration:
            return found, told
        except CorruptRecordError as error:
            told.append(str(error))
            continue
        if info is None:
            return found, told
        found.add(SessionKey(info.user_id, info.session_id))
    pytest.fail("the list does not end")


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_list_raises_one_error_that_names_the_key_and_goes_on_with_all_others(
    storage: RedisStorage, admin: Any, damage: Any, colour: str
) -> None:
    buffer = filled(storage)
    key = damage(admin, *keys_of(storage, BAD))
    found, told = await walk(colour, buffer)
    # Its entry says nothing of a session whose own key is sound, and that cannot be found without it.
    assert found == {*EVERY} - lost(damage)
    assert len(told) == 1
    assert key.decode() in told[0]
    if damage in OF_SESSION:
        assert str(tuple(BAD)) in told[0]
    found, told = await walk(colour, buffer, user=BAD.user_id)
    assert found == {each for each in EVERY if each.user_id == BAD.user_id} - lost(damage)
    assert [key.decode() in each for each in told] == [True]


async def test_each_damaged_entry_of_a_user_is_an_error_of_its_own(storage: RedisStorage, admin: Any) -> None:
    buffer = filled(storage)
    user, _ = keys_of(storage, BAD)
    for digest in (b"a" * 32, b"b" * 32):
        admin.hset(user, b"s" + digest, b"damaged")
    found, told = await walk("sync", buffer)
    assert found == {*EVERY}
    assert sorted(letter for letter in "ab" for each in told if letter * 32 in each) == ["a", "b"]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_stats_counts_all_others_and_warns_of_the_key(
    storage: RedisStorage, admin: Any, call: Call, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    buffer = filled(storage)
    whole = buffer.stats()
    assert not caplog.records
    key = damage(admin, *keys_of(storage, BAD))
    left = len(EVERY) - len(lost(damage))
    assert await call(buffer, "stats") == Usage(left, whole.bytes * left // len(EVERY))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name.startswith("langchain_ttl_history.")
    assert key.decode() in record.getMessage()
    if damage in OF_SESSION:
        assert str(tuple(BAD)) in record.getMessage()


async def test_a_session_whose_key_is_gone_holds_nothing_and_is_not_damaged(
    storage: RedisStorage, admin: Any, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in (("s1", b"12345"), ("s2", b"123")):
        storage.write(SessionKey("ada", name), Change(LEASE, blobs={"b": Blob(text)}))
    assert await call(storage, "usage") == Usage(2, 8)
    admin.delete(keys_of(storage)[1])
    assert await call(storage, "usage") == Usage(2, 3)
    assert not caplog.records


@pytest.mark.parametrize("damage", DAMAGES)
async def test_sweep_frees_all_others_and_warns_of_the_key(
    storage: RedisStorage, admin: Any, call: Call, clock: Clock, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    buffer = filled(storage)
    key = damage(admin, *keys_of(storage, BAD))
    clock.advance(111)
    assert await call(buffer, "sweep") == len(EVERY) - len(lost(damage))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert key.decode() in record.getMessage()
    if damage in OF_SESSION:
        assert str(tuple(BAD)) in record.getMessage()
    assert [admin.exists(keys_of(storage, each)[1]) for each in EVERY if each not in lost(damage)] == [0] * (
        len(EVERY) - len(lost(damage))
    )
    assert admin.exists(key)


async def test_a_damaged_tombstone_stops_no_sweep(
    storage: RedisStorage, admin: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = filled(storage)
    user, _ = keys_of(storage, BAD)
    admin.hset(user, b"t" + b"a" * 32, b"damaged")
    clock.advance(111)
    assert buffer.sweep() == len(EVERY)
    assert user.decode() in caplog.text
    assert "a" * 32 in caplog.text


async def test_a_warning_names_some_of_many(
    storage: RedisStorage, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = filled(storage)
    for number in range(50):
        admin.hset(keys_of(storage, BAD)[0], f"s{number}", b"damaged")
    assert buffer.stats().sessions == len(EVERY)
    (record,) = caplog.records
    assert record.getMessage().endswith("; and 45 more")


@pytest.mark.parametrize("name", ["x", "{x}", "{}", "{%s}0" % ("a" * 32), "{%s}" % ("g" * 32), "{%s}" % ("a" * 33)])
async def test_a_key_that_can_be_no_users_is_left_alone(
    storage: RedisStorage, admin: Any, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    buffer = filled(storage)
    foreign = f"{prefix_of(storage)}:{name}"
    admin.set(foreign, "another program's")
    assert await walk("sync", buffer) == ({*EVERY}, [])
    assert buffer.stats().sessions == len(EVERY)
    assert buffer.sweep() == 0
    assert admin.exists(foreign)
    assert not caplog.records


@pytest.mark.parametrize("verb", ["delete", "forget"])
@pytest.mark.parametrize("damage", [*OF_SESSION, *OF_ENTRY])
async def test_whatever_its_key_holds_a_session_can_be_deleted(
    storage: RedisStorage, admin: Any, call: Call, damage: Any, verb: str
) -> None:
    buffer = filled(storage)
    made = storage.read(BAD, Query()).generation
    user, session = keys_of(storage, BAD)
    damage(admin, user, session)
    if verb == "delete":
        assert await call(buffer, "delete", *BAD) is True
        assert buffer.info(BAD.user_id, "s0")
    else:
        assert await call(buffer, "forget", BAD.user_id) == 2
    assert not admin.exists(session)
    assert not admin.hexists(user, b"s" + session[-32:])
    assert admin.pttl(user) > 0
    # A turn that was running cannot bring it back.
    continued = Change(LEASE, append=[("log", b"x", ())])
    continued.guard = continued.guard._replace(generation=made)
    assert storage.write(BAD, continued).status is Status.DELETED


async def test_what_counts_the_sessions_without_a_deadline_stops_no_deletion_when_damaged(
    storage: RedisStorage, admin: Any
) -> None:
    for name in ("s1", "s2"):
        storage.write(SessionKey("ada", name), Change(FOREVER, append=[("log", b"x", ())]))
    user, _ = keys_of(storage, KEY)
    admin.hset(user, ".", b"\1")
    assert storage.delete(*KEY, 60.0) == 1
    assert admin.pttl(user) == -1  # The other one still has none.
    admin.hset(user, b"s" + keys_of(storage, SessionKey("ada", "s2"))[1][-32:], b"\1")
    assert storage.delete("ada", "s2", 60.0) == 1
    assert admin.pttl(user) > 0


@pytest.mark.parametrize("verb", ["delete", "forget"])
async def test_where_the_users_key_holds_something_else_nothing_is_deleted_and_the_error_tells_the_way_out(
    storage: RedisStorage, admin: Any, call: Call, verb: str
) -> None:
    buffer = filled(storage)
    user, session = keys_of(storage, BAD)
    retype_user(admin, user, session)
    with pytest.raises(CorruptRecordError, match=r"DEL") as refused:
        await call(buffer, verb, *(BAD if verb == "delete" else BAD[:1]))
    assert user.decode() in str(refused.value)
    assert admin.exists(session)
    admin.delete(user)
    assert buffer.delete(*BAD)
    assert not admin.exists(session)


@pytest.mark.parametrize("damage", [retype_session, retype_user])
async def test_every_use_of_a_session_names_the_key_that_holds_something_else(
    storage: RedisStorage, another: Callable[[], RedisStorage], admin: Any, call: Call, clock: Clock, damage: Any
) -> None:
    buffer = filled(storage)
    key = damage(admin, *keys_of(storage, BAD))
    clock.advance(50)  # From here on a use has to be recorded.
    for each in (buffer, SessionBuffer(another(), retention=Retention(idle_ttl=100))):
        history = each.history(*BAD)
        for owner, verb, *arguments in (
            (history, "add_system_message", "more"),
            (each.checkpointer(), "get_tuple", each.config(*BAD)),
            (each, "set_idle_ttl", *BAD, 50),
        ):
            with pytest.raises(CorruptRecordError) as refused:
                await call(owner, verb, *arguments)
            told = str(refused.value)
            assert told.startswith(f"session {tuple(BAD)}: ")
            assert key.decode() in told
            # For a user's key that is not the way.
            assert ("delete the session" in told) is (damage is retype_session)


async def test_a_record_that_a_script_cannot_read_names_its_key(storage: RedisStorage, admin: Any, call: Call) -> None:
    buffer = filled(storage)
    key = damage_record(admin, *keys_of(storage, BAD))
    with pytest.raises(CorruptRecordError, match=r"session \('user 1', 's1'\)") as refused:
        await call(buffer, "info", *BAD)
    assert key.decode() in str(refused.value)


@pytest.mark.parametrize("by_name", [False, True])
async def test_a_write_that_the_users_key_refuses_stores_nothing(
    storage: RedisStorage, another: Callable[[], RedisStorage], admin: Any, clock: Clock, *, by_name: bool
) -> None:
    storage.write(KEY, appended(b"one"))
    before = storage.read(KEY, Query()).position
    retype_user(admin, *keys_of(storage))
    clock.advance(50)
    # Another worker knows no numbers, and so takes the other script.
    writer = another() if by_name else storage
    with pytest.raises(CorruptRecordError):
        writer.write(KEY, appended(b"two"))
    found = another().read(KEY, Query())
    assert found.position == before
    assert await stored_texts(storage) == [b"one"]


async def test_a_damaged_entry_stops_no_other_session_from_being_created(storage: RedisStorage, admin: Any) -> None:
    storage.write(KEY, appended(b"one"))
    user, session = keys_of(storage)
    cut_entry(admin, user, session)
    admin.hset(user, b"t" + b"a" * 32, b"damaged")
    made = storage.write(SessionKey("ada", "new"), appended(b"one"))
    assert made.status is Status.STORED
    assert admin.exists(keys_of(storage, SessionKey("ada", "new"))[1])


async def test_a_field_that_is_no_text_stops_no_forgetting(storage: RedisStorage, admin: Any, call: Call) -> None:
    storage.write(KEY, appended(b"one"))
    user, session = keys_of(storage)
    admin.hset(user, b"s\xff\xfe", b"another's")
    assert await call(storage, "delete", "ada", None, 60.0) == 1
    assert not admin.exists(session)


async def test_a_write_that_is_stored_is_no_error_though_what_it_tidies_is_damaged(
    storage: RedisStorage, admin: Any, call: Call
) -> None:
    blobs = {f"m{number}": Blob(b"1") for number in range(60)}
    storage.write(KEY, Change(LEASE, blobs=blobs, append=[("log", b"first", ())]))
    admin.hset(keys_of(storage)[1], b"bm59", b"\0")
    change = Change(LEASE, drop=[*blobs][:50], append=[("log", b"second", ())])
    assert (await call(storage, "write", KEY, change)).status is Status.STORED
    assert [entry.payload for entry in storage.read(KEY, Query(("log",))).lists["log"]] == [b"first", b"second"]


async def test_a_damaged_count_is_made_anew_from_what_stays(real: RedisStorage) -> None:
    leases = {"pinned": FOREVER, "longest": Lease(2_000.0, None), "short": Lease(200.0, None)}
    for name, lease in leases.items():
        real.write(SessionKey("ada", name), Change(lease))
    user, _ = keys_of(real)
    with admin_of(real) as admin:
        for name, least, most in (("short", -1, -1), ("pinned", 1_900_000, 2_300_000), ("longest", 1, 70_000)):
            admin.hset(user, ".", b"\1")
            assert real.delete("ada", name, 60.0) == 1
            assert least <= admin.pttl(user) <= most


async def test_a_damaged_record_leaves_the_fence_that_it_would_have_had(
    storage: RedisStorage, admin: Any, clock: Clock
) -> None:
    made = storage.write(KEY, appended(b"one")).generation
    damage_record(admin, *keys_of(storage))
    clock.advance(-50)
    assert storage.delete(*KEY, 60.0) == 1
    assert storage.read(KEY, Query()).fence == made


async def test_a_damaged_tombstone_stops_no_deletion(storage: RedisStorage, admin: Any) -> None:
    storage.write(KEY, appended(b"one"))
    user, session = keys_of(storage)
    for stone in (b"t" + session[-32:], b"t"):
        admin.hset(user, stone, b"damaged")
    assert storage.delete(*KEY, 60.0) == 1
    assert not admin.exists(session)


async def test_a_sweep_frees_no_session_that_only_its_entry_says_is_over(storage: RedisStorage, admin: Any) -> None:
    storage.write(KEY, appended(b"one"))
    user, session = keys_of(storage)
    field = b"s" + session[-32:]
    entry = admin.hget(user, field)
    admin.hset(user, field, entry[:8] + (1).to_bytes(8, "big") + entry[16:])
    assert storage.sweep() == 0
    assert await stored_texts(storage) == [b"one"]


async def test_a_session_that_is_deleted_while_a_sweep_is_under_way_is_not_damaged(
    storage: RedisStorage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    storage.write(KEY, appended(b"one"))
    clock.advance(1_000)
    deleted: list[Any] = []

    def overtaken(send: Callable[[Any], Any], request: Any) -> Any:
        reply = send(request)
        if isinstance(request, Eval) and not deleted:
            deleted.append(next(delete(context_of(storage), KEY, 60.0)))
            send(deleted[0])
        return reply

    with sending(storage, overtaken):
        assert storage.sweep() == 0
    assert deleted
    assert not caplog.records


async def test_a_blob_that_is_gone_from_the_server_is_stored_anew_and_takes_no_others_name(
    storage: RedisStorage, another: Callable[[], RedisStorage], admin: Any
) -> None:
    storage.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(b"%d" % number) for number in range(5)}))
    admin.hdel(keys_of(storage)[1], "bm3")
    assert storage.write(KEY, Change(LEASE, blobs={"m3": Blob(b"anew")})).status is Status.STORED
    shows = Change(LEASE, blobs={"c": Blob(b"", ("m2", "m3"))})
    assert storage.write(KEY, shows).status is Status.STORED
    found = another().read(KEY, Query(("c",), ("m",))).blobs
    assert {name: blob.payload for name, blob in found.items()} == {"c": b"", "m2": b"2", "m3": b"anew"}
