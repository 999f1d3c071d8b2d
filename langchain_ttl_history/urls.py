"""Storages by their URLs."""

from __future__ import annotations

from langchain_ttl_history.errors import ConfigurationError, unknown_url
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.memory import MemoryStorage

__all__ = ["open_storage"]

_REDIS = {"redis", "rediss", "valkey", "valkeys"}
_FORMS = {
    "memory": "memory://",
    "sqlite": "sqlite:///path.db",
    **{f"{name}{suffix}": f"{name}{suffix}://host:6379/0" for name in _REDIS for suffix in ("", "+cluster")},
}


def open_storage(url: str | None) -> Storage:
    """The storage a URL names; this process's memory without one.

    Raises:
        ConfigurationError: No storage is known for it, it names none, or its driver is missing.
        StorageError: It cannot be opened.
    """
    # A driver is imported here, so that nobody else loads it.
    if url is None or url in ("memory:", "memory://"):
        return MemoryStorage()
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return _sqlite(rest)
    if scheme.partition("+")[0] in _REDIS and "://" in url:
        from langchain_ttl_history.storage.redis import RedisStorage

        return RedisStorage(url)
    raise _refused(url)


def _refused(url: str) -> ConfigurationError:
    """What is wrong with a URL; nothing but its scheme is shown, since the rest may hold a password."""
    name = url.partition(":")[0]
    if name in _FORMS:
        return ConfigurationError(f"a {name} URL is written {_FORMS[name]}")
    what = unknown_url("storage", _FORMS, url)
    return ConfigurationError(f"{what}; use memory://, sqlite:///path.db, redis://host:6379/0 or valkey://host:6379/0")


def _sqlite(rest: str) -> Storage:
    from langchain_ttl_history.storage.sqlite import SQLiteStorage

    host, slash, path = rest.partition("/")
    if host or not slash or not path or "?" in path:
        # Not shown: it may be a URL of another database, or of a driver that encrypts, with a password.
        raise ConfigurationError(
            "'sqlite://...' names no file: write sqlite:///relative.db, sqlite:////absolute.db (on Windows "
            "sqlite:///C:/absolute.db) or sqlite:///:memory:, without options; SQLiteStorage(path, durable=..., "
            "timeout=..., clock=...) takes those"
        )
    return SQLiteStorage(path)
