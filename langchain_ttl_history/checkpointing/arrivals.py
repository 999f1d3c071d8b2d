"""Checkpoints and pending writes, stored in whichever order they arrive.

LangGraph stores a step's checkpoint and what its tasks wrote side by side. Writes that come before their checkpoint are
stored like any other, and found once that is there. Two kinds need more:

* *late* ones, which a deletion refused, wait for their checkpoint (see `late_writes`);
* *early* interrupts: the checkpoint may be freed as soon as it is stored, while nothing tells yet that it waits for an
  answer. So when both are there, it is put again if it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.checkpointing.late_writes import LateWrites, checkpoints_of
from langchain_ttl_history.checkpointing.pending_writes import PendingWrites
from langchain_ttl_history.checkpointing.put_inputs import Put, TaskWrites
from langchain_ttl_history.checkpointing.puts import CheckpointPuts
from langchain_ttl_history.flow import Flow, Write
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.types import Change, Outcome, Status

__all__ = ["Arrivals"]


@dataclass(frozen=True)
class Arrivals:
    """Stores what a graph hands over, and what had to wait for it."""

    puts: CheckpointPuts
    pending: PendingWrites
    late: LateWrites

    def put(self, put: Put) -> Flow[None]:
        """Store a checkpoint, and what waited for it.

        Raises:
            TypeNotAllowedError: A value would not come back as it is; nothing was stored.
        """
        key = put.key
        change, outcome = yield from self.puts.put(put)
        if put.ns and outcome.status is Status.DELETED and change.guard.needs is not None:
            # The root's checkpoint, which this one needs, may still be on its way.
            if self.late.hold(key, change):
                return
            outcome = yield Write(key, change)
            self._note(key, change, outcome)
        if outcome.status is Status.STORED:
            yield from self._release(key, put.name)
            yield from self._settle_early(key, put.name)
        else:
            self.late.refuse(key, put.name)
            self._cache.early.take(key, put.name)  # They will never be read.

    def put_writes(self, given: TaskWrites) -> Flow[None]:
        """Store writes pending on a checkpoint, or let them wait for it.

        Raises:
            TypeNotAllowedError: A value would not come back as it is; nothing was stored.
        """
        key, name = given.key, given.checkpoint_name
        is_early = self._is_unknown(key, name)
        change, outcome = yield from self.pending.put_writes(given)
        if outcome.status is Status.DELETED and not self.late.hold(key, change):
            _, outcome = yield from self.pending.put_writes(given)
            if outcome.status is Status.DELETED:
                self.late.warn(key)
        if given.interrupts and is_early and outcome.status is Status.STORED:
            self._cache.early.keep(key, name, self.pending.on_their_own(given))
            # Looked up only now: whoever puts the checkpoint may have looked before for what came early.
            if not self._is_unknown(key, name):
                yield from self._settle_early(key, name)

    def _release(self, key: SessionKey, name: str) -> Flow[None]:
        """Store what waited for a checkpoint that is stored now, and what waited for that in turn."""
        for waited in self.late.released(key, name):
            made = checkpoints_of(waited)
            if not made:
                yield from self.pending.store_waited(key, name, waited)
                continue
            outcome: Outcome = yield Write(key, waited)
            self._note(key, waited, outcome)
            for each in made:
                if outcome.status is Status.STORED:
                    yield from self._release(key, each)
                else:
                    self.late.refuse(key, each)

    def _settle_early(self, key: SessionKey, name: str) -> Flow[None]:
        """See to it that interrupts stored before this checkpoint was known are read with it."""
        for change in self._cache.early.take(key, name):
            yield from self.pending.settle_early(key, name, change)

    def _is_unknown(self, key: SessionKey, name: str) -> bool:
        return self._cache.generation_of_put(key, name) is None

    @property
    def _cache(self) -> SessionCache:
        return self.puts.sessions.cache

    def _note(self, key: SessionKey, change: Change, outcome: Outcome) -> None:
        if outcome.status is Status.STORED:
            for each in checkpoints_of(change):
                self._cache.note_put(key, each, outcome.generation)
