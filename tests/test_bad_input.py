"""Bad input: each a typed error with the way out in its text, and nothing stored."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import traceback
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

import langchain_ttl_history
from langchain_ttl_history import (
    ConfigurationError,
    MissingUserError,
    Retention,
    SessionBuffer,
    SessionDeletedError,
    StorageError,
    TTLHistoryError,
    TypeNotAllowedError,
)
from langchain_ttl_history.storage import MemoryStorage, RedisStorage, SQLiteStorage
from langchain_ttl_history.storage.base import Storage
from tests.shared.chats import dumps
from tests.shared.graphs import build_graph
from tests.shared.sessions import Colour, Session


@dataclass
class Holder:
    """An object of a program's own, that holds another."""

    held: Any


@pytest.fixture(params=["sync", "async"])
def session(request: pytest.FixtureRequest) -> Session:
    return Session(SessionBuffer(MemoryStorage()), Colour(request.param))


# --- ids --------------------------------------------------------------------------------------

BAD_IDS: dict[str, Any] = {
    "empty": "",
    "None": None,
    "bytes": b"s1",
    "float": 1.5,
    "bool": True,
    "list": ["s1"],
    "over-long": "x" * 10_000,
    "NUL": "a\0b",
}


@pytest.mark.parametrize("name", list(BAD_IDS))
async def test_a_bad_session_id_is_refused_by_every_door(session: Session, name: str) -> None:
    bad = BAD_IDS[name]
    buffer = session.buffer
    saver = buffer.checkpointer()
    config: Any = {"configurable": {"user_id": "alice", "thread_id": bad}}
    for named, attempt in (
        ("session_id", lambda: buffer.history("alice", bad)),
        ("session_id", lambda: buffer.config("alice", bad)),
        ("session_id", lambda: buffer.get_session_history(bad, user_id="alice")),
        ("session_id", lambda: buffer.info("alice", bad)),
        ("session_id", lambda: buffer.delete("alice", bad)),
        ("session_id", lambda: buffer.set_idle_ttl("alice", bad, 60)),
        ("thread_id", lambda: saver.get_tuple(config)),
        ("thread_id", lambda: list(saver.list(config))),
        ("thread_id", lambda: saver.for_user("alice").delete_thread(bad)),
        ("thread_id", lambda: saver.for_user("alice").copy_thread("s1", bad)),
        ("thread_id", lambda: saver.for_user("alice").prune([bad])),
    ):
        with pytest.raises(ConfigurationError, match=named) as refused:
            attempt()
        assert isinstance(refused.value, ValueError)
    with pytest.raises(ConfigurationError):
        await session.colour.call(saver, "get_tuple", config)
    assert await session.sessions(all_users=True) == []


@pytest.mark.parametrize("name", [name for name in BAD_IDS if name != "None"])
async def test_a_bad_user_id_is_refused_by_every_door(session: Session, name: str) -> None:
    bad = BAD_IDS[name]
    buffer = session.buffer
    saver = buffer.checkpointer()
    config: Any = {"configurable": {"user_id": bad, "thread_id": "s1"}}
    for attempt in (
        lambda: buffer.history(bad, "s1"),
        lambda: buffer.config(bad, "s1"),
        lambda: buffer.get_session_history("s1", user_id=bad),
        lambda: buffer.info(bad, "s1"),
        lambda: buffer.delete(bad, "s1"),
        lambda: list(buffer.sessions(bad)),
        lambda: buffer.forget(bad),
        lambda: saver.get_tuple(config),
        lambda: saver.for_user(bad),
        lambda: buffer.checkpointer(user_id=bad),
        lambda: SessionBuffer(default_user=bad),
    ):
        with pytest.raises(ConfigurationError) as refused:
            attempt()
        assert "user" in str(refused.value)
    with pytest.raises(ConfigurationError):
        await session.colour.call(saver, "get_tuple", config)
    assert await session.sessions(all_users=True) == []


async def test_an_agent_with_a_bad_id_stores_nothing(session: Session) -> None:
    agent = build_graph("agent", session.buffer.checkpointer())
    for bad in ("", "a\0b", "x" * 10_000):
        config: Any = {"configurable": {"user_id": "alice", "thread_id": bad}}
        with pytest.raises(ConfigurationError):
            await session.colour.call(agent, "invoke", {"messages": [HumanMessage("hello")]}, config)
    assert await session.sessions(all_users=True) == []


async def test_the_longest_id_that_is_accepted_works(session: Session) -> None:
    longest = "x" * 255
    await session(longest, longest).event("hello")
    assert await session(longest, longest).texts() == ["hello"]


