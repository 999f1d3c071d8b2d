"""Which clients and URLs a storage on Redis takes, and what it says of those that it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import traceback
from contextlib import closing
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from inspect import isawaitable
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis
import redis.asyncio
import valkey

from langchain_ttl_history import ConfigurationError, SessionBuffer
from langchain_ttl_history import storage as storages
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis import drivers, server_url
from langchain_ttl_history.storage.redis.clients import ClientsOfURL
from langchain_ttl_history.storage.redis.server_url import ServerURL
from langchain_ttl_history.storage.types import Change, Query, Status
from tests import servers
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import abandon, clients_of, kind_here, open_cluster, open_redis


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


def test_what_a_driver_has_besides_clients_is_refused() -> None:
    """The answers of a pipeline are itself, which would be taken for a damaged session."""
    for other in (
        redis.Redis().pipeline(),
        redis.Redis().pubsub(),
        redis.Redis().lock("x"),
        redis.ConnectionPool(),
        redis.asyncio.Redis().pipeline(),
        valkey.Valkey().pipeline(),
    ):
        with pytest.raises(ConfigurationError, match=f"not (redis|valkey).*{type(other).__name__}"):
            RedisStorage(other)
    with pytest.raises(ConfigurationError, match=r"pass its master_for\(name\)"):
        RedisStorage(redis.Sentinel([("localhost", 1)]))


def test_a_client_of_a_class_of_ones_own_is_one_whatever_it_is_called() -> None:
    class PipelineRedis(redis.Redis):
        """A client of a program that deals with pipelines."""

    assert RedisStorage(PipelineRedis()).private is False


class Made:
    """Stands in for a client of either colour."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.is_closed = True


def test_all_threads_share_one_client_and_each_loop_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = ClientsOfURL("redis://localhost")
    made: list[Made] = []

    def make(*, asynchronous: bool) -> Made:
        made.append(Made())
        client = made[-1]
        if len(made) == 1:
            clients.client()  # Another thread is faster.
        return client

    async def of_loop() -> Any:
        return clients.async_client()

    monkeypatch.setattr(clients.url, "client", make)
    shared = clients.client()
    assert clients.client() is shared is made[1]
    assert [each.is_closed for each in made] == [True, False]

    loops = [asyncio.new_event_loop() for _ in range(3)]
    own = [loop.run_until_complete(of_loop()) for loop in loops[:2]]
    assert [loop.run_until_complete(of_loop()) for loop in loops[:2]] == own == made[2:]
    loops[0].run_until_complete(clients.aclose())
    assert [each.is_closed for each in made] == [True, True, True, False]
    assert loops[0].run_until_complete(of_loop()) is not own[0]
    assert clients.client() is not shared
    for loop in loops[:2]:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert loops[2].run_until_complete(of_loop()) is made[-1]
    assert [*clients._async_clients] == loops[2:]
    loops[2].run_until_complete(clients.aclose())
    loops[2].close()
    assert all(each.is_closed for each in made)


def test_closing_a_storage_closes_the_client_that_it_made() -> None:
    storage = RedisStorage("redis://localhost")
    client = clients_of(storage).client()
    assert clients_of(storage).client() is client
    storage.close()
    assert clients_of(storage).client() is not client
    storage.close()


def test_a_storage_shows_its_prefix_unless_it_is_the_usual_one() -> None:
    assert repr(RedisStorage(redis.Redis(port=1), prefix="acme")).endswith("port=1, db=0), prefix='acme')")
    assert "prefix" not in repr(RedisStorage(redis.Redis(port=1)))


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


@pytest.mark.parametrize("open_", [open_redis, open_cluster])
@pytest.mark.parametrize("driver", ["redis", "valkey"])
async def test_a_server_is_told_which_package_connects(open_: Any, driver: str) -> None:
    is_cluster = open_ is open_cluster
    if not drivers.introduction(driver, is_cluster=is_cluster):
        pytest.skip("clusters of redis-py 7.2 to 7.4 cannot be told")
    storage = open_(None, "valkey", scheme=f"{driver}+cluster" if is_cluster else driver)
    for client in (clients_of(storage).client(), clients_of(storage).async_client()):
        answered = client.client_info()
        connection = await answered if isawaitable(answered) else answered
        assert connection["lib-name"] == f"{driver}-py(langchain-ttl-history_v{version('langchain-ttl-history')})"
    await storage.aclose()


