"""Telling what comes late to a deleted session from what comes early to a new one."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from langchain_ttl_history.checkpoints import checkpoint_name
from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.memo import Memo
from langchain_ttl_history.storage.base import Change, Status

__all__ = ["LateWrites", "checkpoints_of"]

logger = logging.getLogger(__name__)

# What the names of checkpoints begin with.
_CHECKPOINT = checkpoint_name("", "")[0]

# How many checkpoints are waited for, and how many of those that were refused are remembered.
_HELD = 1_000
_REFUSED = 1_000


class LateWrites:
    """Pending writes, and checkpoints of subgraphs, that wait for a checkpoint where a tombstone stands.

    Such writes may come before their checkpoint, and a subgraph's checkpoint before that of the root, and carry
    nothing that says which generation they belong to. They wait here, in the process that makes both, until that
    checkpoint is stored or refused.

    Args:
        memo: Knows which checkpoints this process stored; it is told of one before this is.
    """

    def __init__(self, memo: Memo) -> None:
        self._memo = memo
        # Hashes, so that nothing of a deleted session is remembered.
        self._refused: OrderedDict[int, None] = OrderedDict()
        self._held: OrderedDict[tuple[SessionKey, str], list[Change]] = OrderedDict()
        self._told: OrderedDict[int, None] = OrderedDict()
        self._lock = lock()

    def settled(self, key: SessionKey, name: str, status: Status) -> Sequence[Change]:
        """What waited for a checkpoint and can be stored, now that it is; what waited for a refused one is dropped."""
        if status is Status.STORED:
            if not self._held and not self._told:
                return ()
            with self._lock:
                self._told.pop(hash(key), None)
                waited = self._held.pop((key, name), ())
            # Still only while the checkpoint is there, which may have been deleted by now.
            return [replace(change, at_generation=None) for change in waited]
        with self._lock:
            self._refuse(key, name)
        self._tell(key)
        return ()

    def _refuse(self, key: SessionKey, name: str) -> None:
        """Drop what waited for a checkpoint, and for those among that in turn."""
        _remember(self._refused, hash((key, name)))
        for change in self._held.pop((key, name), ()):
            for each in checkpoints_of(change):
                self._refuse(key, each)

    def came_late(self, key: SessionKey, change: Change, status: Status) -> bool:
        """Whether this was refused though the checkpoint it needs was met, perhaps only since: it is tried once more.

        What else was refused waits for that checkpoint.
        """
        if status is not Status.DELETED:
            return False
        name = change.guard.needs
        if name is None:
            # It says which generation it belongs to.
            self._tell(key)
            return False
        with self._lock:
            held = self._held.setdefault((key, name), [])
            held.append(change)
            # Looked up now that it can be found: who stores the checkpoint meanwhile looks here without the lock.
            if self._memo.put_in(key, name) is not None or hash((key, name)) in self._refused:
                held.remove(change)
                if not held:
                    del self._held[key, name]
                return True
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
            return False

    def retried(self, key: SessionKey, status: Status) -> None:
        """Say so if what came late was refused again."""
        if status is Status.DELETED:
            self._tell(key)

    def _tell(self, key: SessionKey) -> None:
        """Say that writes of this session are refused: once, until one is stored."""
        with self._lock:
            known = hash(key) in self._told
            _remember(self._told, hash(key))
        if not known:
            logger.warning(
                "Session %s was deleted while a turn was running: what that turn still writes is not stored.",
                tuple(key),
            )


def checkpoints_of(change: Change) -> list[str]:
    """The names of the checkpoints that a change stores."""
    return [name for name in change.blobs if name[0] == _CHECKPOINT]


def _remember(hashes: OrderedDict[int, None], known: int) -> None:
    hashes[known] = None
    while len(hashes) > _REFUSED:
        hashes.popitem(last=False)