async def test_ints_and_uuids_are_accepted(session: Session) -> None:
    for user, name in ((1, 2), (uuid.uuid4(), uuid.uuid4()), (0, 0)):
        await session(user, name).event("hello")  # type: ignore[arg-type]  # a wrong type is the test
        assert await session(str(user), str(name)).texts() == ["hello"]


async def test_a_config_without_a_thread_id_is_refused(session: Session) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    for config in ({"configurable": {}}, {}, {"configurable": {"thread_id": None}}):
        with pytest.raises(ConfigurationError, match=r"no 'thread_id'; buffer\.config"):
            await session.colour.call(saver, "get_tuple", config)
        # An empty config is none to LangGraph: `list` then goes over all threads.
        if config:
            with pytest.raises(ConfigurationError, match="thread_id"):
                await session.colour.collect(saver, "list", config)
    found_config: Any = {"configurable": {}}
    with pytest.raises(ConfigurationError, match="thread_id"):
        await session.colour.call(saver, "put_writes", found_config, [("a", 1)], "task")


async def test_a_config_without_a_user_is_refused(session: Session) -> None:
    saver = session.buffer.checkpointer()
    config: Any = {"configurable": {"thread_id": "s1"}}
    for attempt in (
        lambda: session.colour.call(saver, "get_tuple", config),
        lambda: session.colour.collect(saver, "list", config),
        lambda: session.colour.call(saver, "put_writes", config, [("a", 1)], "task"),
    ):
        with pytest.raises(MissingUserError) as refused:
            await attempt()
        assert "user_id" in str(refused.value)
        assert "default_user" in str(refused.value)
        assert "buffer.config does" in str(refused.value)


async def test_a_checkpointer_with_a_key_of_its_own_names_that_key(session: Session) -> None:
    saver = session.buffer.checkpointer(user_key="account")
    with pytest.raises(MissingUserError, match="account") as refused:
        await session.colour.call(saver, "get_tuple", {"configurable": {"thread_id": "s1"}})
    assert "buffer.config" not in str(refused.value)  # It names the user by another key.


async def test_a_history_without_a_session_id_is_refused(session: Session) -> None:
    with pytest.raises(ConfigurationError, match=r"no session is named.*a single argument is the user's id"):
        session.buffer.history("alice")


# --- retention --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["idle_ttl", "max_age", "max_messages", "max_tokens", "max_bytes", "max_checkpoints"],
)
@pytest.mark.parametrize("value", [0, -1, True, False, math.nan, math.inf, "10", -0.5, [], object()])
def test_a_retention_that_is_no_positive_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Retention(**{name: value})
    assert name in str(refused.value)
    assert "None" in str(refused.value), "the way out"


@pytest.mark.parametrize("name", ["max_messages", "max_tokens", "max_bytes", "max_checkpoints"])
@pytest.mark.parametrize("value", [1.5, timedelta(seconds=1), 10**400])
def test_a_count_that_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Retention(**{name: value})


@pytest.mark.parametrize("value", [True, False, None])
def test_a_bool_and_none_are_shown_as_they_are_written(value: Any) -> None:
    for attempt in (
        lambda: SessionBuffer().forget(value),
        lambda: SessionBuffer().history("alice", "s1").add_system_message(value),
    ):
        with pytest.raises((ConfigurationError, TypeNotAllowedError), match=r"not (True|False|None)\b"):
            attempt()


@pytest.mark.parametrize(
    "options",
    [{"retention": 5}, {"default_user": ""}, {"serde": 5}, {"allow_types": [5]}],
    ids=lambda options: next(iter(options)),
)
def test_nothing_is_opened_for_a_buffer_with_a_bad_argument(tmp_path: Path, options: Any) -> None:
    with pytest.raises(ConfigurationError):
        SessionBuffer(f"sqlite:///{tmp_path}/sessions.db", **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["idle_ttl", "max_age"])
@pytest.mark.parametrize("value", [timedelta(0), timedelta(seconds=-1)])
def test_a_duration_of_nothing_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Retention(**{name: value})


def test_a_retention_takes_seconds_timedeltas_and_none() -> None:
    retention = Retention(idle_ttl=0.5, max_age=timedelta(days=1), max_messages=1, max_tokens=None)
    assert (retention.idle_seconds, retention.age_seconds) == (0.5, 86_400.0)
    unbounded = Retention(idle_ttl=None, max_age=None, max_messages=None, max_bytes=None, max_checkpoints=None)
    assert (unbounded.idle_seconds, unbounded.age_seconds) == (None, None)


def test_a_token_counter_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="token_counter"):
        Retention(token_counter="tiktoken")  # type: ignore[arg-type]  # a wrong type is the test


