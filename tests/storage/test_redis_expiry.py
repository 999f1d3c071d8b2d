"""Sessions in Redis end by the server's clock, and nothing is left of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.types import Blob, Change, Entry, Guard, Lease, Query, Status
from langchain_ttl_history.testing import Clock
from tests import servers
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import admin_of, context_of, keys_of, sending


def test_a_session_ends_by_the_servers_clock(real: RedisStorage) -> None:
    outcome = real.write(KEY, Change(Lease(1.0, None), blobs={"b": Blob(b"1")}))
    found = real.read(KEY, Query(("b",)))
    assert abs(found.now - time.time()) < 60
    assert outcome.generation == round(found.created_at * 1_000_000)
    assert found.expires_at is not None
    assert found.last_used_at + 1.0 <= found.expires_at <= found.last_used_at + 1.1 + 1e-3
    with admin_of(real) as admin:
        keys = [*keys_of(real)]
        for key in keys:
            assert 0 < admin.pttl(key) <= 1_101
        while real.read(KEY, Query()).now < found.expires_at:
            assert real.read(KEY, Query(("b",))).blobs or real.read(KEY, Query()).now >= found.expires_at
            time.sleep(0.02)  # the server keeps the time
        assert real.read(KEY, Query(("b",))).generation == 0
        assert real.sessions("ada") == ([], None)
        servers.wait_for(lambda: not admin.exists(*keys), "the end of its keys")


def test_a_server_frees_what_a_session_held_in_the_background(server: servers.Server, clock: Clock) -> None:
    storage = RedisStorage(server.url, clock=clock)
    large = Change(LEASE, blobs={f"m{number}": Blob(b"x" * 100) for number in range(1_000)})
    for end in (lambda: storage.write(KEY, large), storage.sweep):
        storage.write(KEY, large)
        clock.advance(1_000)
        end()  # The first begins a new session in the place of the old one.
    storage.write(KEY, large)
    storage.delete(*KEY, 60.0)
    with server.admin() as admin:
        used = admin.info("commandstats")
        assert (used["cmdstat_unlink"]["calls"], "cmdstat_del" in used) == (3, False)
        assert not admin.exists(keys_of(storage)[1])
    storage.close()


def test_a_tombstone_goes_by_itself(real: RedisStorage) -> None:
    old = real.write(KEY, Change(LEASE)).generation
    real.delete(*KEY, 1.0)
    assert real.write(KEY, Change(LEASE, Guard(old))).status is Status.DELETED
    with admin_of(real) as admin:
        user, session = keys_of(real)
        assert not admin.exists(session)
        # Its time is over with the session's, which a moment ago would have been the later one.
        assert 0 < admin.pttl(user) <= 110_001
    servers.wait_for(lambda: real.read(KEY, Query()).fence == 0, "the end of the tombstone")


@pytest.mark.parametrize("last", ["write", "delete"])
def test_what_is_known_of_a_user_stays_as_long_as_any_session_does(real: RedisStorage, last: str) -> None:
    real.write(KEY, Change(Lease(1_000.0, None)))
    if last == "write":
        real.write(SessionKey("ada", "s2"), Change(Lease(10.0, None)))
    else:
        real.delete("ada", "s2", 10.0)
    with admin_of(real) as admin:
        user, session = keys_of(real)
        assert admin.pttl(user) > 900_000
        assert admin.pttl(session) > 900_000


@pytest.mark.parametrize("use", ["read", "append", "change"])
def test_a_use_prolongs_the_life_of_both_keys(real: RedisStorage, use: str) -> None:
    real.write(KEY, Change(Lease(10.0, None), append=[("log", b"1", ())]))
    longer = Lease(1_000.0, None)
    if use == "read":
        assert real.read(KEY, Query(lease=longer)).generation
    else:
        real.write(KEY, Change(longer, append=[("log", b"2", ())], drop=["m"] if use == "change" else ()))
    with admin_of(real) as admin:
        assert min(admin.pttl(key) for key in keys_of(real)) > 900_000


def test_a_shorter_idle_time_of_its_own_forgets_no_read(storage: RedisStorage, clock: Clock) -> None:
    storage.write(KEY, Change(LEASE, blobs={"b": Blob(b"1")}))
    clock.advance(9)
    storage.read(KEY, Query(lease=LEASE))
    storage.write(KEY, Change(LEASE, idle_ttl=10.0, upkeep=True))
    clock.advance(9.9)
    assert storage.read(KEY, Query(("b",))).blobs
    clock.advance(2)
    assert not storage.read(KEY, Query(("b",))).blobs


@pytest.mark.parametrize(
    "use",
    [
        lambda storage: storage.write(KEY, Change(LEASE, append=[("l", b"1", ())])),
        lambda storage: storage.write(KEY, Change(LEASE, place=[("l", Entry(9, b"1", ()))])),
        lambda storage: storage.read(KEY, Query(lease=LEASE)),
    ],
    ids=["write.lua", "change.lua", "read.lua"],
)
def test_a_request_that_comes_in_behind_a_later_one_ends_no_session_sooner(
    storage: RedisStorage, clock: Clock, use: Callable[[RedisStorage], object]
) -> None:
    storage.write(KEY, Change(LEASE))
    waiting = [True]

    def overtaken(send: Callable[[Any], Any], request: Any) -> Any:
        if waiting:
            waiting.clear()
            clock.advance(100)
            storage.write(KEY, Change(LEASE))
        return send(request)

    with sending(storage, overtaken):
        use(storage)
    clock.advance(99.99)
    assert storage.read(KEY, Query()).generation


@pytest.mark.parametrize("session_id", ["s1", None], ids=["session", "user"])
def test_a_clock_that_is_set_back_lowers_no_fence(storage: RedisStorage, clock: Clock, session_id: str | None) -> None:
    old = storage.write(KEY, Change(LEASE)).generation
    storage.delete("ada", session_id, 1_000.0)
    clock.advance(-100)
    storage.delete("ada", session_id, 1_000.0)
    assert storage.read(KEY, Query()).fence >= old
    assert storage.write(KEY, Change(LEASE, Guard(old))).status is Status.DELETED


def test_a_session_that_is_older_than_a_read_allows_leaves_no_key_for_ever(real: RedisStorage) -> None:
    real.write(KEY, Change(LEASE, blobs={"b": Blob(b"1")}))
    assert real.read(KEY, Query(("b",), lease=Lease(100.0, 1e-6))).generation == 0
    with admin_of(real) as admin:
        assert -1 not in [admin.pttl(key) for key in keys_of(real)]


def test_a_sweep_frees_tombstones_that_ended(storage: RedisStorage, clock: Clock, admin: redis.Redis) -> None:
    user, _ = keys_of(storage)
    storage.write(KEY, Change(LEASE, idle_ttl=None))
    storage.delete("ada", "s2", 50.0)
    storage.delete("ada", "s3", 500.0)

    def tombstones() -> int:
        return sum(field.startswith(b"t") for field in admin.hkeys(user))

    clock.advance(49)
    storage.sweep()
    assert tombstones() == 2
    clock.advance(1)
    storage.sweep()
    assert tombstones() == 1


def test_most_reads_write_nothing(storage: RedisStorage, clock: Clock, admin: redis.Redis) -> None:
    storage.write(KEY, Change(LEASE, blobs={"b": Blob(b"1")}))
    admin.config_resetstat()
    for _ in range(9):
        clock.advance(1)
        storage.read(KEY, Query(("b",), lease=LEASE))
    stats = admin.info("commandstats")
    assert "cmdstat_hset" not in stats
    assert "cmdstat_pexpire" not in stats
    clock.advance(1.01)
    storage.read(KEY, Query(("b",), lease=LEASE))
    assert admin.info("commandstats")["cmdstat_hset"]["calls"] == 2


def test_keys_have_a_deadline_but_for_sessions_without_one(storage: RedisStorage, admin: redis.Redis) -> None:
    user, session = keys_of(storage)
    steps: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"idle_ttl": None}, True),
        ({"idle_ttl": 50.0, "upkeep": True}, False),
        ({"idle_ttl": None, "upkeep": True}, True),
        ({"lease": Lease(100.0, 200.0)}, False),
        ({"lease": Lease(None, None)}, True),
        ({"idle_ttl": 10.0}, False),
    ]
    for change, endless in steps:
        storage.write(KEY, Change(**{"lease": LEASE, **change}))
        assert [admin.pttl(key) == -1 for key in (user, session)] == [endless, endless], change
    other = SessionKey("ada", "s2")
    storage.write(other, Change(LEASE, idle_ttl=None))
    assert admin.pttl(user) == -1
    storage.delete(*other, 60.0)
    assert admin.pttl(user) > 0


def test_creating_sessions_frees_what_is_left_of_those_that_are_over(
    storage: RedisStorage, clock: Clock, admin: redis.Redis
) -> None:
    user, _ = keys_of(storage)
    most = 0
    for number in range(2_000):
        storage.write(SessionKey("ada", f"s{number}"), Change(Lease(10.0, None)))
        if number % 3 == 0:
            storage.delete("ada", f"s{number}", 10.0)
        clock.advance(0.5)
        most = max(most, admin.hlen(user))
    assert most < 150


def test_nothing_is_left_of_a_user_who_was_forgotten_but_digests(storage: RedisStorage, admin: redis.Redis) -> None:
    for number in range(3):
        key = SessionKey("user-secret", f"session-secret-{number}")
        storage.write(key, Change(LEASE, blobs={"m-secret": Blob(b"said-secret")}, append=[("l", b"secret", ())]))
    assert storage.delete("user-secret", None, 60.0) == 3
    assert b"secret" not in b"\n".join(servers.dumped(admin))
    assert context_of(storage).numbers.of(SessionKey("user-secret", "session-secret-0")) is None
    assert storage.delete("user-secret", None, 60.0) == 0


@pytest.mark.parametrize("lease", [Lease(None, None), Lease(100.0, 1_000.0)], ids=["endless", "aging"])
def test_most_reads_write_nothing_whatever_ends_the_session(
    storage: RedisStorage, clock: Clock, admin: redis.Redis, lease: Lease
) -> None:
    storage.write(KEY, Change(lease))
    clock.advance(0.05)
    admin.config_resetstat()
    storage.read(KEY, Query(lease=lease))
    assert "cmdstat_hset" not in admin.info("commandstats")


@pytest.mark.parametrize("use", ["create", "append", "change", "read"])
def test_a_key_lives_exactly_as_long_as_its_session(real: RedisStorage, use: str) -> None:
    long = Lease(1_000_000.0, None)
    real.write(KEY, Change(long if use == "create" else LEASE))
    if use == "read":
        real.read(KEY, Query(lease=long))
    elif use != "create":
        real.write(KEY, Change(long, append=[("l", b"1", ())], drop=["b"] if use == "change" else ()))
    ends = real.read(KEY, Query()).expires_at or 0.0
    with admin_of(real) as admin:
        for key in keys_of(real):
            before = admin.time()[0]
            left = admin.pttl(key) / 1_000
            assert before + left <= ends + 1
            assert ends <= admin.time()[0] + 1 + left


def test_deleting_a_session_leaves_the_deadlines_of_others(real: RedisStorage) -> None:
    other = SessionKey("ada", "s2")
    real.write(KEY, Change(LEASE))
    real.write(other, Change(LEASE, idle_ttl=None))
    real.delete(*KEY, 60.0)
    with admin_of(real) as admin:
        user, _ = keys_of(real)
        assert admin.pttl(user) == -1
        real.write(KEY, Change(Lease(1_000.0, None)))
        real.delete(*other, 60.0)
        assert admin.pttl(user) > 900_000
        real.delete(*KEY, 2_000.0)
        assert admin.pttl(user) > 1_900_000


@pytest.mark.parametrize("session_id", ["s1", "never"])
def test_deleting_a_session_looks_at_no_other(storage: RedisStorage, admin: redis.Redis, session_id: str) -> None:
    for number in range(3):
        storage.write(SessionKey("ada", f"s{number}"), Change(LEASE))
    admin.config_resetstat()
    storage.delete("ada", session_id, 60.0)
    assert "cmdstat_hgetall" not in admin.info("commandstats")
