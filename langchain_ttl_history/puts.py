"""A checkpoint that is to be put, with the names it and its parent have in a session."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from langchain_ttl_history.checkpoints import checkpoint_name
from langchain_ttl_history.storage.base import Guard

__all__ = ["Put"]


class Put(NamedTuple):
    """A checkpoint as a graph hands it over."""

    ns: str
    id: str
    name: str
    """Of the checkpoint, in its session."""
    parent: str | None
    parent_name: str
    """Of its parent, if it has one."""
    checkpoint: Mapping[str, Any]
    metadata: dict[str, Any]
    changed: Container[str]
    """The channels whose value is another than the parent's, as LangGraph says."""

    @property
    def guard(self) -> Guard:
        """What it continues when its run carries no token."""
        if not self.ns:
            return Guard(needs=None if self.parent is None else checkpoint_name("", self.parent))
        root = (self.metadata.get("parents") or {}).get("")
        return Guard(needs=checkpoint_name("", root) if root else None)
