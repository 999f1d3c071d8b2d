"""Every error this package raises on purpose, in one tree."""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "CorruptRecordError",
    "MissingUserError",
    "SessionDeletedError",
    "StorageError",
    "TTLHistoryError",
    "TypeNotAllowedError",
]


class TTLHistoryError(Exception):
    """The root of the tree: catch it to catch all of them."""


class ConfigurationError(TTLHistoryError, ValueError):
    """A setting, an id or a config is wrong; nothing was stored."""


class MissingUserError(ConfigurationError):
    """No user was named and there is no default user."""


class StorageError(TTLHistoryError):
    """The storage could not be reached or refused to work; its error is the cause."""


class CorruptRecordError(TTLHistoryError):
    """A stored record cannot be read: damaged, or written in a newer format."""


class TypeNotAllowedError(TTLHistoryError, TypeError, ValueError):
    """A value of this type would not come back as it went in; nothing was stored."""


class SessionDeletedError(TTLHistoryError):
    """The session was deleted while this turn was running; its write was refused."""
