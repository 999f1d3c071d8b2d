"""Every public name as a typed program uses it; checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from langchain.agents import create_agent
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph import START, MessagesState, StateGraph
from typing_extensions import assert_type

import langchain_ttl_history
import langchain_ttl_history.storage
from langchain_ttl_history import (
    ConfigurationError,
    CorruptRecordError,
    MissingUserError,
    Retention,
    SessionBuffer,
    SessionDeletedError,
    SessionInfo,
    StorageError,
    TTLChatMessageHistory,
    TTLCheckpointSaver,
    TTLHistoryError,
    TypeNotAllowedError,
    default_buffer,
)
from langchain_ttl_history.storage import MemoryStorage, RedisStorage, SQLiteStorage, Storage, Usage
from langchain_ttl_history.testing import StorageContract


class Mine:
    """A type of the program's own."""


def buffers() -> None:
    """Every way to make one."""
    storage: Storage = MemoryStorage(max_sessions=1_000, max_bytes=1 << 20, clock=lambda: 0.0)
    storage = SQLiteStorage("sessions.db", durable=True, timeout=10, clock=lambda: 0.0)
    assert_type(SessionBuffer(), SessionBuffer)
    storage = RedisStorage("redis://localhost:6379/0", prefix="chat", clock=lambda: 0.0)
    SessionBuffer("memory://", default_user=7)
    SessionBuffer(storage, default_user="me", allow_types=[Mine], retention=Retention(idle_ttl=60))
    assert_type(default_buffer(), SessionBuffer)
    with SessionBuffer() as buffer:
        assert_type(buffer, SessionBuffer)


class MyStorageKeepsTheContract(StorageContract):
    """A storage of the program's own, under the contract's tests."""

    def make(self, clock: Callable[[], float]) -> Storage:
        """A fresh one."""
        return MemoryStorage(clock=clock)


def retention() -> None:
    """Seconds, a timedelta, or None."""
    policy = Retention(
        idle_ttl=timedelta(minutes=5),
        max_age=3600.5,
        max_messages=None,
        max_tokens=1_000,
        max_bytes=1 << 20,
        max_checkpoints=10,
        token_counter=len,
    )
    assert_type(policy.max_messages, int | None)

    def count(messages: list[BaseMessage]) -> int:
        return sum(len(message.text) for message in messages)

    Retention(token_counter=count)


def counted_by(model: BaseChatModel) -> None:
    """The counter that every chat model has."""
    Retention(max_tokens=1_000, token_counter=model.get_num_tokens_from_messages)


def configs(buffer: SessionBuffer) -> None:
    """What names a session."""
    assert_type(buffer.config("alice", "s1"), RunnableConfig)
    assert_type(buffer.history_factory_config, list[ConfigurableFieldSpec])


def histories(buffer: SessionBuffer) -> None:
    """The chat history."""
    history = buffer.history("alice", "s1")
    assert_type(history, TTLChatMessageHistory)
    assert_type(buffer.history(session_id="s1"), TTLChatMessageHistory)
    assert_type(buffer.get_session_history("s1"), TTLChatMessageHistory)
    assert_type(buffer.get_session_history("s1", user_id="alice"), TTLChatMessageHistory)
    assert_type(buffer.get_session_history(1, user_id=UUID(int=1)), TTLChatMessageHistory)
    buffer.history(["alice"], 3.5)  # type: ignore[arg-type]  # no ids
    base: BaseChatMessageHistory = history
    base.add_messages([HumanMessage("hi")])
    assert_type(history.messages, list[BaseMessage])
    history.messages = [HumanMessage("hi"), AIMessage("hello")]
    assert_type(history.add_messages([HumanMessage("hi")]), None)
    assert_type(history.add_system_message("user opened billing"), None)
    history.add_system_message(["user opened", {"type": "text", "text": "billing"}])
    assert_type(history.clear(), None)


async def histories_async(buffer: SessionBuffer) -> None:
    """The chat history, async."""
    history = buffer.history("alice", "s1")
    assert_type(await history.aget_messages(), list[BaseMessage])
    assert_type(await history.aadd_messages([HumanMessage("hi")]), None)
    assert_type(await history.aset_messages([HumanMessage("hi")]), None)
    assert_type(await history.aadd_system_message("user opened billing"), None)
    assert_type(await history.aclear(), None)


