"""Telling late writes of a deleted session from early ones of a new one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Change

__all__ = ["LateWrites"]

# How many changes wait for their checkpoint, and how many checkpoints are remembered as met.
_HELD = 1_000
_MET = 1_000


class LateWrites:
    """Pending writes that wait for their checkpoint where a tombstone stands.

    Such writes may come before their checkpoint and carry nothing that says which generation
    they belong to. They wait here, in the process that makes both, until their checkpoint is
    stored or refused.
    """

    def __init__(self) -> None:
        # Hashes, so that nothing of a deleted session is remembered.
        self._met: OrderedDict[int, None] = OrderedDict()
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
        """Hold a change until `name` is stored; False if it was met before."""
        with self._lock:
            if hash((key, name)) in self._met:
                return False
            self._held.setdefault((key, name), []).append(change)
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
            return True

    def stored(self, key: SessionKey, name: str) -> Sequence[Change]:
        """Remember that `name` was stored. Returns what waited for it."""
        with self._lock:
            _remember(self._met, hash((key, name)))
            if self._told:
                self._told.pop(hash(key), None)
            return self._held.pop((key, name), ()) if self._held else ()

    def refused(self, key: SessionKey, name: str) -> None:
        """Drop what waited for a checkpoint that was refused."""
        with self._lock:
            _remember(self._met, hash((key, name)))
            self._held.pop((key, name), None)


def _remember(hashes: OrderedDict[int, None], known: int) -> None:
    hashes[known] = None
    while len(hashes) > _MET:
        hashes.popitem(last=False)
