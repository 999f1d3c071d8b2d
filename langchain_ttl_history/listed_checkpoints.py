"""Which checkpoints a session lists: those within the cap, and those beyond it that still wait for an answer."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_ttl_history.flow import Flow, Read
from langchain_ttl_history.freeing.pruning import interrupted_roots, leaves, within_cap
from langchain_ttl_history.index import Line
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Query, Snapshot
from langchain_ttl_history.stored.names import writes_name

__all__ = ["listed_lines"]


def listed_lines(sessions: Sessions, key: SessionKey, roots: Sequence[Line], subs: Sequence[Line]) -> Flow[list[Line]]:
    """The checkpoints that a session lists, oldest first.

    Args:
        sessions: What sessions have in common.
        key: The session.
        roots: Its index, oldest first, each checkpoint once.
        subs: The same of its subgraphs.
    """
    cap = sessions.retention.max_checkpoints
    old = set() if cap is None else {line.id for line in roots[:-cap]}
    # Only one that nothing was built on can still be answered.
    ends = [line for line in leaves(roots) if line.id in old]
    waiting: set[str] = set()
    if ends:
        writes: Snapshot = yield Read(key, Query(tuple(writes_name("", line.id) for line in ends)))
        waiting = interrupted_roots(ends, writes, sessions.codec)
    return within_cap(roots, subs, cap, waiting)
