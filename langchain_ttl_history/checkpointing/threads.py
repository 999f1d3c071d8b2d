"""Threads as LangGraph's configs name them: whose session it is, which namespace and which checkpoint."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from langchain_core.runnables import RunnableConfig

from langchain_ttl_history.checkpointing.input_checks import checked_checkpoint_id, checked_name
from langchain_ttl_history.errors import ConfigurationError, MissingUserError, brief
from langchain_ttl_history.keys import OwnedThread, SessionKey, valid_id

__all__ = ["Threads", "flattened"]

# The classes of ids that are told apart by their letters alone.
_TEXTS = frozenset({str, OwnedThread})
_RESERVED_KEYS = frozenset({"thread_id", "session_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map"})


@dataclass(frozen=True)
class Threads:
    """Finds the session that a config names."""

    user_key: str
    """The configurable that names the user."""
    user_id: str | None
    """The user it is bound to, if any."""
    default_user: str | None

    def __post_init__(self) -> None:
        """Refuse a key that is taken.

        Raises:
            ConfigurationError: Configs name something else by it.
        """
        if self.user_key in _RESERVED_KEYS:
            raise ConfigurationError(
                f"user_key must not be {self.user_key!r}, which has another meaning in a config; choose another key"
            )

    def of_user(self, user_id: object) -> Threads:
        """The same, limited to one user's sessions.

        Raises:
            ConfigurationError: These are limited to another user already, or the id is not valid.
        """
        user = valid_id("user_id", user_id)
        if self.user_id not in (None, user):
            raise ConfigurationError(
                f"this checkpointer is bound to user {self.user_id!r}, not {user!r}; "
                "call for_user on one that is bound to no user"
            )
        return Threads(self.user_key, user, self.default_user)

    def user(self, named: object = None) -> str:
        """The user that a config names, or else the bound or the default user.

        Raises:
            ConfigurationError: The config names another user than the bound one.
            MissingUserError: It names none, and there is no bound or default user.
        """
        if named is not None:
            user = valid_id(self.user_key, named)
            if self.user_id not in (None, user):
                raise ConfigurationError(
                    f"the config names user {user!r}, but this checkpointer is bound to "
                    f"{self.user_id!r}; use that user's config, or another checkpointer"
                )
            return user
        user_or_none = self.user_id or self.default_user
        if user_or_none is None:
            by_buffer = " (buffer.config does)" if self.user_key == "user_id" else ""
            raise MissingUserError(
                f"no user is named: put {self.user_key!r} in config['configurable']{by_buffer}, "
                "or bind one with checkpointer(user_id=...), .for_user(...) or SessionBuffer(default_user=...)"
            )
        return user_or_none

    def session(self, thread_id: object) -> SessionKey:
        """The session of a thread that is named without a config."""
        return SessionKey(self.user(), valid_id("thread_id", thread_id))

    def key(self, config: RunnableConfig) -> SessionKey:
        """The session a config names.

        Raises:
            ConfigurationError: It names no thread, or another user than the bound one.
            MissingUserError: It names no user.
        """
        try:
            configurable = config.get("configurable") or {}
            thread_id = configurable.get("thread_id")
        except AttributeError:
            raise ConfigurationError(
                f"a config must be a mapping with a mapping in 'configurable', not {brief(config)}; "
                "buffer.config(user_id, session_id) makes one"
            ) from None
        if thread_id is None:
            raise ConfigurationError(
                "config['configurable'] has no 'thread_id'; buffer.config(user_id, session_id) makes such a config"
            )
        named = configurable.get(self.user_key)
        if type(named) is str and type(thread_id) in _TEXTS and self.user_id in (None, named):
            return _key_of(named, thread_id, self.user_key)
        if named is None and isinstance(thread_id, OwnedThread):
            named = thread_id.user_id
        return SessionKey(self.user(named), valid_id("thread_id", thread_id))

    def locate(self, config: RunnableConfig) -> tuple[SessionKey, str, str | None]:
        """The session, namespace and checkpoint a config names."""
        key = self.key(config)
        configurable = config["configurable"]
        ns, id = configurable.get("checkpoint_ns"), configurable.get("checkpoint_id")
        return key, "" if ns is None else checked_name("checkpoint_ns", ns), checked_checkpoint_id(id)

    def config(self, given: RunnableConfig | None, key: SessionKey, ns: str, id: str) -> RunnableConfig:
        """The config of a checkpoint, with the user exactly where the caller gave one."""
        made: dict[str, Any] = {
            "thread_id": key.session_id,
            "checkpoint_ns": ns,
            "checkpoint_id": id,
        }
        configurable = (given or {}).get("configurable") or {}
        if configurable.get(self.user_key) is not None:
            made[self.user_key] = key.user_id
            made["thread_id"] = OwnedThread(key)
        elif isinstance(configurable.get("thread_id"), OwnedThread):
            made["thread_id"] = OwnedThread(key)
        return {"configurable": made}


def flattened(config: RunnableConfig) -> RunnableConfig:
    """A config whose metadata is a plain dict.

    LangGraph passes a ChainMap, and iterating over that takes longer than everything else in the making of a put.
    """
    given: Mapping[str, Any] | None = config.get("metadata")
    if not isinstance(given, ChainMap):
        return config
    return {**config, "metadata": {name: value for each in reversed(given.maps) for name, value in each.items()}}


@lru_cache(maxsize=1024)
def _key_of(user_id: str, thread_id: str, user_key: str) -> SessionKey:
    """The key of a user and a thread; cached, so that it is validated once for the many steps of a turn."""
    return SessionKey(valid_id(user_key, user_id), valid_id("thread_id", thread_id))