@pytest.mark.parametrize("value", [0, -1, True, math.nan, math.inf, "10"])
async def test_a_bad_idle_ttl_of_one_session_is_refused_and_changes_nothing(session: Session, value: Any) -> None:
    await session.event("x")
    before = await session.info()
    with pytest.raises(ConfigurationError):
        await session.colour.call(session.buffer, "set_idle_ttl", "alice", "s1", value)
    assert (await session.info()).expires_at == before.expires_at


@pytest.mark.parametrize("name", ["max_sessions", "max_bytes"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "10", math.inf])
def test_a_memory_storage_with_a_bad_bound_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        MemoryStorage(**{name: value})


# --- buffers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["mongodb://localhost", "http://x", "sessions.db", "", "a:b", "://", ":memory:"])
def test_an_unknown_url_scheme_is_refused_and_the_known_ones_named(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        SessionBuffer(url)
    assert "use memory://, sqlite:///path.db" in str(refused.value)
    assert "for '' URLs" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("memory:///", "memory://"),
        ("memory", "memory://"),
        ("sqlite:x.db", "sqlite:///path.db"),
        ("redis", "redis://host:6379/0"),
        ("redis:/me:secret@host", "redis://host:6379/0"),
        ("valkeys+cluster:/host", "valkeys+cluster://host:6379/0"),
    ],
)
def test_a_url_of_a_known_scheme_is_told_its_form(url: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match="URL is written") as refused:
        SessionBuffer(url)
    assert str(refused.value).endswith(f" {right}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        ":secret@localhost:6379/0", "://:secret@localhost:6379/0", "//:secret@localhost:6379/0",
        "secret@localhost:6379", "secret@localhost", "me:secret@localhost", "redis//:secret@host:6379/0",
        "'redis://:secret@host'", "redis+secret@host:6379", "redis+secret@host://", "secret",
        "sqlite://:secret@/x.db", "sqlite://me:secret@host/x.db", "sqlite:///x.db?key=secret", "sqlite://x?secret",
        "sqlite://:secret", "sqlite://secret", "sqlite://:secret%40host/x.db", "sqlite://me:secret:host/x.db",
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [SessionBuffer, RedisStorage])
def test_what_may_be_a_password_is_not_shown_of_what_is_no_url(make: Any, url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"(use|write) [a-z]+://") as refused:
        make(url)
    assert "secret" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("make", "url"),
    [
        *[(make, url) for make in (SessionBuffer, RedisStorage) for url in (" redis://:secret@h", '"redis://:secret@h"')],
        (RedisStorage, "\tvalkeys+cluster://h\r\n"), (SessionBuffer, "'sqlite:///secret.db'"),
        (SessionBuffer, "\n memory:"), (SessionBuffer, "memory "), (SessionBuffer, "'rediss+cluster://h"),
    ],
)  # fmt: skip
def test_a_space_or_a_quotation_mark_around_a_url_is_pointed_out(make: Any, url: str) -> None:
    pointed_out = r"the URL begins or ends with a space or a quotation mark; (use|write) [a-z]+://"
    with pytest.raises(ConfigurationError, match=pointed_out) as refused:
        make(url)
    assert "secret" not in "".join(traceback.format_exception(refused.value))


def test_a_bad_url_in_the_environment_is_said_to_stand_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langchain_ttl_history.buffer._default", None)
    monkeypatch.setenv("TTL_HISTORY_URL", "postgres://localhost")
    with pytest.raises(ConfigurationError, match="TTL_HISTORY_URL: no storage is known for 'postgres' URLs"):
        langchain_ttl_history.default_buffer()
    monkeypatch.delenv("TTL_HISTORY_URL")
    assert langchain_ttl_history.default_buffer() is langchain_ttl_history.default_buffer()


@pytest.mark.parametrize("storage", [42, object(), dict, [], MemoryStorage])
def test_a_storage_that_is_no_storage_is_refused(storage: Any) -> None:
    with pytest.raises(ConfigurationError):
        SessionBuffer(storage)


@pytest.mark.parametrize(
    "storage", [b"redis://:secret@h", ("redis://:secret@h",), {"url": "redis://:secret@h"}, bytearray(b"secret")]
)
def test_of_what_is_no_storage_the_type_alone_is_shown(storage: Any) -> None:
    for make in (SessionBuffer, RedisStorage):
        with pytest.raises(ConfigurationError, match=f"not an object of type {type(storage).__name__}") as refused:
            make(storage)
        assert "secret" not in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"async_client must be .* type str") as refused:
        RedisStorage(None, "redis://:secret@h")
    assert "secret" not in str(refused.value)


