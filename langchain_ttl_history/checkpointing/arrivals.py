"""Checkpoints and pending writes, stored in whichever order they arrive."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_ttl_history.checkpointing.late_writes import LateWrites, checkpoints_of
from langchain_ttl_history.checkpointing.pending_writes import PendingWrites
from langchain_ttl_history.checkpointing.put_inputs import Put, TaskWrites
from langchain_ttl_history.checkpointing.puts import CheckpointPuts
from langchain_ttl_history.flow import Flow, Write
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Change, Outcome, Status

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
            # Perhaps the root's checkpoint is still on its way, which this one needs.
            if not self.late.should_retry(key, change):
                return
            outcome = yield Write(key, change)
            self._note(key, change, outcome)
        yield from self._settle(key, put.name, outcome.status)

    def put_writes(self, given: TaskWrites) -> Flow[None]:
        """Store writes pending on a checkpoint, or let them wait for it.

        Raises:
            TypeNotAllowedError: A value would not come back as it is; nothing was stored.
        """
        key = given.key
        change, outcome = yield from self.pending.put_writes(given)
        if outcome.status is Status.DELETED and self.late.should_retry(key, change):
            self.late.retried(key, (yield Write(key, change)).status)

    def _settle(self, key: SessionKey, name: str, status: Status) -> Flow[None]:
        """Store what waited for a checkpoint, and what waited for that in turn."""
        for waited in self.late.settled(key, name, status):
            outcome: Outcome = yield Write(key, waited)
            self._note(key, waited, outcome)
            for each in checkpoints_of(waited):
                yield from self._settle(key, each, outcome.status)

    def _note(self, key: SessionKey, change: Change, outcome: Outcome) -> None:
        if outcome.status is Status.STORED:
            for each in checkpoints_of(change):
                self.puts.sessions.cache.note_put(key, each, outcome.generation)
