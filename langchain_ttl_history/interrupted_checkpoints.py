"""Which checkpoints are listed beyond the cap: those that still wait for an answer."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_ttl_history.flow import Flow, Read
from langchain_ttl_history.freeing.pruning import interrupted_roots, leaves
from langchain_ttl_history.index import Line
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Query, Snapshot
from langchain_ttl_history.stored.names import writes_name

__all__ = ["interrupted_beyond_cap"]


def interrupted_beyond_cap(sessions: Sessions, key: SessionKey, roots: Sequence[Line]) -> Flow[set[str]]:
    """Ids of the root checkpoints that nothing was built on, older than the cap allows, with an unanswered interrupt.

    Args:
        sessions: What sessions have in common.
        key: The session.
        roots: Its index, oldest first, each checkpoint once.
    """
    cap = sessions.retention.max_checkpoints
    old = set() if cap is None else {line.id for line in roots[:-cap]}
    ends = [line for line in leaves(roots) if line.id in old]
    if not ends:
        return set()
    writes: Snapshot = yield Read(key, Query(tuple(writes_name("", line.id) for line in ends)))
    return interrupted_roots(ends, writes, sessions.codec)
