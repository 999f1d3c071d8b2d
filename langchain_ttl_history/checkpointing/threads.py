"""Threads as LangGraph names them: ids in configs, and which checkpoints a call to list means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from langchain_core.runnables import RunnableConfig

from langchain_ttl_history.checkpointing.reads import Loaded
from langchain_ttl_history.errors import ConfigurationError, MissingUserError, shown
from langchain_ttl_history.index import Line
from langchain_ttl_history.keys import SessionKey, valid_id

__all__ = [
    "OwnedThread",
    "Threads",
    "check_narrowing",
    "checked_name",
    "checked_strategy",
    "checkpoint_id_of",
    "listed",
    "matches",
    "selected",
]


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

    def __str__(self) -> str:
        return self


@dataclass(frozen=True)
class Threads:
    """Whose sessions configs name."""

    user_key: str
    """The configurable that names the user."""
    user_id: str | None
    """The one user there may be."""
    default_user: str | None

    def of_user(self, user_id: object) -> Threads:
        """The same, limited to one user's sessions.

        Raises:
            ConfigurationError: These are limited to another user already, or the id is not valid.
        """
        user = valid_id("user_id", user_id)
        if self.user_id not in (None, user):
            raise ConfigurationError(f"this checkpointer is bound to user {self.user_id!r}, not {user!r}")
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
            raise MissingUserError(
                f"no user is named: put {self.user_key!r} in config['configurable'] "
                "(buffer.config does), or bind one with checkpointer(user_id=...), "
                ".for_user(...) or SessionBuffer(default_user=...)"
            )
        return user_or_none

    def session(self, thread_id: object) -> SessionKey:
        """The session of a thread that is named without a config."""
        return SessionKey.of(self.user(), thread_id)

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
                f"a config is a mapping that has another in 'configurable', not {shown(config)}"
            ) from None
        if thread_id is None:
            raise ConfigurationError(
                "config['configurable'] has no 'thread_id'; buffer.config(user_id, session_id) makes such a config"
            )
        named = configurable.get(self.user_key)
        if type(named) is str and type(thread_id) is str and self.user_id in (None, named):
            return _key_of(named, thread_id, self.user_key)
        if named is None and isinstance(thread_id, OwnedThread):
            named = thread_id.user_id
        return SessionKey(self.user(named), valid_id("thread_id", thread_id))

    def place(self, config: RunnableConfig) -> tuple[SessionKey, str, str | None]:
        """The session, namespace and checkpoint a config names."""
        key = self.key(config)
        configurable = config["configurable"]
        ns, id = configurable.get("checkpoint_ns") or "", configurable.get("checkpoint_id")
        return key, checked_name("checkpoint_ns", ns), None if not id else str(id)

    def config(self, given: RunnableConfig | None, key: SessionKey, ns: str, id: str) -> RunnableConfig:
        """The config of a checkpoint, with the user exactly where the caller gave one."""
        made: dict[str, Any] = {
            "thread_id": key.session_id,
            "checkpoint_ns": ns,
            "checkpoint_id": id,
        }
        if ((given or {}).get("configurable") or {}).get(self.user_key) is not None:
            made[self.user_key] = key.user_id
            made["thread_id"] = OwnedThread(key)
        return {"configurable": made}


@lru_cache(maxsize=1024)
def _key_of(user_id: str, thread_id: str, user_key: str) -> SessionKey:
    """The key of a user and a thread; cached, so that it is validated once for the many steps of a turn."""
    return SessionKey(valid_id(user_key, user_id), valid_id("thread_id", thread_id))


def checked_name(name: str, value: object) -> str:
    """What LangGraph names something by: a namespace, a checkpoint, a task.

    Raises:
        ConfigurationError: It is no string, and what is stored under it could not be read again.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {shown(value)} of type {type(value).__name__}")
    return value


def checkpoint_id_of(id: str | None) -> str:
    """The checkpoint to write to.

    Raises:
        ConfigurationError: The config names none.
    """
    if id is None:
        raise ConfigurationError("config['configurable'] has no 'checkpoint_id' to write to")
    return id


def checked_strategy(thread_ids: Sequence[str], strategy: str) -> Sequence[str]:
    """The threads to prune, if the strategy is one that is known.

    Raises:
        ConfigurationError: It is not, or these are no threads.
    """
    if strategy not in ("keep_latest", "delete"):
        raise ConfigurationError(f"strategy must be 'keep_latest' or 'delete', not {shown(strategy)}")
    return listed("thread_ids", thread_ids)


def listed(name: str, ids: object) -> list[Any]:
    """Several ids.

    Raises:
        ConfigurationError: They are one string, whose letters are not meant, or not several.
    """
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise ConfigurationError(f"{name} takes a list, not {shown(ids)}; pass [{name[:-1]}]")
    return [*ids]


def check_narrowing(filter: object, before: object, limit: object) -> None:
    """Refuse what cannot narrow a list of checkpoints.

    Raises:
        ConfigurationError: It names what is wrong.
    """
    for name, value, form in (("filter", filter, "{'source': 'loop'}"), ("before", before, "a config")):
        if value is not None and not isinstance(value, Mapping):
            raise ConfigurationError(f"{name} must be a mapping like {form}, or None, not {shown(value)}")
    if limit is not None and not isinstance(limit, int):
        raise ConfigurationError(f"limit must be a whole number, or None for all, not {shown(limit)}")


def matches(found: Loaded, filter: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint has all of this metadata."""
    return all(found.metadata.get(name) == value for name, value in (filter or {}).items())


def selected(
    found: tuple[Sequence[Line], str | None],
    config: RunnableConfig | None,
    before: RunnableConfig | None,
) -> Sequence[tuple[str, str]]:
    """Namespace and id of the checkpoints to list, newest first."""
    lines, first = found
    configurable = (config or {}).get("configurable") or {}
    ns, id = configurable.get("checkpoint_ns"), configurable.get("checkpoint_id")
    end = ((before or {}).get("configurable") or {}).get("checkpoint_id")
    id, end = (str(each) if each else None for each in (id, end))
    places = [("", first)] if first is not None else [(line.ns, line.id) for line in lines]
    wanted = [place for place in places if (ns is None or place[0] == ns) and (id is None or place[1] == id)]
    if end is not None:
        # Where `before` is listed, the order of puts decides, whatever the clocks of the workers said. In other threads
        # ids have to do, which count up with time.
        ids = [place[1] for place in wanted]
        wanted = wanted[: ids.index(end)] if end in ids else [p for p in wanted if p[1] < end]
    return wanted[::-1]
