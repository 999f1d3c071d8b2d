"""Session memory for LangChain chains and LangGraph agents: bounded, expiring, shared."""

from typing import TYPE_CHECKING

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
from langchain_ttl_history.history_import import import_history
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.session_info import SessionInfo

if TYPE_CHECKING:
    from langchain_ttl_history.history import TTLChatMessageHistory

__all__ = [
    "ConfigurationError",
    "CorruptRecordError",
    "MissingUserError",
    "Retention",
    "SessionBuffer",
    "SessionDeletedError",
    "SessionInfo",
    "StorageError",
    "TTLChatMessageHistory",
    "TTLCheckpointSaver",
    "TTLHistoryError",
    "TypeNotAllowedError",
    "default_buffer",
]

if not TYPE_CHECKING:  # A type checker would take any name for one of these.

    def __getattr__(name: str) -> object:
        # Its base class goes in langchain-core 2.0; everything else here works without it.
        if name == "TTLChatMessageHistory":
            try:
                return import_history()
            except ConfigurationError as error:
                raise ImportError(str(error)) from error
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