def test_a_retention_that_is_no_retention_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be a Retention"):
        SessionBuffer(retention={"idle_ttl": 5})  # type: ignore[arg-type]  # a wrong type is the test


@pytest.mark.parametrize("types", [["MyType"], [42], "MyType", 42])
def test_an_allow_list_of_no_types_is_refused(types: Any) -> None:
    with pytest.raises(ConfigurationError, match="allow_types takes"):
        SessionBuffer(allow_types=types)


@pytest.mark.parametrize("name", ["user_key", "messages_key"])
@pytest.mark.parametrize("value", ["", None, 5, "a\0b", "\ud800", "x" * 1000])
def test_a_key_that_is_no_name_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must "):
        SessionBuffer().checkpointer(**{name: value})


@pytest.mark.parametrize("key", ["thread_id", "session_id", "checkpoint_id", "checkpoint_ns"])
def test_a_user_key_that_means_something_else_is_refused(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key}.*choose another key"):
        SessionBuffer().checkpointer(user_key=key)


def test_a_checkpointer_of_one_user_does_not_become_anothers() -> None:
    saver = SessionBuffer().checkpointer(user_id="alice")
    with pytest.raises(
        ConfigurationError, match="bound to user 'alice', not 'bob'; call for_user on one that is bound to"
    ):
        saver.for_user("bob")


async def test_writes_need_the_checkpoint_that_they_are_pending_on(session: Session) -> None:
    saver = session.buffer.checkpointer()
    with pytest.raises(ConfigurationError, match=r"no 'checkpoint_id' to write to; pass the config that put returned"):
        await session.colour.call(saver, "put_writes", session.config, [("a", 1)], "task")
    assert await session.info() is None


async def test_an_idle_time_that_was_forgotten_pins_no_session(session: Session) -> None:
    await session.add(HumanMessage("one"))
    with pytest.raises(ConfigurationError, match="idle_ttl is missing"):
        await session.colour.call(session.buffer, "set_idle_ttl", *session.key)
    assert (await session.info()).expires_at is not None


# --- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("message", ["hello", 42, None, {"role": "user"}, ("user", "x"), object()])
async def test_a_message_that_is_not_a_message_is_refused(session: Session, message: Any) -> None:
    await session.add(HumanMessage("before"))
    with pytest.raises(TypeNotAllowedError) as refused:
        await session.add(HumanMessage("fine"), message)
    assert isinstance(refused.value, TypeError)
    assert type(message).__name__ in str(refused.value)
    with pytest.raises(TypeNotAllowedError):
        await session.replace([message])
    assert await session.texts() == ["before"]


@pytest.mark.parametrize("bad", ["text", 42, None, {"role": "user"}, object()])
async def test_an_answer_of_a_chain_that_is_no_list_of_messages_is_refused(session: Session, bad: Any) -> None:
    # Twice, since a chain's turn looks among its messages for others of the same kind.
    history = session.buffer.get_session_history("s1", user_id="alice")
    await session.read(history)
    with pytest.raises(TypeNotAllowedError, match=f"of type {type(bad).__name__} is not a message"):
        await session.colour.call(history, "add_messages", [HumanMessage("hello"), bad, bad])
    assert await session.texts() == []


@pytest.mark.parametrize("id", [0, 42, uuid.UUID(int=7), b"x"])
async def test_a_message_whose_id_is_no_text_is_refused_by_every_door(session: Session, id: Any) -> None:
    await session.add(HumanMessage("before"))
    agent = build_graph("agent", session.buffer.checkpointer())

    def bad(message: BaseMessage) -> BaseMessage:
        message.id = id  # Nothing checks what is assigned.
        return message

    question: Any = {"messages": [bad(HumanMessage("x"))]}
    for tried in (
        session.add(bad(HumanMessage("x"))),
        session.add(bad(RemoveMessage(id="x"))),
        session.replace([bad(HumanMessage("x"))]),
        session.colour.call(agent, "invoke", question, session.config),
    ):
        with pytest.raises(TypeNotAllowedError) as refused:
            await tried
        for word in ("s1", repr(id), type(id).__name__):
            assert word in str(refused.value)
    assert await session.texts() == ["before"]


async def test_a_message_whose_id_is_too_long_is_refused_by_every_door(session: Session) -> None:
    """Ids are no payload, and would pass by all that bounds a session."""
    await session.add(HumanMessage("before", id="x" * 1024))
    agent = build_graph("agent", session.buffer.checkpointer())
    message = HumanMessage("x", id="x" * 1025)
    for tried in (
        session.add(message),
        session.replace([message]),
        session.colour.call(agent, "invoke", {"messages": [message]}, session.config),
    ):
        with pytest.raises(ConfigurationError, match=r"'alice', 's1'.* has 1025 characters; at most 1024"):
            await tried
    assert await session.texts() == ["before"]