async def test_a_driver_whose_clusters_know_no_introduction_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As redis-py's do from 7.2 to 7.4."""
    pytest.importorskip("redis.driver_info", reason="before redis-py 7.2 there is another option")

    class Older(redis.asyncio.RedisCluster):
        def __init__(self, host: str, port: int, *, socket_timeout: float, **rest: Any) -> None:
            assert {*rest} == {"socket_connect_timeout", "retry"}
            super().__init__(host, port, socket_timeout=socket_timeout, **rest)

    introduction = drivers.introduction.__wrapped__  # Not what is remembered.
    monkeypatch.setattr(server_url, "introduction", introduction)
    monkeypatch.setattr(redis.asyncio.cluster, "RedisCluster", Older)
    client = ServerURL("redis+cluster://localhost:1").client(asynchronous=True)
    assert type(client) is Older
    assert introduction("redis", is_cluster=True) == {}
    assert "driver_info" in introduction("redis", is_cluster=False)


def test_versions_are_not_looked_up_anew_for_the_client_of_each_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    url = ServerURL("redis://localhost:1")
    url.client(asynchronous=True)
    asked: list[str] = []
    monkeypatch.setattr(drivers.metadata, "version", lambda name: asked.append(name) or "1.0")
    url.client(asynchronous=True)
    assert "langchain-ttl-history" not in asked


def test_a_program_that_was_bundled_without_metadata_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(server_url, "introduction", drivers.introduction.__wrapped__)  # Not what is remembered.
    monkeypatch.setattr(drivers.metadata, "version", gone)
    with closing(open_redis(None)) as storage:
        assert storage.write(KEY, Change(LEASE)).status is Status.STORED


# A command that the drivers send in pieces.
LONG = ("EVALSHA", "0" * 40, 1, b"k", b"x" * 9_000, b"y" * 10)


def own_pieces(driver: str, *command: Any) -> list[bytes]:
    """How a driver's packer in Python packs a command."""
    packer = import_module(f"{driver}.connection").PythonRespSerializer(6_000, valkey.Valkey().get_encoder().encode)
    return list(packer.pack(*command))


