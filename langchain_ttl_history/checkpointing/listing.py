"""Which checkpoints a call to `list` means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig

from langchain_ttl_history.checkpointing.input_checks import checked_checkpoint_id, checked_name
from langchain_ttl_history.checkpointing.loading import Loaded

__all__ = ["matches", "selected"]


def matches(found: Loaded, filter: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint has all of this metadata."""
    return all(found.metadata.get(name) == value for name, value in (filter or {}).items())


def selected(
    listed: Sequence[tuple[str, str]],
    config: RunnableConfig | None,
    before: RunnableConfig | None,
) -> Sequence[tuple[str, str]]:
    """Namespace and id of the checkpoints to list, newest first; `listed` are those of all, oldest first."""
    configurable = (config or {}).get("configurable") or {}
    ns, id = configurable.get("checkpoint_ns"), checked_checkpoint_id(configurable.get("checkpoint_id"))
    if ns is not None:
        checked_name("checkpoint_ns", ns)
    end = checked_checkpoint_id(((before or {}).get("configurable") or {}).get("checkpoint_id"))
    wanted = [place for place in listed if (ns is None or place[0] == ns) and (id is None or place[1] == id)]
    if end is not None:
        # Where `before` is listed, the order of puts decides, whatever the clocks of the workers said. In other threads
        # ids have to do, which count up with time.
        ids = [place[1] for place in wanted]
        wanted = wanted[: ids.index(end)] if end in ids else [p for p in wanted if p[1] < end]
    return wanted[::-1]
