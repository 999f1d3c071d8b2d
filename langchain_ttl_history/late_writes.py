"""Telling late writes of a deleted session from early ones of a new one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.memo import Memo
from langchain_ttl_history.storage.base import Change

__all__ = ["LateWrites"]

# How many checkpoints are waited for, and how many of those that were refused are remembered.
_HELD = 1_000
_REFUSED = 1_000


class LateWrites:
    """Pending writes that wait for their checkpoint where a tombstone stands.

    Such writes may come before their checkpoint and carry nothing that says which generation
    they belong to. They wait here, in the process that makes both, until their checkpoint is
    stored or refused.

    Args:
        memo: Knows which checkpoints this process stored; it is told of one before this is.
    """

    def __init__(self, memo: Memo) -> None:
        self._memo = memo
        # Hashes, so that nothing of a deleted session is remembered.
        self._refused: OrderedDict[int, None] = OrderedDict()
        self._held: OrderedDict[tuple[SessionKey, str], list[Change]] = OrderedDict()
        self._told: OrderedDict[int, None] = OrderedDict()
        self._lock = Lock()

    def tell(self, key: SessionKey) -> bool:
        """Whether to say that writes of this session are refused: once, until one is stored."""
        with self._lock:
            known = hash(key) in self._told
            _remember(self._told, hash(key))
            return not known

    def hold(self, key: SessionKey, name: str, change: Change) -> bool:
        """Hold a change until `name` is stored; False if it was stored or refused before."""
        with self._lock:
            held = self._held.setdefault((key, name), [])
            held.append(change)
            # Looked up now that it can be found: who stores the checkpoint meanwhile looks here without the lock.
            if self._memo.put_in(key, name) is not None or hash((key, name)) in self._refused:
                held.remove(change)
                if not held:
                    del self._held[key, name]
                return False
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
            return True

    def stored(self, key: SessionKey, name: str) -> Sequence[Change]:
        """What waited for `name`, now that it is stored."""
        if not self._held and not self._told:
            return ()
        with self._lock:
            self._told.pop(hash(key), None)
            return self._held.pop((key, name), ())

    def refused(self, key: SessionKey, name: str) -> None:
        """Drop what waited for a checkpoint that was refused."""
        with self._lock:
            _remember(self._refused, hash((key, name)))
            self._held.pop((key, name), None)


def _remember(hashes: OrderedDict[int, None], known: int) -> None:
    hashes[known] = None
    while len(hashes) > _REFUSED:
        hashes.popitem(last=False)
