"""Sessions in one SQLite file, for the processes of one host."""

from langchain_ttl_history.storage.sqlite.storage import SQLiteStorage

__all__ = ["SQLiteStorage"]