@pytest.fixture(params=["redis", "valkey"])
def driver_without_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A driver beside which there is no parser in C, whatever is installed."""
    for module in ("utils", "connection"):
        monkeypatch.setattr(f"redis.{module}.HIREDIS_AVAILABLE", False)
        monkeypatch.setattr(f"valkey.{module}.LIBVALKEY_AVAILABLE", False)
    return str(request.param)


def test_a_long_command_of_a_thread_is_sent_in_one_piece(driver_without_parser: str) -> None:
    pool = ServerURL(f"{driver_without_parser}://localhost:1").client(asynchronous=False).connection_pool
    pieces = own_pieces(driver_without_parser, *LONG)
    assert len(pieces) > 1
    assert [*pool.make_connection().pack_command(*LONG)] == [b"".join(pieces)]


def test_a_long_command_to_a_cluster_is_sent_in_one_piece(driver_without_parser: str) -> None:
    with closing(open_cluster(None, "valkey", scheme=f"{driver_without_parser}+cluster")) as storage:
        assert storage.write(KEY, Change(LEASE)).status is Status.STORED
        client = clients_of(storage).client()
        nodes = [getattr(node, f"{driver_without_parser}_connection") for node in client.get_nodes()]
        pools = [node.connection_pool for node in nodes if node is not None]
        assert pools
        for pool in pools:
            assert len(pool.make_connection().pack_command(*LONG)) == 1


def test_a_very_long_command_is_not_copied_into_one_piece(driver_without_parser: str) -> None:
    pool = ServerURL(f"{driver_without_parser}://localhost:1").client(asynchronous=False).connection_pool
    command = (*LONG, b"z" * (1 << 20))
    assert [*pool.make_connection().pack_command(*command)] == own_pieces(driver_without_parser, *command)


def test_a_command_in_one_piece_is_encoded_as_the_url_says(driver_without_parser: str) -> None:
    client = ServerURL(f"{driver_without_parser}://localhost:1?encoding=latin-1").client(asynchronous=False)
    (piece,) = client.connection_pool.make_connection().pack_command("AUTH", "ä", "x" * 9_000)
    assert b"$1\r\n\xe4\r\n" in piece


@pytest.mark.parametrize(("driver", "flag"), [("redis", "HIREDIS_AVAILABLE"), ("valkey", "LIBVALKEY_AVAILABLE")])
def test_a_parser_in_c_packs_commands_by_itself(driver: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{driver}.utils.{flag}", True)
    client = ServerURL(f"{driver}://localhost:1").client(asynchronous=False)
    assert "command_packer" not in client.connection_pool.connection_kwargs


# redis-py recommends an option in place of this one that no URL can hold.
@pytest.mark.filterwarnings("ignore:Call to '__init__' function with deprecated usage:DeprecationWarning")
@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_name_in_a_url_comes_first(scheme: str) -> None:
    client = ServerURL(f"{scheme}://localhost:1?lib_name=mine").client(asynchronous=False)
    connection = client.connection_pool.make_connection()
    info = getattr(connection, "driver_info", None)
    assert (connection.lib_name if info is None else info.formatted_name) == "mine"


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
        "redis://localhost:1?password=any%40secret", "redis+cluster://localhost:1?password=secret",
        "redis://localhost:1?&password=secret==&", "valkey://localhost:1/0?password=se;cret",
    ],
)  # fmt: skip
def test_a_password_is_not_shown(url: str) -> None:
    assert "secret" not in repr(SessionBuffer(url))


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("me:secret@localhost:1/2", "localhost:1/2"), ("localhost", "localhost"), ("/2", "/2"),
        ("my_redis.example-1.com:1/", "my_redis.example-1.com:1/"), ("bücher.example:1", "bücher.example:1"),
        (":secret@[::1]:1/0", "[::1]:1/0"), ("[fe80::1%25eth0]", "[fe80::1%25eth0]"),
        ("localhost:1/2?socket_timeout=1", "localhost:1/2"),
        # Hosts with marks, composed or not, and with codes, which the drivers decode.
        ("उदाहरण.localhost", "उदाहरण.localhost"), ("ตัวอย่าง.localhost:1", "ตัวอย่าง.localhost:1"),
        ("bu\u0308cher.example", "bu\u0308cher.example"), ("b%C3%BCcher.example", "b%C3%BCcher.example"),
        ("my%2Dredis:1/2", "my%2Dredis:1/2"), ("127.0.0%2E1", "127.0.0%2E1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["redis", "valkeys"])
def test_host_port_and_database_are_shown(scheme: str, place: str, shown: str) -> None:
    assert repr(RedisStorage(f"{scheme}://{place}")) == f"RedisStorage('{scheme}://{shown}')"


@pytest.mark.parametrize("scheme", ["redis", "valkey", "redis+cluster"])
@pytest.mark.parametrize(
    "password",
    [
        "secret/a", "secret#a", "secret?a", "a[secret", "a[secret]a",
        # What looks like a port stands before the mark.
        "2024/secret", "2024#secret", "2024?secret", "2024?secret=a", "2024#secret?a", "2024#a@secret",
        "2024/1?db=1&a=secret",
    ],
)  # fmt: skip
def test_a_password_that_breaks_its_url_is_not_shown_but_explained(scheme: str, password: str) -> None:
    url = f"{scheme}://:{password}@localhost:1/0"
    with contextlib.suppress(ValueError):
        if urlsplit(url).password == password:
            pytest.skip("before Python 3.11.4 a pair of brackets breaks no URL")
    with pytest.raises(ConfigurationError, match="quote") as refused:
        SessionBuffer(url)
    assert not re.search("secret|2024", str(refused.value))
    assert refused.value.__context__ is None
    SessionBuffer(f"{scheme}://:{quote(password, safe='')}@localhost:1/0")


@pytest.mark.parametrize("scheme", ["redis", "valkey", "rediss", "redis+cluster"])
@pytest.mark.parametrize(
    ("rest", "flaw"),
    [
        # The @ itself is a code, once or twice over; so may the : be.
        ("me:secret%40host:1/0", "the host"), ("me:secret%2540host:1/0", "the host"), (":secret%40host/0", "the host"),
        ("me%3Asecret%40host:1/0", "the host"), ("me%3Asecret%2540host:1/0", "the host"),
        ("deadbeef%40host:1/0", "the host"), ("dead%3Adeadbeef", "the host"), ("deadbeef%FF", "the host"),
        # There is no @ at all, or another character in its place.
        (":secret", "the port"), ("me:secret", "the port"), (":secret/0", "the port"), ("me:secret:host:1", "the port"),
        ("[secret", "the host"), ("me:secret\uff20host:1/0", "the host"), (":2024/secret", "the path"),
        # The options begin with another character.
        ("host:1/0&password=secret", "the path"), ("host:1/0;password=secret", "the path"),
        ("host:1/0#password=secret", "a #.*%23"), ("host:1?encoding=utf-8;password=secret", "name=value"),
        ("host:1?socket_timeout=1?password=secret", "name=value"),
        # What looks like a port is the beginning of a password.
        ("me:2024?secret%40host:1/0", "name=value"), ("me:2024?secret", "name=value"), (":2024?secret", "name=value"),
        (":2024?socket_timeout=1&secret", "name=value"), ("me:2024#secret%40host:1/0", "a #.*%23"),
        ("me:2024#secret", "a #.*%23"), (":secret#secret", "a #.*%23"), (":2024#", "a #.*%23"),
    ],
)  # fmt: skip
def test_a_url_of_which_a_password_cannot_be_told_is_not_shown(scheme: str, rest: str, flaw: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{flaw}.*quote") as refused:
        SessionBuffer(f"{scheme}://{rest}")
    assert str(refused.value).startswith(f"'{scheme}://...' ")
    assert not re.search("secret|2024|deadbeef", "".join(traceback.format_exception(refused.value)))
    assert refused.value.__context__ is None


@pytest.mark.parametrize("scheme", ["redis", "valkey", "rediss", "redis+cluster"])
@pytest.mark.parametrize(
    ("rest", "number"),
    [
        ("localhost:1?bogus=1", 1), ("localhost:1?username=me&password=pw&clientname=x", 3),
        ("localhost:1?client_name=&&socket_timeout=1&clientname=x&password=pw", 3),
        # What follows an & or a ? is the rest of a password.
        ("localhost:1?password=any&secret==", 2), ("me:2024?secret==%40localhost:1/0", 1), (":2024?=secret", 1),
    ],
)  # fmt: skip
def test_an_option_that_is_not_known_is_counted_and_not_shown(scheme: str, rest: str, number: int) -> None:
    found = rf"option {number} is not known to (redis|valkey), or an & in the password is not written as %26\."
    with pytest.raises(ConfigurationError, match=found) as refused:
        SessionBuffer(f"{scheme}://{rest}")
    assert not re.search("secret|2024", "".join(traceback.format_exception(refused.value)))


def test_an_option_that_cannot_stand_in_a_url_is_refused_without_its_number() -> None:
    with pytest.raises(ConfigurationError, match="an option is not known to redis"):
        SessionBuffer("redis://localhost?parser_class=secret")


@pytest.mark.parametrize(
    ("plain", "tls"), [("redis", "rediss"), ("valkey", "valkeys"), ("valkey+cluster", "valkeys+cluster")]
)
def test_an_option_of_tls_is_told_the_scheme_that_it_needs(plain: str, tls: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"option 2 is one of TLS, which needs {re.escape(tls)}://, or an &"):
        SessionBuffer(f"{plain}://localhost?db=0&ssl_ca_path=/x")


@pytest.mark.parametrize("query", ["client_name=me@here", "password=any@secret"])
def test_an_at_sign_in_an_option_is_written_as_a_code(query: str) -> None:
    with pytest.raises(ConfigurationError, match="an option written as codes") as refused:
        SessionBuffer(f"redis://localhost:1?{query}")
    assert "secret" not in str(refused.value)
    pool = clients_of(RedisStorage(f"redis://localhost:1?{query.replace('@', '%40')}")).client().connection_pool
    name, _, value = query.partition("=")
    assert pool.connection_kwargs[name] == value


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
        "rediss://localhost?ssl_cert_reqs=some", "redis://localhost?protocol=9", "valkey://localhost?protocol=x", "valkey://localhost?retry=x",
        "redis://localhost?maint_notifications_config=x",
        "redis://localhost/sessions", "valkey://localhost/1/2", "redis://localhost/-1",
        "redis+cluster://localhost/3", "valkey+cluster://localhost?db=3", "redis+cluster://localhost/sessions",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_understood_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError):
        SessionBuffer(url)


@pytest.mark.parametrize("url", ["localhost:6379", "sessions.db", "redis:/me:secret@host", "redis:secret"])
def test_what_is_no_url_is_told_how_one_is_written(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://host:6379/0") as refused:
        RedisStorage(url)
    assert "secret" not in str(refused.value)


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
    assert f'pip install "langchain-ttl-history[{scheme}]"' in done.stdout


def test_the_storages_name_it() -> None:
    assert "RedisStorage" in storages.__all__
    assert storages.RedisStorage is RedisStorage
    with pytest.raises(AttributeError):
        _ = storages.NoStorage


def test_an_open_storage_is_left_without_a_trace(real: RedisStorage) -> None:
    abandon(real)
    assert real.read(KEY, Query()).generation == 0, "a closed storage opens again when it is used"
