"""Stores what a task wrote, pending on its step's checkpoint.

A storage may refuse that, since the task took its time. What then becomes of it depends on what is gone:

```text
 messages that it refers to   it is stored with all its messages
 the checkpoint, freed        an interrupt puts it again; a `DeltaChannel` needs the writes alone; others nobody reads
 the session, expired         it begins a new session, with all that its run holds (see `held_checkpoint`)
 the session, deleted         it stays refused; `arrivals` lets it wait if its checkpoint may still come
```
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from langchain_ttl_history.checkpointing.first_checkpoint import first_shown_in
from langchain_ttl_history.checkpointing.held_checkpoint import with_expired_checkpoint, with_freed_checkpoint
from langchain_ttl_history.checkpointing.put_inputs import TaskWrites
from langchain_ttl_history.flow import Flow, Read, Write
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Change, Entry, Guard, Outcome, Query, Snapshot, Status
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import writes_name
from langchain_ttl_history.stored.pending import encode_writes, has_open_interrupt

__all__ = ["PendingWrites"]

# How often a checkpoint is stored again with its writes if its session changes meanwhile.
_ATTEMPTS = 5


@dataclass(frozen=True)
class PendingWrites:
    """Puts of pending writes; `messages_key` is the channel that is the conversation."""

    sessions: Sessions
    messages_key: str

    def put_writes(self, given: TaskWrites) -> Flow[tuple[Change, Outcome]]:
        """Store writes pending on a checkpoint, perhaps before that is put.

        Returns:
            The change and what became of it. One that was refused can be written again later.

        Raises:
            TypeNotAllowedError: A value would not come back as it is; nothing was stored.
        """
        key, cache = given.key, self.sessions.cache
        # Writes pending on a checkpoint that was freed meanwhile would never be read or freed. So if the checkpoint is
        # known to have been put, they refer to it, and the storage refuses them if it is gone.
        put_in = cache.generation_of_put(key, given.checkpoint_name)
        cached = cache.last(key)
        bodies = KnownBodies() if cached is None else cached.bodies
        change = self._change(given, bodies, _guard(given, put_in), put_in)
        outcome: Outcome = yield Write(key, change)
        if outcome.status is Status.STORED:
            bodies.sent(change.blobs)
        else:
            change, outcome = yield from self._after_refusal(given, put_in, change, outcome)
        if outcome.status is Status.STORED:
            if put_in is None:
                # Its checkpoint may come only after a deletion, and belongs to the same turn.
                cache.note_put(key, writes_name(given.ns, given.id), outcome.generation)
            # These may be the last writes of a run, and they outdate what a put at the same moment planned to free.
            if self.sessions.freeing.is_heavy(key, outcome):
                yield from self.sessions.freeing.free_now(key)
        return change, outcome

    def _after_refusal(
        self, given: TaskWrites, put_in: int | None, refused: Change, outcome: Outcome
    ) -> Flow[tuple[Change, Outcome]]:
        """What `put_writes` returns for writes that were refused, after another attempt if that may be stored.

        Args:
            given: The writes.
            put_in: The generation their checkpoint is known to have been put in.
            refused: The change that was refused.
            outcome: Why.
        """
        guard = _guard(given, put_in)
        if outcome.status is Status.DELETED:
            # It may be written again later, when the bodies known now may be gone, so it has to bring all of them.
            return self._change(given, KnownBodies(), guard, put_in), outcome
        if outcome.status is Status.MOVED and put_in is not None:
            # The session expired, and the checkpoint with it: these writes may start a new session.
            change = self.on_their_own(given)
            return change, (yield from self._begin_anew(given, put_in, change))
        if outcome.status is Status.MISSING:
            freed = given.checkpoint_name in outcome.missing
            change = self._change(given, KnownBodies(), guard, put_in, freed=freed)
            again = (yield from self._without_freed(given, change)) if freed else change
            if again is not None:
                return again, (yield Write(given.key, again))
        return refused, outcome

    def on_their_own(self, given: TaskWrites) -> Change:
        """The change that stores the writes before their checkpoint, with all the messages they need."""
        return self._change(given, KnownBodies(), Guard(needs=given.checkpoint_name))

    def store_waited(self, key: SessionKey, name: str, waited: Change) -> Flow[None]:
        """Store writes that waited for their checkpoint.

        Args:
            key: The session.
            name: The checkpoint's name; it is known to have been put.
            waited: The change that stores the writes, with all the messages they need.
        """
        change = self._in_its_generation(key, name, waited)
        ((pending, payload, refs),) = waited.append
        outcome: Outcome = yield Write(key, replace(change, append=[(pending, payload, (*refs, name))]))
        if name in outcome.missing and has_open_interrupt([Entry(0, payload, refs)], self.sessions.codec):
            again = yield from with_freed_checkpoint(self.sessions, key, name, change)
            if again is not None:
                yield Write(key, again)

    def settle_early(self, key: SessionKey, name: str, early: Change) -> Flow[None]:
        """See to it that an interrupt is read with its checkpoint, before which it was stored.

        Args:
            key: The session.
            name: The checkpoint's name; it is known to have been put, and may have been freed since.
            early: The change that stored the interrupt, with all the messages it needs.
        """
        found: Snapshot = yield Read(key, Query((name,)))
        change = self._in_its_generation(key, name, early)
        if name in found.blobs or found.generation != change.at_generation:
            return
        pending = [each for each, _, _ in early.append]
        again = yield from with_freed_checkpoint(self.sessions, key, name, replace(change, append=()))
        # Nobody will read it if its checkpoint stays away.
        yield Write(key, replace(change, blobs={}, append=(), drop=pending, upkeep=True) if again is None else again)

    def _in_its_generation(self, key: SessionKey, name: str, change: Change) -> Change:
        put_in = self.sessions.cache.generation_of_put(key, name)
        return replace(change, guard=Guard(put_in), at_generation=put_in)

    def _change(
        self, given: TaskWrites, bodies: KnownBodies, guard: Guard, put_in: int | None = None, *, freed: bool = False
    ) -> Change:
        """The change that stores the writes.

        Args:
            given: The writes.
            bodies: The messages that need not be sent.
            guard: What they continue.
            put_in: The generation their checkpoint is known to have been put in; they refer to it then.
            freed: Whether it is gone since, so that they cannot.
        """
        payload, refs, blobs = encode_writes(
            given.writes, given.task_id, given.path, bodies, self.sessions.codec, label(given.key), self.messages_key
        )
        if put_in is not None and not freed:
            refs = (*refs, given.checkpoint_name)
        append = [(writes_name(given.ns, given.id), payload, refs)]
        return Change(self.sessions.lease, guard, blobs, append=append, at_generation=put_in)

    def _without_freed(self, given: TaskWrites, change: Change) -> Flow[Change | None]:
        """The change for writes whose checkpoint was freed; None if nobody will read them.

        Args:
            given: The writes.
            change: What stores them without that.
        """
        cached = self.sessions.cache.last(given.key)
        record = None if cached is None else cached.records.get(given.checkpoint_name)
        if cached is not None and record is not None and record.is_delta:
            # The next put of a `DeltaChannel` needs these writes for its conversation, and drops them.
            cached.freed.add(given.checkpoint_name)
            return change
        if not given.interrupts:
            return None
        return (yield from with_freed_checkpoint(self.sessions, given.key, given.checkpoint_name, change))

    def _begin_anew(self, given: TaskWrites, ended: int, change: Change) -> Flow[Outcome]:
        """Store writes whose session, of generation `ended`, is gone, and with them what their run holds."""
        key, name = given.key, given.checkpoint_name
        for _ in range(_ATTEMPTS):
            whole = yield from with_expired_checkpoint(self.sessions, given, ended, change)
            if whole is None:
                break
            outcome: Outcome = yield Write(key, whole)
            if outcome.status is not Status.MOVED:
                if outcome.status is Status.STORED and name in whole.blobs:
                    self.sessions.cache.note_put(key, name, outcome.generation)
                return outcome
            # Late writes of the step before began the session at the same moment.
        outcome = yield Write(key, change)
        return outcome


def _guard(given: TaskWrites, put_in: int | None) -> Guard:
    """What writes continue, if their checkpoint is known to have been put in the generation `put_in`."""
    if put_in is None and not given.ns:
        # The first checkpoint that a session without one shows is not stored before another builds on it, but its id
        # tells the generation.
        put_in = first_shown_in(given.id)
    return Guard(needs=given.checkpoint_name) if put_in is None else Guard(put_in)
