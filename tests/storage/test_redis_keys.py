"""What the keys in Redis are called, whose slot they are in, and what may be called so."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from redis.crc import key_slot

from langchain_ttl_history import ConfigurationError, SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.types import Blob, Change, Query
from langchain_ttl_history.testing import Clock
from tests import servers
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import admin_of, context_of, keys_of, kind_here, open_cluster, open_redis

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


@pytest.mark.parametrize("user_id", ODD)
def test_all_keys_of_a_user_are_in_one_slot(storage: RedisStorage, user_id: str) -> None:
    keys = context_of(storage).keys
    of = [keys.of(SessionKey(user_id, session_id))[0] for session_id in ODD]
    assert len({key_slot(key) for pair in of for key in pair}) == 1
    assert len({session for _, session in of}) == len(ODD)
    for pair in of:
        for key in pair:
            tag = key[key.index(b"{") + 1 : key.index(b"}")]
            assert len(tag) == 32
            assert key.count(b"{") == key.count(b"}") == 1


def test_users_are_spread_over_the_slots(storage: RedisStorage) -> None:
    slots = {key_slot(context_of(storage).keys.user(f"u{number}")) for number in range(1_000)}
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


def test_a_worker_needs_no_scan(clock: Clock) -> None:
    server = servers.shared(kind_here())
    with server.admin() as admin:
        allowed = "+evalsha +eval +hget +hset +hmget +hgetall +hdel +hlen +hkeys +hscan +hexists +hrandfield"
        rights = f"reset on >secret ~lean* +unlink +pexpire +persist +time {allowed}"
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


@pytest.mark.parametrize("prefix", ["", "{a}", "a}", None, 3, b"a", "a\0", "\ud800"])
def test_a_prefix_without_sense_is_refused(prefix: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="prefix must be a string of printable characters without braces, and not empty"
    ):
        RedisStorage("redis://localhost", prefix=prefix)
