"""Stores checkpoints: with what this process remembers if it can, else with what it reads first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_ttl_history.cached_session import CachedSession
from langchain_ttl_history.checkpointing.brought_back import knowing_past, may_bring_back
from langchain_ttl_history.checkpointing.put_inputs import Parent, Put
from langchain_ttl_history.checkpointing.put_plans import Plan, PutPlans
from langchain_ttl_history.checkpoints import Record, decode_record
from langchain_ttl_history.errors import StorageError
from langchain_ttl_history.flow import Flow, Read, Write
from langchain_ttl_history.keys import label
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Blob, Change, Outcome, Query, Snapshot, Status
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import BODY, VALUE, pointer_name, writes_name
from langchain_ttl_history.stored.pending import decode_writes

__all__ = ["CheckpointPuts"]

# How many times a put is planned if its session changes between its read and its write.
_ATTEMPTS = 3


@dataclass(frozen=True)
class CheckpointPuts:
    """Puts of checkpoints."""

    sessions: Sessions
    plans: PutPlans

    def put(self, put: Put) -> Flow[tuple[Change, Outcome]]:
        """Store a checkpoint and what it changed in the conversation.

        Returns:
            The change and what became of it. A subgraph's change that was refused can be written again later.

        Raises:
            TypeNotAllowedError: A value would not come back as it is; nothing was stored.
            StorageError: It was refused again and again; nothing was stored.
        """
        plans = self.plans
        if put.token is not None and may_bring_back(put, put.token, plans.messages_key):
            put = yield from knowing_past(self.sessions, put, put.token, plans.messages_key)
        remembered = self._remembered(put)
        if remembered is None:
            return (yield from self._put_as_read(put, _parent_in(self.sessions.cache.last(put.key), put)))
        parent, bodies = remembered
        plan = plans.plan(put, parent, bodies)
        outcome: Outcome = yield from self.sessions.freeing.write(put.key, plan.change)
        if outcome.status is Status.STORED:
            bodies.sent(plan.change.blobs)
            yield from self._done(put, plan, outcome)
        elif put.ns or outcome.status is not Status.DELETED:
            # The parent as it was remembered just now: another run that builds on it may make this process forget it.
            return (yield from self._put_as_read(put, parent))
        return plan.change, outcome

    def _put_as_read(self, put: Put, remembered: Parent | None) -> Flow[tuple[Change, Outcome]]:
        """As `put`, planned from what the session holds now.

        Args:
            put: The put.
            remembered: Its parent, as this process remembers it.
        """
        for _ in range(_ATTEMPTS):
            parent = yield from self._read(put)
            if remembered is not None and remembered.generation == parent.generation:
                parent = parent.as_remembered(remembered.record)
            elif parent.record is not None:
                parent = parent.as_remembered(self._brought_along(put))
            plan = self.plans.plan(put, parent, KnownBodies())
            outcome: Outcome = yield Write(put.key, plan.change)
            if outcome.status not in (Status.MOVED, Status.MISSING):
                break
        if outcome.status is Status.STORED:
            yield from self._done(put, plan, outcome)
        elif outcome.status is not Status.DELETED:
            raise StorageError(
                f"{label(put.key)}: others kept writing to it, or what checkpoint {put.id} refers to is gone; "
                "the checkpoint was not stored, try again"
            )
        return plan.change, outcome

    def _remembered(self, put: Put) -> tuple[Parent, KnownBodies] | None:
        """What this process knows of what a put builds on; None if that must be read."""
        key, token = put.key, put.token
        cached = self.sessions.cache.last(key)
        if put.parent is None:
            # A put with a token but without a parent is a copy of the first checkpoint.
            generation = None if token is None else token.generation
            if cached is None or (token is not None and cached.generation != token.generation):
                cached = self.sessions.cache.advance_to(key, generation or 0)
            return Parent(generation, remembered=True), cached.bodies
        if cached is None or (token is not None and token.generation != cached.generation):
            return None
        if not put.ns and self.plans.messages_key not in put.values:
            return None  # Perhaps a `DeltaChannel`, whose pending writes are needed.
        parent = _parent_in(cached, put)
        return None if parent is None else (parent, cached.bodies)

    def _brought_along(self, put: Put) -> Record | None:
        """What a put builds on, as it was in a session that ended since; None if its run loaded it, or it is not known.

        Writes pending on it brought it along into this session, with what another run was shown that had loaded it.
        """
        if put.token is not None and put.token.id == put.parent:
            return None
        cached = self.sessions.cache.last_with(put.key, put.parent_name, None)
        return None if cached is None else cached.records.get(put.parent_name)

    def _read(self, put: Put) -> Flow[Parent]:
        """What a put builds on, as it is stored now."""
        if put.parent is None:
            return Parent()
        pointer, pending = pointer_name(""), writes_name(put.ns, put.parent)
        found: Snapshot = yield Read(put.key, Query((put.parent_name, pending, pointer), (BODY, VALUE)))
        codec = self.sessions.codec
        blob = found.blobs.get(put.parent_name)
        record = None if blob is None else decode_record(blob, codec)
        writes: tuple[Any, ...] = ()
        if not put.ns and self.plans.messages_key not in put.values:
            writes = tuple(
                write.value
                for write in decode_writes(found.lists.get(pending, ()), found.blobs, codec)
                if write.channel == self.plans.messages_key
            )
        return Parent(found.generation, found.now, record, writes, has_head=pointer in found.blobs)

    def _done(self, put: Put, plan: Plan, outcome: Outcome) -> Flow[None]:
        """Remember a checkpoint that was stored, and free what is over the caps."""
        key, cache, record = put.key, self.sessions.cache, plan.record
        cached = cache.last(key)
        if cached is None or cached.generation != outcome.generation:
            cached = cache.advance_to(key, outcome.generation)
        blobs = self._with_brought_along(put, plan, cached)
        before = cached.records.get(put.parent_name)
        # Forget the parent only if it is this run's own: other runs may still build on another's.
        replaces = before is not None and before.run == record.run
        cached.learn(put.name, record, blobs, put.parent_name, replaces=replaces)
        if not put.ns:
            cached.settle(record)
        cache.note_put(key, put.name, outcome.generation)
        cache.count(key)
        if self.sessions.freeing.is_heavy(key, outcome):
            yield from self.sessions.freeing.free_now(key)

    def _with_brought_along(self, put: Put, plan: Plan, cached: CachedSession) -> Mapping[str, Blob]:
        """The blobs that a put has stored, and those that its parent needed in a session that ended since.

        Its run has brought them along, and may have to once more. The messages among them become known in this session.

        Args:
            put: The put.
            plan: How it was stored.
            cached: What is known of the session that it was stored in.
        """
        known = [] if put.parent_name in cached.records else self.sessions.cache.generations(put.key)
        ended = [each for each in known if each is not cached]
        for each in ended:
            cached.bodies.take(plan.record.body_names, each.bodies)
        if plan.bodies is not cached.bodies:
            # What it has just said is nowhere else, if its writes came before it had an id.
            cached.bodies.take(plan.record.body_names, plan.bodies)
        blobs = plan.change.blobs
        for each in ended:
            blobs = {**each.values.get(put.parent_name, {}), **blobs}
        return blobs


def _parent_in(cached: CachedSession | None, put: Put) -> Parent | None:
    """The parent of a put, as it is remembered of a session; None if it is not."""
    record = None if cached is None else cached.records.get(put.parent_name)
    if cached is None or record is None:
        return None
    return Parent(cached.generation, record=record, freed=put.parent_name in cached.freed, remembered=True)
