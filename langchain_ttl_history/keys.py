"""The session key: whose session it is and which one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, TypeAlias
from uuid import UUID

from langchain_ttl_history.errors import ConfigurationError, brief

__all__ = [
    "MAX_ID_BYTES",
    "Id",
    "OwnedThread",
    "SessionKey",
    "encoded",
    "keys_concerned",
    "label",
    "user_digest",
    "valid_id",
]

MAX_ID_BYTES = 512
"""The longest user or session id, in UTF-8 bytes."""

Id: TypeAlias = "str | int | UUID"
"""What a user or a session is named by; an int or a UUID becomes a string."""


class SessionKey(NamedTuple):
    """The pair that names a session, each part by `valid_id`; two keys are one session only if both are equal."""

    user_id: str
    session_id: str

    @property
    def digest(self) -> str:
        """A fixed-length name of the key that does not tell the key.

        The parts are length-prefixed first, so no choice of characters makes two keys collide.
        """
        user, session = encoded(self.user_id), encoded(self.session_id)
        prefixed = len(user).to_bytes(4, "big") + user + session
        return hashlib.blake2b(prefixed, digest_size=16).hexdigest()


class OwnedThread(str):  # noqa: SLOT000  # str has no room for a named slot
    """A thread's id that remembers whose it is.

    LangGraph makes the config of a subgraph's state from the thread's id alone and leaves the
    user out; to everyone else it is the string it equals.
    """

    user_id: str

    def __new__(cls, key: SessionKey) -> OwnedThread:
        """The session's id as a thread's id."""
        made = super().__new__(cls, key.session_id)
        made.user_id = key.user_id
        return made

    def __reduce__(self) -> tuple[type[OwnedThread], tuple[SessionKey]]:
        # What a copy or a pickle of a config makes it from.
        return OwnedThread, (SessionKey(self.user_id, str.__str__(self)),)

    def __str__(self) -> str:
        return self


def encoded(text: str) -> bytes:
    """A text as bytes, half of a surrogate pair in it included."""
    return text.encode("utf-8", "surrogatepass")


def keys_concerned(keys: Iterable[SessionKey], user_id: str, session_id: str | None) -> list[SessionKey]:
    """The keys a deletion is about: that of one session, or without a session's id those of the user among `keys`."""
    if session_id is not None:
        return [SessionKey(user_id, session_id)]
    return [key for key in keys if key.user_id == user_id]


@lru_cache(maxsize=1024)
def user_digest(user_id: str) -> str:
    """A fixed-length name of a user that does not tell who it is, and equals no session's digest."""
    return hashlib.blake2b(encoded(user_id), digest_size=15).hexdigest()


@lru_cache(maxsize=1024)
def label(key: SessionKey) -> str:
    """How errors name the session."""
    return f"session {tuple(key)}"


def valid_id(name: str, value: object) -> str:
    """An id as a string.

    Args:
        name: What the id is called in an error.
        value: A string, an int or a UUID.

    Raises:
        ConfigurationError: It is empty, too long, holds a NUL or is of another type.
    """
    if type(value) is str and 0 < len(value) <= MAX_ID_BYTES // 4 and "\0" not in value:
        return value  # At most four bytes a character.
    if isinstance(value, (int, UUID)) and not isinstance(value, bool):
        try:
            # By its value, not by its class's own `__str__`: if that masks it, all users would become one.
            kind: type = type(value)  # `isinstance` also holds for a proxy of an int, whose own type this is.
            spelled = UUID.__str__ if issubclass(kind, UUID) else int.__repr__ if issubclass(kind, int) else str
            value = spelled(value)
        except ValueError as error:
            # Python writes out no number of over 4,300 digits.
            raise ConfigurationError(f"{name} must be at most {MAX_ID_BYTES} bytes long: {brief(value)}") from error
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{name} must be a string, an int or a UUID, not {brief(value)} of type {type(value).__name__}"
        )
    if not value:
        raise ConfigurationError(f"{name} must not be empty")
    if "\0" in value:
        raise ConfigurationError(f"{name} must not contain a NUL character: {value[:80]!r}")
    size = len(encoded(value))
    if size > MAX_ID_BYTES:
        raise ConfigurationError(f"{name} must be at most {MAX_ID_BYTES} bytes long, not {size}: {value[:80]!r}...")
    return str.__str__(value)  # A plain one, whatever its class writes it as.
