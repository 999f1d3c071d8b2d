"""What a storage says of damaged bytes in Redis."""

from __future__ import annotations

import random
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from langchain_ttl_history import CorruptRecordError, SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.base import Query
from tests.storage.redis_cases import KEY, TURN, begin, keys_of, settings_of

QUERIES = (TURN, Query(outline=True), Query(("log",), ("m",)))


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
        settings_of(storage).mirrors.forget(*KEY)
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
    settings_of(storage).mirrors.forget("ada", None)
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
        settings_of(storage).mirrors.forget("ada", None)
        for read in (lambda: len(history.messages), lambda: len(agent.get_state(config).values["messages"])):
            try:
                assert read() == whole
            except CorruptRecordError as error:
                told.append(str(error))
        admin.hset(session, field, value)
    assert len(told) > 3
    assert all("s1" in each for each in told)
