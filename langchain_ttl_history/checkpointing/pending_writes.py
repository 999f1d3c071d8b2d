"""Stores what a task wrote, pending on its step's checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_ttl_history.checkpointing.first_checkpoint import first_shown_in
from langchain_ttl_history.checkpointing.held_checkpoint import with_checkpoint
from langchain_ttl_history.flow import Flow, Write
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Change, Guard, Outcome, Status
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import checkpoint_name, writes_name
from langchain_ttl_history.stored.pending import encode_writes

__all__ = ["PendingWrites"]

# How often a checkpoint is stored again with its writes if its session changes meanwhile.
_ATTEMPTS = 5


@dataclass(frozen=True)
class PendingWrites:
    """Puts of pending writes; `messages_key` is the channel that is the conversation."""

    sessions: Sessions
    messages_key: str

    def put_writes(
        self,
        key: SessionKey,
        ns: str,
        id: str,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        path: str,
    ) -> Flow[tuple[Change, Outcome]]:
        """Store writes pending on a checkpoint, perhaps before that is put.

        Returns:
            The change and what became of it. One that was refused can be written again later.

        Raises:
            TypeNotAllowedError: A value would not come back as it is; nothing was stored.
        """
        name, cache = checkpoint_name(ns, id), self.sessions.cache
        # Writes pending on a checkpoint that was freed meanwhile would never be read or freed. So if the checkpoint is
        # known to have been put, they refer to it, and the storage refuses them if it is gone.
        there = cache.put_in(key, name)
        refers = there is not None
        # What a session without a checkpoint shows as its first is stored once one builds on it, and says whose it is.
        begun = first_shown_in(id) if there is None and not ns else None

        def planned(bodies: KnownBodies) -> Change:
            payload, refs, blobs = encode_writes(
                writes, task_id, path, bodies, self.sessions.codec, label(key), self.messages_key
            )
            if refers:
                refs = (*refs, name)
            append = [(writes_name(ns, id), payload, refs)]
            known_in = begun if there is None else there
            guard = Guard(needs=name) if known_in is None else Guard(known_in)
            return Change(self.sessions.lease, guard, blobs, append=append, at_generation=there)

        known = cache.last(key)
        bodies = KnownBodies() if known is None else known.bodies
        change = planned(bodies)
        outcome: Outcome = yield Write(key, change)
        if outcome.status is Status.STORED:
            bodies.sent(change.blobs)
        if outcome.status is Status.MOVED:
            # The session expired, and the checkpoint with it: these writes may start a new session.
            ended, there, refers = there or 0, None, False
            change = planned(KnownBodies())
            outcome = yield from self._begin_anew(key, ns, id, ended, change)
        elif outcome.status is Status.MISSING:
            if name in outcome.missing:
                parent = None if known is None else known.records.get(name)
                if parent is None or not parent.is_delta:
                    return change, outcome
                # The checkpoint was freed, but the next put needs these writes for its conversation; it drops them.
                refers = False
            change = planned(KnownBodies())
            outcome = yield Write(key, change)
        elif outcome.status is Status.DELETED:
            # It may be written again later, when the bodies known now may be gone, so it has to bring all of them.
            change = planned(KnownBodies())
        # These may be the last writes of a run, and they outdate what a put at the same moment planned to free.
        if outcome.status is Status.STORED and self.sessions.is_heavy(key, outcome):
            yield from self.sessions.free_now(key)
        return change, outcome

    def _begin_anew(self, key: SessionKey, ns: str, id: str, ended: int, change: Change) -> Flow[Outcome]:
        """Store writes whose session, of generation `ended`, is gone, and with them what their run holds."""
        for _ in range(_ATTEMPTS):
            whole = yield from with_checkpoint(self.sessions, key, ns, id, ended, change)
            if whole is None:
                break
            outcome: Outcome = yield Write(key, whole)
            if outcome.status is not Status.MOVED:
                name = checkpoint_name(ns, id)
                if outcome.status is Status.STORED and name in whole.blobs:
                    self.sessions.cache.note_put(key, name, outcome.generation)
                return outcome
            # Late writes of the step before began the session at the same moment.
        outcome = yield Write(key, change)
        return outcome
