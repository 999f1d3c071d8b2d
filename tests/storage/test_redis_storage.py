"""What a storage in Redis promises beyond the contract: keys, costs, time, and what is left behind."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis
import redis.asyncio
import valkey
from langchain_core.messages import HumanMessage
from redis.crc import key_slot

from langchain_ttl_history import ConfigurationError, Retention, SessionBuffer
from langchain_ttl_history import storage as storages
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.base import Blob, Change, Entry, Guard, Lease, Query, Status
from langchain_ttl_history.storage.redis import numbers as numbers_module
from langchain_ttl_history.storage.redis import server_url
from langchain_ttl_history.testing import Clock
from tests import servers
from tests.storage.redis_cases import (
    abandon,
    admin_of,
    another_worker,
    assert_counts,
    clients_of,
    keys_of,
    kind_here,
    moved,
    open_cluster,
    open_redis,
    settings_of,
)

KEY = SessionKey("ada", "s1")
LEASE = Lease(100.0, None)
ODD = [
    "ada",
    "{",
    "}",
    "{}",
    "{a}",
    "}{",
    "a}{b",
    "{{a}}",
    "*",
    "?",
    "[a]",
    "\\",
    "🙂",
    "é",
    " ",
    ":",
    "\ud800",
    "x" * 500,
]


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_id", ODD)
def test_all_keys_of_a_user_are_in_one_slot(storage: RedisStorage, user_id: str) -> None:
    keys = settings_of(storage).keys
    of = [keys.of(SessionKey(user_id, session_id))[0] for session_id in ODD]
    assert len({key_slot(key) for pair in of for key in pair}) == 1
    assert len({session for _, session in of}) == len(ODD)
    for pair in of:
        for key in pair:
            tag = key[key.index(b"{") + 1 : key.index(b"}")]
            assert len(tag) == 32
            assert key.count(b"{") == key.count(b"}") == 1


def test_users_are_spread_over_the_slots(storage: RedisStorage) -> None:
    slots = {key_slot(settings_of(storage).keys.user(f"u{number}")) for number in range(1_000)}
    assert len(slots) > 900


def test_the_servers_agree_about_the_slots(clock: Clock) -> None:
    storage = open_cluster(clock)
    user, session = keys_of(storage)
    with admin_of(storage) as admin:
        assert {admin.execute_command("CLUSTER KEYSLOT", key) for key in (user, session)} == {key_slot(user)}
    storage.close()


def test_ids_come_back_as_they_were_given(storage: RedisStorage) -> None:
    keys = [SessionKey(user_id, session_id) for user_id in ODD for session_id in ODD]
    for key in keys:
        storage.write(key, Change(LEASE))
    listed, after = storage.sessions(None)
    assert after is None
    assert sorted(listed) == sorted(keys)
    assert sorted(storage.sessions("{")[0]) == sorted(key for key in keys if key.user_id == "{")


def test_a_prefix_keeps_two_applications_on_one_server_apart(storage: RedisStorage) -> None:
    mine, theirs = storage, open_redis(None)
    mine.write(KEY, Change(LEASE, blobs={"b": Blob(b"mine")}))
    assert theirs.read(KEY, Query(("b",))).generation == 0
    assert theirs.sessions(None) == ([], None)
    assert theirs.delete(*KEY, 60.0) == 0
    assert mine.read(KEY, Query(("b",))).blobs["b"].payload == b"mine"
    theirs.close()


@pytest.mark.parametrize("prefix", ["a*", "[ab]", "a?", "\\", "^", "a]"])
def test_a_prefix_may_hold_what_means_something_in_a_pattern(prefix: str) -> None:
    url = servers.shared(kind_here()).url
    storage, other = (RedisStorage(url, prefix=each) for each in (prefix, "ab"))
    other.write(SessionKey("bob", "s"), Change(LEASE))
    storage.write(KEY, Change(LEASE))
    assert storage.sessions(None)[0] == [KEY]
    for each in (storage, other):
        each.delete("ada", None, 0.001)
        each.delete("bob", None, 0.001)
        each.close()


# --- sizes ----------------------------------------------------------------------------------------


def test_a_write_and_a_read_may_be_larger_than_luas_stack(storage: RedisStorage, admin: redis.Redis) -> None:
    blobs = {f"m{number}": Blob(b"%d" % number) for number in range(20_000)}
    change = Change(LEASE, blobs=blobs, append=[("log", b"", (name,)) for name in blobs])
    change.append = [*change.append, ("all", b"", tuple(blobs))]
    outcome = storage.write(KEY, change)
    assert (outcome.position, outcome.weights["log"], outcome.weights["all"]) == (20_001, 40_000, 20_001)
    found = storage.read(KEY, Query(("log", "all"), ("m",)))
    assert found.blobs == blobs
    assert [entry.refs for entry in found.lists["log"]] == [(name,) for name in blobs]
    assert found.lists["all"][0].refs == tuple(blobs)
    assert storage.read(KEY, Query(outline=True)).blobs == blobs
    settings_of(storage).numbers.forget(KEY)
    by_name = storage.write(KEY, Change(LEASE, blobs={"c": Blob(b"", tuple(blobs))}))
    assert by_name.status is Status.STORED
    storage.write(KEY, Change(LEASE, drop=[*blobs, "c", "all"], trim={"log": frozenset(range(1, 20_001))}))
    left = storage.read(KEY, Query(outline=True))
    assert (left.blobs, left.lists, left.bytes) == ({}, {}, 0)
    _, session = keys_of(storage)
    assert_counts(admin.hgetall(session))
    assert admin.hlen(session) < 10


def test_an_append_to_a_session_of_50_000_messages_costs_what_is_new(storage: RedisStorage, admin: redis.Redis) -> None:
    buffer = SessionBuffer(storage, retention=Retention(max_messages=None, max_bytes=None))
    history = buffer.history("ada", "long")

    def add() -> None:
        for _ in range(50):
            history.add_messages([HumanMessage("new")])

    cost: dict[int, int] = {}
    total = 0
    for size in (100, 49_850):
        for start in range(0, size, 5_000):
            history.add_messages([HumanMessage(f"{start + each}") for each in range(min(5_000, size - start))])
        total += size
        cost[total] = moved(admin, add)
        total += 50
    assert cost[50_000] <= 2.5 * cost[100]
    assert len(history.messages) == 50_050
    # What is after a mark is read without what is before it.
    key = SessionKey("ada", "long")
    (last,) = storage.read(key, Query(("log",))).lists["log"][-1:]
    storage.write(key, Change(LEASE, blobs={"h": Blob(b"", mark=last.position - 1)}))
    found: list[Entry] = []

    def read() -> None:
        found.extend(storage.read(key, Query(after_mark=("log", "h"), follow=("m",))).lists["log"])

    assert moved(admin, read) < 3 * cost[50_000] / 50
    assert len(found) == 1


def test_what_was_dropped_leaves_nothing_behind_however_long_a_session_lives(
    storage: RedisStorage, admin: redis.Redis
) -> None:
    """A conversation whose window moves on: messages, a checkpoint for each, and a log."""
    _, session = keys_of(storage)
    names: list[str] = []
    sizes = []
    for number in range(1_500):
        names.append(f"m{number}")
        gone = names[:-40]
        names = names[-40:]
        drop = [*gone, f"c{number - 10}"] if number >= 10 else []
        change = Change(
            LEASE,
            blobs={
                names[-1]: Blob(b"x" * 50),
                f"c{number}": Blob(b"", tuple(names)),
                "h": Blob(b"", (f"c{number}",), number),
            },
            append=[("log", b"", (names[-1],))],
            drop=drop,
            trim={"log": frozenset({number - 30})},
        )
        assert storage.write(KEY, change).status is Status.STORED
        if number % 100 == 99:
            assert_counts(admin.hgetall(session))
            sizes.append(admin.memory_usage(session, samples=0))
    assert max(sizes[2:]) < 1.15 * min(sizes[2:])
    found = storage.read(KEY, Query(("h",), ("c", "m")))
    assert found.blobs["c1499"].refs == tuple(names)
    assert {*names} < {*found.blobs}


def test_references_to_what_was_dropped_keep_their_names(storage: RedisStorage) -> None:
    storage.write(KEY, Change(LEASE, blobs={"m1": Blob(b"1"), "m2": Blob(b"2"), "c": Blob(b"", ("m1", "m2", "m1"))}))
    storage.write(KEY, Change(LEASE, drop=["m1"]))
    for query in (Query(("c",)), Query(("c",), ("m",)), Query(outline=True)):
        assert storage.read(KEY, query).blobs["c"].refs == ("m1", "m2", "m1")
    again = storage.write(KEY, Change(LEASE, blobs={"m1": Blob(b"again")}))
    assert again.status is Status.STORED
    assert storage.read(KEY, Query(("c",), ("m",))).blobs["m1"].payload == b"again"


# --- what this process remembers of numbers ---------------------------------------------------------


@pytest.mark.parametrize("loses", [True, False])
def test_two_workers_that_remember_different_things_refer_to_the_same(storage: RedisStorage, *, loses: bool) -> None:
    """One of them drops and stores again what the other has numbers for."""
    one, other = storage, another_worker(storage)
    one.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(b"%d" % number) for number in range(5)}))
    other.write(KEY, Change(LEASE, drop=["m1", "m3"]))
    other.write(KEY, Change(LEASE, blobs={"m3": Blob(b"new")}))
    if loses:
        settings_of(one).numbers.forget(KEY)
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


# --- time -----------------------------------------------------------------------------------------


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
            time.sleep(0.02)
        assert real.read(KEY, Query(("b",))).generation == 0
        assert real.sessions("ada") == ([], None)
        servers.wait_for(lambda: not admin.exists(*keys), "the end of its keys")


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


# --- what is left behind ------------------------------------------------------------------------


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
    assert storage.delete("user-secret", None, 60.0) == 0


def test_many_sessions_of_one_user_are_listed_in_pages(storage: RedisStorage, clock: Clock) -> None:
    keys = [SessionKey("ada", f"s{number}") for number in range(12_000)]
    for key in keys:
        storage.write(key, Change(LEASE))
    storage.delete(*keys[0], 60.0)
    pages: list[list[SessionKey]] = []
    after: str | None = None
    while after is not None or not pages:
        page, after = storage.sessions("ada", after)
        pages.append(page)
    assert len(pages) > 1
    assert {key for page in pages for key in page} == {*keys[1:]}
    assert storage.usage().sessions == 11_999
    clock.advance(200)
    assert storage.sweep() == 11_999
    assert storage.usage() == (0, 0)


# --- who may do what ------------------------------------------------------------------------------


def test_a_worker_needs_no_scan(clock: Clock) -> None:
    server = servers.shared(kind_here())
    with server.admin() as admin:
        allowed = "+evalsha +eval +hget +hset +hmget +hgetall +hdel +hlen +hkeys +hscan +hexists +hrandfield"
        rights = f"reset on >secret ~lean* +del +pexpire +persist +time {allowed}"
        admin.execute_command("ACL SETUSER", "lean", *rights.split())
    storage = RedisStorage(f"redis://lean:secret@127.0.0.1:{server.port}", prefix="lean")
    buffer = SessionBuffer(storage)
    history = buffer.history("ada", "s1")
    history.add_messages([HumanMessage("hello")])
    buffer.set_idle_ttl("ada", "s1", 7_200)
    assert [each.messages for each in buffer.sessions("ada")] == [1]
    assert buffer.checkpointer().get_tuple(buffer.config("ada", "s1")) is not None
    assert buffer.delete("ada", "s1")
    assert buffer.forget("ada") == 0
    storage.close()


# --- clients and URLs -----------------------------------------------------------------------------


@pytest.mark.parametrize("library", [redis, valkey])
async def test_clients_of_either_driver_sync_async_or_both(library: Any) -> None:
    port = servers.shared(kind_here()).port
    name = library.__name__.title()
    sync = getattr(library, name)(port=port)
    asynchronous = getattr(sys.modules[f"{library.__name__}.asyncio"], name)(port=port)
    for storage in (RedisStorage(sync, prefix=name), RedisStorage(sync, asynchronous, prefix=name)):
        assert storage.write(KEY, Change(LEASE)).status is Status.STORED
    for storage in (RedisStorage(asynchronous, prefix=name), RedisStorage(None, asynchronous, prefix=name)):
        assert (await storage.aread(KEY, Query())).generation > 0
        with pytest.raises(ConfigurationError, match=r"RedisStorage\(client, async_client\)"):
            storage.read(KEY, Query())
    with pytest.raises(ConfigurationError, match=r"RedisStorage\(client, async_client\)"):
        await RedisStorage(sync).aread(KEY, Query())
    await RedisStorage(asynchronous, prefix=name).adelete("ada", None, 0.001)
    sync.close()
    await asynchronous.aclose()


@pytest.mark.parametrize(
    "arguments",
    [(), (42,), (None, None), ("",), ("http://x",), (object(), object()), (redis.asyncio.Redis(), redis.Redis())],
)
def test_what_is_no_client_is_refused(arguments: Any) -> None:
    with pytest.raises(ConfigurationError):
        RedisStorage(*arguments)


def test_a_sync_client_is_no_async_one() -> None:
    with pytest.raises(ConfigurationError, match="async_client must be an async client"):
        RedisStorage(None, redis.Redis())
    with pytest.raises(ConfigurationError, match="client must be a client"):
        RedisStorage(redis.asyncio.Redis(), redis.asyncio.Redis())


def test_clients_of_two_drivers_or_for_two_sorts_of_servers_are_refused() -> None:
    """The errors of one of them would be taken for those of the other, or not be known at all."""
    cluster = redis.asyncio.RedisCluster(host="localhost")
    for pair in (
        (redis.Redis(), valkey.asyncio.Valkey()),
        (valkey.Valkey(), redis.asyncio.Redis()),
        (redis.Redis(), cluster),
    ):
        with pytest.raises(ConfigurationError, match="of the same driver, and both of a cluster or neither"):
            RedisStorage(*pair)


def test_a_client_that_mixes_up_the_answers_of_threads_is_refused() -> None:
    port = servers.shared(kind_here()).port
    one = valkey.Valkey(port=port, single_connection_client=True)
    with pytest.raises(ConfigurationError, match="without single_connection_client"):
        RedisStorage(one)
    one.close()
    locked = redis.Redis(port=port, single_connection_client=True)
    assert RedisStorage(locked).read(KEY, Query()).generation == 0
    locked.close()


def test_a_url_takes_no_client_beside_it() -> None:
    with pytest.raises(ConfigurationError, match="async_client"):
        RedisStorage("redis://localhost", redis.asyncio.Redis())


@pytest.mark.parametrize("prefix", ["", "{a}", "a}", None, 3, b"a", "a\0", "\ud800"])
def test_a_prefix_without_sense_is_refused(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisStorage("redis://localhost", prefix=prefix)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("redis://localhost:1/2", "redis"),
        ("rediss://localhost:1", "redis"),
        ("valkey://localhost:1/2", "valkey"),
        ("valkeys://localhost:1", "valkey"),
        ("redis+cluster://localhost:1", "redis"),
        ("rediss+cluster://localhost:1", "redis"),
        ("valkey+cluster://localhost:1", "valkey"),
        ("valkeys+cluster://localhost:1", "valkey"),
    ],
)
async def test_a_url_needs_no_server_and_no_loop_until_it_is_used(url: str, driver: str) -> None:
    storage = RedisStorage(url)
    assert clients_of(storage).library == driver
    client = clients_of(storage).async_client()
    assert type(client).__module__.startswith(f"{driver}.asyncio")
    assert type(client).__name__.endswith("Cluster") == ("cluster" in url)
    if "cluster" not in url:
        sync = clients_of(storage).client()
        assert ("SSL" in sync.connection_pool.connection_class.__name__) == url.startswith(("rediss:", "valkeys:"))
        assert sync.connection_pool.connection_kwargs["port"] == 1
    assert repr(storage) == f"RedisStorage('{url}')"
    await storage.aclose()


@pytest.mark.parametrize("url", ["valkey://localhost:1", "valkeys+cluster://localhost:1"])
def test_a_url_is_understood_with_the_first_versions_of_a_driver(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before valkey-py 6.1.1 have no `parse_url` in this module."""

    def older(name: str) -> Any:
        module = import_module(name)
        if not name.endswith(".connection"):
            return module
        return SimpleNamespace(**{name: what for name, what in vars(module).items() if name != "parse_url"})

    monkeypatch.setattr(server_url, "import_module", older)
    assert repr(RedisStorage(url)) == f"RedisStorage('{url}')"


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:secret@localhost:1/0", "redis://localhost:1/0?username=me&password=secret",
        "redis://localhost:1?password=any@secret", "redis+cluster://localhost:1?password=secret",
    ],
)  # fmt: skip
def test_a_password_is_not_shown(url: str) -> None:
    assert "secret" not in repr(SessionBuffer(url))


