"""What a storage says of damaged bytes in Redis."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import ormsgpack
import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from langchain_ttl_history import CorruptRecordError, SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.types import Blob, Change, Guard, Query, Status
from langchain_ttl_history.testing import Clock
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import TURN, begin, contents, context_of, keys_of

QUERIES = (TURN, Query(outline=True), Query(("log",), ("m",)))
DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda record: record[:20],
    "cut in its generation": lambda record: record[:4],
    "its first byte": lambda record: record[:1],
    "empty": lambda record: b"",
    "garbage": lambda record: bytes(255 - byte for byte in record),
    "a text": lambda record: ormsgpack.packb("text"),
    "other values": lambda record: ormsgpack.packb([None] * 4 + [0] + ["x"] * 10),
    "negative": lambda record: ormsgpack.packb([0, -5, 0, 0, 0, 0, 0, 0, "", [], 0, 0, 0, "", 0]),
    "no time": lambda record: ormsgpack.packb([0, 2**60, 0, 0, 0, 0, 0, 0, "", [], 0, 0, 0, "", 0]),
}
"""What may have become of a session's record."""


def test_damaged_bytes_are_an_error_of_this_packages_own(storage: RedisStorage, admin: Any) -> None:
    begin(storage)
    _, session = keys_of(storage)
    whole = admin.hgetall(session)
    fields, luck, damaged = sorted(whole), random.Random(1), 0
    for _ in range(600):
        # Without the record, whose numbers are the session's own to give.
        field = luck.choice([each for each in fields if each != b"*"])
        value = bytearray(whole[field])
        value[luck.randrange(len(value))] ^= 1 << luck.randrange(8)
        admin.hset(session, field, bytes(value[: luck.randrange(1, len(value) + 1)]))
        context_of(storage).mirrors.forget(*KEY)
        for query in QUERIES:
            try:
                storage.read(KEY, query)
            except CorruptRecordError:
                damaged += 1
        admin.hset(session, field, whole[field])
    assert damaged > 100


def test_the_error_names_the_session(storage: RedisStorage, admin: Any) -> None:
    buffer = SessionBuffer(storage)
    history = buffer.history("ada", "s1")
    history.add_user_message("hello")
    _, session = keys_of(storage, SessionKey("ada", "s1"))
    for field, value in admin.hgetall(session).items():
        if field[:1] == b"t":
            admin.hset(session, field, value[:-3] + b"\xff\xff\xff")
    context_of(storage).mirrors.forget("ada", None)
    with pytest.raises(CorruptRecordError, match="s1"):
        _ = history.messages


def test_a_damaged_list_keeps_nobody_waiting(storage: RedisStorage, admin: Any) -> None:
    begin(storage)
    _, session = keys_of(storage)
    log = admin.hget(session, "llog")
    admin.hset(session, "llog", log[:12] + b"\xff\xff\xff\xff" + log[16:])
    for query in (TURN, Query(("log",))):
        with pytest.raises(CorruptRecordError, match="damaged"):
            storage.read(KEY, query)
        assert admin.ping()


@pytest.mark.parametrize("how", ["half", "emptied", "another start"])
def test_whatever_field_is_damaged_the_error_names_the_session(storage: RedisStorage, admin: Any, how: str) -> None:
    buffer = SessionBuffer(storage)
    config = buffer.config("ada", "s1")
    graph = StateGraph(MessagesState).add_node("node", lambda state: {"messages": [AIMessage("yes " * 50)]})
    agent = graph.add_edge(START, "node").compile(checkpointer=buffer.checkpointer())
    agent.invoke({"messages": [("human", "hello " * 50)]}, config)
    history = buffer.history("ada", "s1")
    history.add_system_message("an event")
    whole, told = len(history.messages), []
    _, session = keys_of(storage, SessionKey("ada", "s1"))
    for field, value in admin.hgetall(session).items():
        start = bytes([value[0] ^ 255])
        admin.hset(
            session, field, {"half": value[: len(value) // 2], "emptied": b"", "another start": start + value[1:]}[how]
        )
        context_of(storage).mirrors.forget("ada", None)
        for read in (lambda: len(history.messages), lambda: len(agent.get_state(config).values["messages"])):
            try:
                assert read() == whole
            except CorruptRecordError as error:
                told.append(str(error))
        admin.hset(session, field, value)
    assert len(told) > 3
    assert all("s1" in each for each in told)


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("all_of_them", [False, True], ids=["delete", "forget"])
def test_a_session_whose_record_is_damaged_can_be_deleted(
    storage: RedisStorage,
    another: Callable[[], RedisStorage],
    admin: Any,
    clock: Clock,
    damage: Callable[[bytes], bytes],
    all_of_them: bool,
) -> None:
    key, other = SessionKey("zoe", "secret"), SessionKey("zoe", "other secret")

    def said(generation: int | None = None) -> Change:
        return Change(LEASE, Guard(generation), {"m1": Blob(b"secret")}, [("log", b"secret", ("m1",))])

    # Made in the microsecond of a deletion, and on a clock that was set back later: the newest number there can be.
    storage.delete(*key, 1000.0)
    made = storage.write(key, said()).generation
    storage.write(other, said())
    clock.advance(-5)
    _, session = keys_of(storage, key)
    admin.hset(session, "*", damage(admin.hget(session, "*")))
    onlooker = another()
    deleted = onlooker.delete("zoe", None if all_of_them else key.session_id, 1000.0)
    assert deleted == 1 + all_of_them
    assert not admin.exists(session)
    assert storage.delete(*other, 1000.0) == 1 - all_of_them
    assert not any(b"secret" in each for each in contents(storage))
    # A turn that was running cannot bring it back, and a new one begins anew.
    assert storage.write(key, said(made)).status is Status.DELETED
    again = onlooker.write(key, said())
    assert again.status is Status.STORED
    assert again.generation > made
    assert storage.write(key, said(again.generation)).status is Status.STORED
