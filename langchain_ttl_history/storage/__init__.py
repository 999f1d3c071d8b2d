"""The storages, and the contract that all of them keep."""

from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.memory import MemoryStorage

__all__ = ["MemoryStorage", "Storage"]