@pytest.mark.parametrize("content", [None, 42, ("human", "x"), ChatMessage("x", role="r"), [["nested"]], [None], [5]])
async def test_content_that_is_no_text_is_refused(session: Session, content: Any) -> None:
    with pytest.raises(TypeNotAllowedError, match="SystemMessage takes text"):
        await session.event(content)
    for add in (session.history.add_user_message, session.history.add_ai_message):
        with pytest.raises(TypeNotAllowedError, match=r"s1.*(Human|AI)Message takes text"):
            await asyncio.to_thread(add, content)
    assert await session.messages() == []


async def test_a_question_and_an_answer_are_added_as_text_or_as_messages(session: Session) -> None:
    history = session.history
    for question, answer in (("q", "a"), (HumanMessage("q"), AIMessage("a")), ([{"type": "text", "text": "q"}], ["a"])):
        await asyncio.to_thread(history.add_user_message, question)
        await asyncio.to_thread(history.add_ai_message, answer)
    assert [(type(message), message.text) for message in await session.messages()] == [
        (HumanMessage, "q"),
        (AIMessage, "a"),
    ] * 3


async def test_adding_nothing_stores_nothing(session: Session) -> None:
    await session.add()
    assert await session.info() is None
    assert await session.messages() == []
    await session.add(HumanMessage("something"))
    before = await session.info()
    await session.add()
    assert await session.info() == before


async def test_a_value_that_cannot_be_stored_is_named_with_its_session_and_channel(
    session: Session,
) -> None:
    agent = build_graph("agent", session.buffer.checkpointer())
    await session.ask(agent, "before")
    saver = session.buffer.checkpointer()
    found = await session.colour.call(saver, "get_tuple", session.config)
    before = dumps(await session.messages())
    with pytest.raises(TypeNotAllowedError) as refused:
        await session.colour.call(saver, "put_writes", found.config, [("gadget", asyncio.Lock())], "task")
    for word in ("s1", "gadget", "Lock"):
        assert word in str(refused.value)
    bad = AIMessage("a", additional_kwargs={"x": asyncio.Lock()})
    with pytest.raises(TypeNotAllowedError, match=r"'messages', a message without an id: .*Lock"):
        await session.colour.call(saver, "put_writes", found.config, [("messages", [bad])], "task")
    with pytest.raises(TypeNotAllowedError) as refused:
        await session.add(bad)
    for word in ("s1", "message '", "Lock"):
        assert word in str(refused.value)
    assert dumps(await session.messages()) == before


@pytest.mark.parametrize(
    "held",
    [
        [ValueError("x")],
        {"a": (1, {2: ValueError("x")})},
        Holder(ValueError("x")),
        HumanMessage("x", extra=[ValueError()]),
    ],
    ids=lambda held: type(held).__name__,
)
async def test_the_part_that_would_come_back_as_something_else_is_named_and_not_what_holds_it(
    session: Session, held: Any
) -> None:
    message = AIMessage("a", additional_kwargs={"x": held})
    with pytest.raises(TypeNotAllowedError, match=r"builtins\.ValueError cannot be stored") as refused:
        await session.add(message)
    # A serializer for the channels does nothing for a message.
    assert "outside the messages, checkpointer(serde=...)" in str(refused.value)


class Safe(JsonPlusSerializer):
    """A serializer whose key can be away."""

    is_locked = False

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if self.is_locked:
            raise OSError("the key server does not answer")
        return super().dumps_typed(obj)


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_serializer_that_cannot_seal_is_named_and_nothing_is_stored(colour: str) -> None:
    safe = Safe()
    session = Session(SessionBuffer(serde=safe), Colour(colour))
    agent = build_graph("agent", session.buffer.checkpointer())
    await session.ask(agent, "hello")
    before = dumps(await session.messages())
    safe.is_locked = True
    for attempt in (lambda: session.event("x"), lambda: session.ask(agent, "again")):
        with pytest.raises(ConfigurationError, match=r"serde=.* the key server does not answer") as refused:
            await attempt()
        assert isinstance(refused.value.__cause__, OSError)
    assert dumps(await session.messages()) == before
    safe.is_locked = False
    await session.ask(agent, "again")
    assert await session.texts() == ["hello", "re: hello", "again", "re: again"]