@pytest.mark.parametrize("scheme", ["redis", "valkey", "redis+cluster"])
@pytest.mark.parametrize("password", ["secret/a", "secret#a", "secret?a", "a[secret", "a[secret]a"])
def test_a_password_that_breaks_its_url_is_not_shown_but_explained(scheme: str, password: str) -> None:
    url = f"{scheme}://:{password}@localhost:1/0"
    with contextlib.suppress(ValueError):
        if urlsplit(url).password == password:
            pytest.skip("before Python 3.11.4 a pair of brackets breaks no URL")
    with pytest.raises(ConfigurationError, match="quote") as refused:
        SessionBuffer(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None
    SessionBuffer(f"{scheme}://:{quote(password, safe='')}@localhost:1/0")


@pytest.mark.parametrize("library", [redis, valkey])
def test_what_a_driver_shows_of_a_client_is_not_shown(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions of redis-py show the password."""
    name = library.__name__.title()
    clients = [getattr(each, name)(host="here", password="secret") for each in (library, library.asyncio)]
    for each in clients:
        monkeypatch.setattr(type(each), "__repr__", lambda self: f"{self.connection_pool.connection_kwargs}")
    shown = repr(SessionBuffer(RedisStorage(*clients)))
    assert "secret" not in shown
    assert f"{library.__name__}.asyncio.{name}(host='here'" in shown
    with pytest.raises(ConfigurationError) as refused:
        RedisStorage(clients[1], clients[1])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:port", "redis://localhost?socket_timeout=x", "redis+tls://localhost",
        "redis://localhost?encoding=bogus", "valkey+cluster://localhost?encoding=bogus",
        "redis://localhost?socket_timeout=inf", "redis://localhost?socket_timeout=nan",
        "redis+cluster://localhost?socket_connect_timeout=0", "redis://localhost?socket_timeout=-1",
        "redis://localhost?bogus=1", "valkey://localhost?bogus=1", "redis+cluster://localhost?bogus=1",
        "redis://localhost?max_connections=-1", "redis://localhost?ssl_cert_reqs=none",
        "rediss://localhost?ssl_cert_reqs=some", "redis://localhost?protocol=9",
        "redis://localhost/sessions", "valkey://localhost/1/2", "redis://localhost/-1",
        "redis+cluster://localhost/3", "valkey+cluster://localhost?db=3", "redis+cluster://localhost/sessions",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_understood_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError):
        SessionBuffer(url)


def test_the_default_buffer_goes_by_the_environment() -> None:
    program = "from langchain_ttl_history import default_buffer; print(default_buffer())"
    environment = {"TTL_HISTORY_URL": "redis://localhost:1/0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "RedisStorage('redis://localhost:1/0')" in done.stdout


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_without_its_driver_a_url_names_the_extra(scheme: str) -> None:
    program = f"""
import sys
sys.modules[{scheme!r}] = None
from langchain_ttl_history import ConfigurationError, SessionBuffer
from langchain_ttl_history.storage import RedisStorage
try:
    SessionBuffer("{scheme}://localhost")
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"langchain-ttl-history[{scheme}]" in done.stdout


def test_the_storages_name_it() -> None:
    assert "RedisStorage" in storages.__all__
    assert storages.RedisStorage is RedisStorage
    with pytest.raises(AttributeError):
        _ = storages.NoStorage


def test_entries_may_be_placed_at_any_position_in_a_list_of_many_parts(storage: RedisStorage) -> None:
    """Longer than one part of a list, so that parts are made, found again and dropped."""
    size = 300
    for number in range(size):
        storage.write(KEY, Change(LEASE, append=[("l", b"%d" % number * 20, ()), ("k", b"", ())]))
    expected = {2 * number + 1: b"%d" % number * 20 for number in range(size)}

    def check() -> None:
        found = storage.read(KEY, Query(("l",)))
        assert {entry.position: entry.payload for entry in found.lists["l"]} == expected
        assert [entry.position for entry in found.lists["l"]] == sorted(expected)
        assert storage.read(KEY, Query(outline=True)).lists["l"] == found.lists["l"]
        assert found.bytes == sum(map(len, expected.values()))
        for mark in (0, 1, 299, 301, 598, 599, 1_000):
            storage.write(KEY, Change(LEASE, blobs={"h": Blob(b"", mark=mark)}))
            after = storage.read(KEY, Query(after_mark=("l", "h"))).lists["l"]
            assert [entry.position for entry in after] == [each for each in sorted(expected) if each > mark]

    check()

    def placed(at: int) -> tuple[str, Entry]:
        return "l", Entry(at, b"placed")

    storage.write(KEY, Change(LEASE, place=[placed(2), placed(301), placed(2_000)]))
    expected |= dict.fromkeys((2, 301, 2_000), b"placed")
    check()
    gone = frozenset(range(1, 400))
    storage.write(KEY, Change(LEASE, trim={"l": gone}))
    expected = {at: payload for at, payload in expected.items() if at not in gone}
    check()


def test_an_open_storage_is_left_without_a_trace(real: RedisStorage) -> None:
    abandon(real)
    assert real.read(KEY, Query()).generation == 0, "a closed storage opens again when it is used"
