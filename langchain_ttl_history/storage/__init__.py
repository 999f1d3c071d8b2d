"""The storages, and the contract that all of them keep."""

from typing import TYPE_CHECKING, Any

from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from langchain_ttl_history.storage.redis import RedisStorage

__all__ = ["MemoryStorage", "RedisStorage", "Storage"]


def __getattr__(name: str) -> Any:
    # Read from its files only where it is used.
    if name == "RedisStorage":
        from langchain_ttl_history.storage.redis import RedisStorage

        return RedisStorage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