def administration(buffer: SessionBuffer) -> None:
    """What an operator calls."""
    assert_type(buffer.sessions("alice"), Iterator[SessionInfo])
    assert_type(buffer.sessions(all_users=True), Iterator[SessionInfo])
    info = buffer.info("alice", "s1")
    assert_type(info, SessionInfo | None)
    if info is not None:
        assert_type((info.user_id, info.session_id), tuple[str, str])
        assert_type((info.messages, info.checkpoints, info.bytes), tuple[int, int, int])
        assert_type((info.created_at, info.last_used_at), tuple[datetime, datetime])
        assert_type(info.expires_at, datetime | None)
    assert_type(buffer.delete("alice", "s1"), bool)
    assert_type(buffer.forget("alice"), int)
    buffer.set_idle_ttl("alice", "s1", 7200)
    buffer.set_idle_ttl("alice", "s1", timedelta(hours=2))
    buffer.set_idle_ttl("alice", "s1", None)
    assert_type(buffer.stats(), Usage)
    assert_type(buffer.sweep(), int)
    assert_type(buffer.close(), None)


async def administration_async(buffer: SessionBuffer) -> None:
    """What an operator calls, async."""
    assert_type(buffer.asessions("alice"), AsyncIterator[SessionInfo])
    async for each in buffer.asessions(all_users=True):
        assert_type(each, SessionInfo)
    assert_type(await buffer.ainfo("alice", "s1"), SessionInfo | None)
    assert_type(await buffer.adelete("alice", "s1"), bool)
    assert_type(await buffer.aforget("alice"), int)
    await buffer.aset_idle_ttl("alice", "s1", 7200)
    assert_type(await buffer.astats(), Usage)
    assert_type(await buffer.asweep(), int)
    assert_type(await buffer.aclose(), None)
    async with SessionBuffer() as other:
        assert_type(other, SessionBuffer)


def programs(buffer: SessionBuffer, model: BaseChatModel) -> None:
    """The programs that take part in a session."""
    RunnableWithMessageHistory(
        ChatPromptTemplate.from_messages([("placeholder", "{history}"), ("human", "{input}")]) | model,
        buffer.get_session_history,
        input_messages_key="input",
        history_messages_key="history",
        history_factory_config=buffer.history_factory_config,
    )
    create_agent(model, [], checkpointer=buffer.checkpointer())
    graph = StateGraph(MessagesState).add_node("speak", lambda state: state).add_edge(START, "speak")
    graph.compile(checkpointer=buffer.checkpointer(user_id="alice"))


def checkpointers(buffer: SessionBuffer) -> None:
    """The checkpointer."""
    saver = buffer.checkpointer(user_id=None, user_key="user_id", messages_key="messages", serde=None)
    assert_type(saver, TTLCheckpointSaver)
    base: BaseCheckpointSaver[Any] = saver
    assert_type(base.get_tuple(buffer.config("alice", "s1")), CheckpointTuple | None)
    assert_type(saver.for_user("alice"), TTLCheckpointSaver)
    assert_type(saver.list(None, limit=1), Iterator[CheckpointTuple])
    saver.prune(["s1"], strategy="keep_latest")
    saver.copy_thread("s1", "s2")
    saver.delete_for_runs(["run"])
    saver.delete_thread("s1")


def slips() -> None:
    """A misspelled name is found."""
    print(langchain_ttl_history.SesionBuffer)  # type: ignore[attr-defined]  # as it should be
    print(langchain_ttl_history.storage.MemoryStore)  # type: ignore[attr-defined]  # likewise


def errors(
    error: ConfigurationError
    | MissingUserError
    | StorageError
    | CorruptRecordError
    | TypeNotAllowedError
    | SessionDeletedError,
) -> TTLHistoryError:
    """One class catches them all, and a wrong setting is a ValueError, too."""
    if isinstance(error, ConfigurationError):
        value_error: ValueError = error
        print(value_error)
    return error