class Loud:
    """What must not be asked what it is: it fails, or tells a secret."""

    def __repr__(self) -> str:
        raise RuntimeError("secret")


@pytest.mark.parametrize(
    "bad", [10**5000, "long " * 10_000, Loud(), [Loud()], {"a": Loud()}], ids=lambda bad: type(bad).__name__
)
async def test_an_error_is_short_whatever_it_refuses(session: Session, bad: Any) -> None:
    saver = session.buffer.checkpointer()
    for attempt in (
        lambda: session.buffer.history(bad, "s1"),
        lambda: session.buffer.history("alice", bad),
        lambda: session.buffer.set_idle_ttl("alice", "s1", bad),
        lambda: Retention(idle_ttl=bad),
        lambda: SessionBuffer(bad),
        lambda: SessionBuffer(retention=bad),
        lambda: SessionBuffer(serde=bad),
        lambda: MemoryStorage(max_bytes=bad if bad != 10**5000 else -bad),
        lambda: SQLiteStorage(":memory:", timeout=bad),
        lambda: SQLiteStorage(bad if not isinstance(bad, str) else bad + "\0"),
        lambda: SessionBuffer(allow_types=[bad]),
        lambda: session.buffer.checkpointer(serde=bad),
        lambda: saver.get_tuple(bad),
        lambda: saver.get_tuple({"configurable": {"user_id": bad, "thread_id": "s1"}}),
    ):
        with pytest.raises(ConfigurationError) as refused:
            attempt()
        assert len(str(refused.value)) < 500
    for messages in (bad, [bad]):
        with pytest.raises(TypeNotAllowedError) as unstored:
            await session.colour.call(session.history, "add_messages", messages)
        assert len(str(unstored.value)) < 500


# --- calls ------------------------------------------------------------------------------------


async def test_an_unknown_prune_strategy_is_refused(session: Session) -> None:
    await session.event("x")
    saver = session.buffer.checkpointer(user_id="alice")
    with pytest.raises(ConfigurationError, match="keep_latest"):
        await session.colour.call(saver, "prune", ["s1"], strategy="everything")
    assert await session.texts() == ["x"]


@pytest.mark.parametrize("bad", [5, 0, True, b"x", ["x"], [], math.nan])
async def test_what_names_a_checkpoint_or_a_task_is_a_string(session: Session, bad: Any) -> None:
    """What was stored under anything else could not be read again."""
    saver, put, put_writes = session.buffer.checkpointer(), "put", "put_writes"
    config: Any = {"configurable": {"user_id": "alice", "thread_id": "s1"}}
    written = await session.colour.call(saver, put, config, empty_checkpoint(), {}, {})
    elsewhere = {"configurable": {**written["configurable"], "checkpoint_ns": bad}}
    for word, name, arguments in (
        ("checkpoint_ns", "get_tuple", (elsewhere,)),
        ("checkpoint_ns", put, (elsewhere, empty_checkpoint(), {}, {})),
        ("checkpoint_ns", put_writes, (elsewhere, [("a", 1)], "task")),
        ("id", put, (config, {**empty_checkpoint(), "id": bad}, {}, {})),
        ("task_id", put_writes, (written, [("a", 1)], bad)),
        ("task_path", put_writes, (written, [("a", 1)], "task", bad)),
    ):
        with pytest.raises(ConfigurationError, match=word):
            await session.colour.call(saver, name, *arguments)
    assert [found.config for found in await session.colour.collect(saver, "list", config)] == [written]
    assert (await session.colour.call(saver, "get_tuple", config)).pending_writes == []


@pytest.mark.parametrize("ids", ["s1", b"s1", None, 5])
async def test_several_threads_or_runs_are_a_list(session: Session, ids: Any) -> None:
    """Of a string the letters would be taken."""
    for name in "s1":
        await session("alice", name).event("kept")
    saver = session.buffer.checkpointer(user_id="alice")
    with pytest.raises(ConfigurationError, match=r"thread_ids takes a list.*\[thread_id\]"):
        await session.colour.call(saver, "prune", ids, strategy="delete")
    with pytest.raises(ConfigurationError, match=r"run_ids takes a list.*\[run_id\]"):
        await session.colour.call(saver, "delete_for_runs", ids)
    assert [await session("alice", name).texts() for name in "s1"] == [["kept"], ["kept"]]


@pytest.mark.parametrize(
    ("name", "value"), [("filter", "loop"), ("before", "1f0"), ("limit", "5"), ("limit", 1.5), ("limit", True)]
)
async def test_what_narrows_no_list_is_refused_by_name(session: Session, name: str, value: Any) -> None:
    saver = session.buffer.checkpointer(user_id="alice")
    with pytest.raises(ConfigurationError, match=f"^{name} must be"):
        await session.colour.collect(saver, "list", {"configurable": {"thread_id": "s1"}}, **{name: value})


