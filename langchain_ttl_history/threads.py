"""Threads as LangGraph names them: ids in configs, and which checkpoints a call to list means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig

from langchain_ttl_history.checkpoint_reads import Loaded
from langchain_ttl_history.errors import ConfigurationError
from langchain_ttl_history.index import Line
from langchain_ttl_history.keys import SessionKey

__all__ = ["OwnedThread", "checked_strategy", "checkpoint_id_of", "matches", "selected"]


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
        ConfigurationError: It is not.
    """
    if strategy not in ("keep_latest", "delete"):
        raise ConfigurationError(f"strategy must be 'keep_latest' or 'delete', not {strategy!r}")
    return thread_ids


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
    places = [("", first)] if first is not None else [(line.ns, line.id) for line in lines]
    wanted = [place for place in places if (ns is None or place[0] == ns) and (not id or place[1] == id)]
    if end:
        # Among its like a checkpoint comes before another that was put later, whatever the
        # clocks of the workers said; elsewhere ids, which count up, must do.
        ids = [place[1] for place in wanted]
        wanted = wanted[: ids.index(end)] if end in ids else [p for p in wanted if p[1] < end]
    return wanted[::-1]
