"""Writes that a tombstone refused: they wait until the checkpoint they need is stored, or is refused as well.

A turn that had stored nothing when its session was deleted counts as new; what it stores may arrive in any order:

```text
 the session is deleted
 writes pending on c1      name a checkpoint that is not stored, so they are refused: they wait for c1
 c1, which has no parent   continues nothing that was deleted, so it is stored, and then the writes
```

If the turn has stored something before the deletion, c1 names that as its parent. So c1 is refused, and the writes are
dropped.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.storage.types import Change
from langchain_ttl_history.stored.names import CHECKPOINT

__all__ = ["LateWrites", "checkpoints_of"]

logger: logging.Logger = logging.getLogger(__name__)

# For how many checkpoints writes wait, and how many bytes of them; and how many refused ones are remembered. The
# checkpoint of a turn that was cancelled never comes.
_WAITING = 1_000
_BYTES = 32 * 1024 * 1024
_REFUSED = 1_000


class LateWrites:
    """Pending writes and subgraphs' checkpoints that a tombstone refused, by the checkpoint that each waits for.

    Pending writes may come before their checkpoint, and a subgraph's checkpoint before the root's, and neither says
    which generation it belongs to. So they wait here, in the process that makes both.

    Args:
        cache: Knows which checkpoints this process stored. It must know of a checkpoint before `released` is called.
    """

    def __init__(self, cache: SessionCache) -> None:
        self._cache = cache
        # Hashes, so that nothing of a deleted session is remembered.
        self._refused: OrderedDict[int, None] = OrderedDict()
        self._waiting: OrderedDict[tuple[SessionKey, str], list[Change]] = OrderedDict()
        self._bytes = 0
        self._warned: OrderedDict[int, None] = OrderedDict()
        self._lock = lock()

    def released(self, key: SessionKey, name: str) -> Sequence[Change]:
        """The changes that waited for a checkpoint, to be written now that it is stored."""
        if not self._waiting and not self._warned:
            return ()
        with self._lock:
            self._warned.pop(hash(key), None)
            waited = self._taken((key, name))
        # They still need the checkpoint (`Guard.needs`), which may have been deleted by now.
        return [replace(change, at_generation=None) for change in waited]

    def refuse(self, key: SessionKey, name: str) -> None:
        """Drop what waited for a checkpoint that was refused, and in turn what waited for any checkpoint among that."""
        with self._lock:
            self._drop(key, name)
        self.warn(key)

    def _drop(self, key: SessionKey, name: str) -> None:
        _remember(self._refused, hash((key, name)))
        for change in self._taken((key, name)):
            for each in checkpoints_of(change):
                self._drop(key, each)

    def _taken(self, needed: tuple[SessionKey, str]) -> Sequence[Change]:
        taken = self._waiting.pop(needed, ())
        self._bytes -= sum(map(_size, taken))
        return taken

    def hold(self, key: SessionKey, change: Change) -> bool:
        """Hold a change until the checkpoint it needs is stored or refused; False if the caller has to write it again.

        It has to if the checkpoint was stored or refused just now, so that nobody would release the change. One that
        names its generation instead of a checkpoint is not held but dropped, since that generation was deleted; and so
        is one that is too large for the bound, with what waits for the same checkpoint, rather than all that waits.

        Args:
            key: The session.
            change: A change that a tombstone refused.
        """
        name = change.guard.needs
        if name is None:
            self.warn(key)
            return True
        with self._lock:
            waiting = self._waiting.setdefault((key, name), [])
            waiting.append(change)
            # Looked up only after the change can be found here: `released` looks without the lock, and would miss it.
            is_settled = self._cache.generation_of_put(key, name) is not None or hash((key, name)) in self._refused
            fits = sum(map(_size, waiting)) <= _BYTES
            if is_settled or not fits:
                waiting.pop()
                if not waiting:
                    del self._waiting[key, name]
            else:
                self._bytes += _size(change)
                while len(self._waiting) > _WAITING or self._bytes > _BYTES:
                    self._taken(next(iter(self._waiting)))
            if is_settled:
                return False
            if not fits:
                for each in checkpoints_of(change):
                    self._drop(key, each)
        if not fits:
            self.warn(key)
        return True

    def warn(self, key: SessionKey) -> None:
        """Log that writes to this session are refused; only once until one is stored."""
        with self._lock:
            warned_before = hash(key) in self._warned
            _remember(self._warned, hash(key))
        if not warned_before:
            logger.warning(
                "%s was deleted while a turn was running: what that turn still writes is not stored", label(key)
            )


def checkpoints_of(change: Change) -> list[str]:
    """The names of the checkpoints that a change stores."""
    return [name for name in change.blobs if name[0] == CHECKPOINT]


def _size(change: Change) -> int:
    """Bytes of all content."""
    return sum(len(blob.payload) for blob in change.blobs.values()) + sum(
        len(payload) for _, payload, _ in change.append
    )


def _remember(hashes: OrderedDict[int, None], each: int) -> None:
    hashes[each] = None
    while len(hashes) > _REFUSED:
        hashes.popitem(last=False)