async def test_sessions_of_one_user_and_of_all_cannot_both_be_asked_for(session: Session) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        await session.sessions("alice", all_users=True)


@pytest.mark.parametrize("bad", ["alice", 1, None, math.nan])
async def test_all_users_is_never_asked_for_by_mistake(session: Session, bad: Any) -> None:
    """With the user's name in its place, everyone's sessions would be listed."""
    await session("bob", "s1").event("mine")
    with pytest.raises(ConfigurationError, match="all_users must be True or False"):
        await session.sessions(all_users=bad)


async def test_a_checkpoint_that_is_none_is_refused_before_it_is_stored(session: Session) -> None:
    saver = session.buffer.checkpointer()
    config: Any = {"configurable": {"user_id": "alice", "thread_id": "s1", "checkpoint_ns": ""}}
    written = await session.colour.call(saver, "put", config, empty_checkpoint(), {}, {})
    good = empty_checkpoint()
    without_id = {name: value for name, value in good.items() if name != "id"}
    for bad, metadata, word in (
        ("checkpoint", {}, "checkpoint must be a mapping"),
        (good, None, "metadata must be a mapping"),
        (without_id, {}, "id"),
        ({**good, "id": ""}, {}, r"checkpoint\['id'\] must not be empty"),
        ({**good, "id": "x" * 513}, {}, r"checkpoint\['id'\] must be at most 512 bytes"),
        ({**good, "channel_values": [1]}, {}, "channel_values"),
        ({**good, "channel_versions": "ab"}, {}, "channel_versions"),
        ({**good, "versions_seen": 5}, {}, "versions_seen"),
        ({**good, "versions_seen": {"node": 1}}, {}, "versions_seen.*node"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            await session.colour.call(saver, "put", config, bad, metadata, {})
    for name, value in (("ts", object()), ("updated_channels", {1, 2}), ("channel_versions", {1: 1})):
        with pytest.raises(TypeNotAllowedError, match="text and numbers"):
            await session.colour.call(saver, "put", config, {**good, name: value}, {}, {})
    for writes in (5, [1], [("a",)], [(None, 1)], [("a\0b", 1)]):
        with pytest.raises(ConfigurationError, match=r"pairs of a channel|a write's channel"):
            await session.colour.call(saver, "put_writes", written, writes, "task")
    assert [found.config for found in await session.colour.collect(saver, "list", config)] == [written]
    assert (await session.colour.call(saver, "get_tuple", config)).pending_writes == []


@pytest.mark.parametrize("bad", [True, 1.5, ["x"], {}, pytest.param(10**5000, id="digits"), "x" * 513])
async def test_what_is_no_id_of_a_checkpoint_or_a_run_is_refused(session: Session, bad: Any) -> None:
    """As text it would be the id of another."""
    saver = session.buffer.checkpointer(user_id="alice")
    thread = {"thread_id": "s1"}
    config: Any = {"configurable": {**thread, "checkpoint_id": bad}}
    with pytest.raises(ConfigurationError, match="checkpoint_id must be"):
        await session.colour.call(saver, "get_tuple", config)
    for narrowed in ((config, None), ({"configurable": thread}, config)):
        with pytest.raises(ConfigurationError, match="checkpoint_id must be"):
            await session.colour.collect(saver, "list", narrowed[0], before=narrowed[1])
    with pytest.raises(ConfigurationError, match="run_id must be"):
        await session.colour.call(saver, "delete_for_runs", [bad])


@pytest.mark.parametrize("bad", [0, "", [], "s1"])
async def test_only_no_config_lists_all_threads(session: Session, bad: Any) -> None:
    await session.event("x")
    saver = session.buffer.checkpointer(user_id="alice")
    with pytest.raises(ConfigurationError, match=r"a config must be a mapping.*buffer\.config\("):
        await session.colour.collect(saver, "list", bad)
    of_all, of_none = [await session.colour.collect(saver, "list", config) for config in ({}, None)]
    assert of_all == of_none


@pytest.mark.parametrize("types", [None, 5, "MyType", ["MyType"], [5], [("module", 5)]])
def test_types_that_are_announced_otherwise_are_refused(types: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"types takes a list|pair \(module, name\)"):
        SessionBuffer().checkpointer().with_allowlist(types)


@pytest.mark.parametrize("current", ["", "x", [], object()])
def test_what_is_no_version_has_none_after_it(current: Any) -> None:
    with pytest.raises(ConfigurationError, match="the version of a channel must be a number"):
        SessionBuffer().checkpointer().get_next_version(current, None)


async def test_a_name_with_a_nul_never_means_another_checkpoint(session: Session) -> None:
    saver = session.buffer.checkpointer()

    def config(ns: str, id: str | None = None) -> Any:
        return {"configurable": {"user_id": "alice", "thread_id": "s1", "checkpoint_ns": ns, "checkpoint_id": id}}

    for name, arguments in (
        ("put", (config("a\0b"), empty_checkpoint(), {}, {})),
        ("put", (config("a"), {**empty_checkpoint(), "id": "b\0x"}, {}, {})),
        ("get_tuple", (config("a", "b\0x"),)),
        ("put_writes", (config("a", "b\0x"), [("a", 1)], "task")),
    ):
        with pytest.raises(ConfigurationError, match="NUL"):
            await session.colour.call(saver, name, *arguments)


async def test_what_narrows_a_list_or_a_history_of_writes_is_checked(session: Session) -> None:
    saver = session.buffer.checkpointer()
    config: Any = {"configurable": {"user_id": "alice", "thread_id": "s1"}}
    with pytest.raises(ConfigurationError, match="before must be a config"):
        await session.colour.collect(saver, "list", config, before={"configurable": 5})
    with pytest.raises(ConfigurationError, match="checkpoint_ns must be a string"):
        await session.colour.collect(saver, "list", {"configurable": {**config["configurable"], "checkpoint_ns": 5}})
    with pytest.raises(ConfigurationError, match=r"channels takes a list.*\[channel\]"):
        await session.colour.call(saver, "get_delta_channel_history", config=config, channels="messages")
    with pytest.raises(ConfigurationError, match="a channel must be a string"):
        await session.colour.call(saver, "get_delta_channel_history", config=config, channels=[["messages"]])


@pytest.mark.parametrize("make", [MemoryStorage, SQLiteStorage, RedisStorage])
@pytest.mark.parametrize(
    "bad", [0, "", 5, "now", *(lambda now=now: now for now in ("12", None, math.nan, math.inf, True, -1, 1e12))]
)
def test_a_clock_that_tells_no_time_is_refused(make: Any, bad: Any, tmp_path: Path) -> None:
    place = {MemoryStorage: (), SQLiteStorage: (tmp_path / "s.db",), RedisStorage: ("redis://localhost",)}[make]
    with pytest.raises(ConfigurationError, match=r"clock must (be a function|give seconds)"):
        make(*place, clock=bad)
    assert not (tmp_path / "s.db").exists()


def test_a_storage_that_lacks_what_one_has_is_refused() -> None:
    class NoStorage:
        private = True
        slack = 1.25

        def read(self) -> None: ...

        async def aread(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"must be a URL.*it lacks write, delete, sessions,.*aclose"):
        SessionBuffer(NoStorage())  # type: ignore[arg-type]  # a wrong type is the test


def test_a_storage_of_ones_own_cannot_be_made_without_a_verb() -> None:
    class NoStorage(Storage):
        private = True
        slack = 1.25

    with pytest.raises(TypeError, match="adelete"):
        NoStorage()  # type: ignore[abstract]  # that is the test


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_belongs_to_a_process_is_neither_copied_nor_pickled(take: Any, tmp_path: Path) -> None:
    for storage in (MemoryStorage(), SQLiteStorage(tmp_path / "s.db"), RedisStorage("redis://localhost")):
        buffer = SessionBuffer(storage, default_user="alice")
        for whole in (buffer, buffer.history(session_id="s1")):
            if take is not copy.copy:
                with pytest.raises(ConfigurationError, match=r"cannot be copied or pickled.*by its URL"):
                    take(whole)
        with pytest.raises(ConfigurationError, match=f"{type(storage).__name__}.* stays in the process"):
            take(storage)


async def test_a_single_dict_is_no_list_of_messages(session: Session) -> None:
    with pytest.raises(TypeNotAllowedError, match=r"is not a list of messages; pass \[message\]"):
        await session.colour.call(session.history, "add_messages", {"role": "user", "content": "x"})


def test_every_error_hangs_in_one_tree_that_is_exported_at_the_top() -> None:
    for error in (
        ConfigurationError,
        MissingUserError,
        StorageError,
        langchain_ttl_history.CorruptRecordError,
        TypeNotAllowedError,
        SessionDeletedError,
    ):
        assert issubclass(error, TTLHistoryError)
        assert error.__name__ in langchain_ttl_history.__all__
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(MissingUserError, ConfigurationError)
    assert issubclass(TypeNotAllowedError, TypeError)
