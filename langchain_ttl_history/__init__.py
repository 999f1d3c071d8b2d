"""Session memory for LangChain chains and LangGraph agents: bounded, expiring, shared."""

from langchain_ttl_history.buffer import SessionBuffer, default_buffer
from langchain_ttl_history.checkpointer import TTLCheckpointSaver
from langchain_ttl_history.errors import (
    ConfigurationError,
    CorruptRecordError,
    MissingUserError,
    SessionDeletedError,
    StorageError,
    TTLHistoryError,
    TypeNotAllowedError,
)
from langchain_ttl_history.history import TTLChatMessageHistory
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.sessions import SessionInfo

__all__ = [
    "ConfigurationError",
    "CorruptRecordError",
    "MissingUserError",
    "Retention",
    "SessionBuffer",
    "SessionDeletedError",
    "SessionInfo",
    "SessionKey",
    "StorageError",
    "TTLChatMessageHistory",
    "TTLCheckpointSaver",
    "TTLHistoryError",
    "TypeNotAllowedError",
    "default_buffer",
]
