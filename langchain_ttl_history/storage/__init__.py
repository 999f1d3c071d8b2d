"""The storages, and the contract that all of them keep."""

from typing import TYPE_CHECKING

from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.memory import MemoryStorage
from langchain_ttl_history.storage.types import Usage

if TYPE_CHECKING:
    from langchain_ttl_history.storage.redis import RedisStorage
    from langchain_ttl_history.storage.sqlite import SQLiteStorage

__all__ = ["MemoryStorage", "RedisStorage", "SQLiteStorage", "Storage", "Usage"]

if not TYPE_CHECKING:  # A type checker would take any name for one of these.

    def __getattr__(name: str) -> object:
        # A driver is imported only where it is used.
        if name == "RedisStorage":
            from langchain_ttl_history.storage.redis import RedisStorage

            return RedisStorage
        if name == "SQLiteStorage":
            from langchain_ttl_history.storage.sqlite import SQLiteStorage

            return SQLiteStorage
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
