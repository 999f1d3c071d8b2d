"""What a put stores: the checkpoint's record, the messages it needs, and what its step changed in the conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_ttl_history.checkpointing.brought_back import brought_back, keep_cut_first
from langchain_ttl_history.checkpointing.conversation_changes import Step, step_changes
from langchain_ttl_history.checkpointing.conversation_channel import find_conversation
from langchain_ttl_history.checkpointing.expired_turns import carried_over
from langchain_ttl_history.checkpointing.first_checkpoint import FIRST_METADATA, first_checkpoint, first_checkpoint_id
from langchain_ttl_history.checkpointing.put_inputs import Parent, Put, PutInputs, RunState
from langchain_ttl_history.checkpointing.run_token import Token
from langchain_ttl_history.checkpoints import Record, encode_record, encode_values
from langchain_ttl_history.index import line_payload
from langchain_ttl_history.keys import label
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Appended, Blob, Change, Guard
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import (
    INDEX,
    LOG,
    NO_KEYS,
    SUBS,
    checkpoint_name,
    pointer_name,
    writes_name,
)
from langchain_ttl_history.stored.values import LIST

__all__ = ["Plan", "PutPlans"]


class Plan(NamedTuple):
    """How a checkpoint is stored."""

    change: Change
    """Stores it, and what it changed in the conversation."""
    record: Record
    """The checkpoint's."""
    bodies: KnownBodies
    """The messages that need not be sent, and those that the change sends."""


@dataclass(frozen=True)
class PutPlans:
    """Plans of puts; `messages_key` is the channel that is the conversation."""

    sessions: Sessions
    messages_key: str

    def plan(self, put: Put, parent: Parent, bodies: KnownBodies) -> Plan:
        """The plan of a put.

        Args:
            put: The put.
            parent: What it builds on.
            bodies: The messages that need not be sent; those that the change sends are added.

        Raises:
            TypeNotAllowedError: A value would not come back as it is.
        """
        run, where = RunState.of(put, parent, bodies), label(put.key)
        record = Record(put.checkpoint, put.metadata, put.parent, run.id, run.seen, run.shown)
        if put.ns:
            blobs, append = self._of_subgraph(put, parent, record, bodies, where)
        else:
            blobs, append = self._of_root(PutInputs(put, parent, run), record, bodies, where)
        blobs[put.name] = encode_record(record, self.sessions.codec, where)
        blobs[pointer_name(put.ns)] = Blob(b"", (put.name,), run.seen.position, (writes_name(put.ns, put.id),))
        # Writes that were made pending on a checkpoint after it was freed are of no more use.
        orphan = (writes_name(put.ns, put.parent or ""),) if parent.freed else ()
        guard, generation = self._guard(put), parent.generation or None
        change = Change(self.sessions.lease, guard, blobs, append, drop=orphan, at_generation=generation)
        return Plan(change, record, bodies)

    # The following set a record's values, and return the blobs and entries that have to be stored besides the record.

    def _of_subgraph(
        self, put: Put, parent: Parent, record: Record, bodies: KnownBodies, where: str
    ) -> tuple[dict[str, Blob], list[Appended]]:
        blobs = encode_values(record, put.values, bodies, self.sessions.codec, where, parent.record)
        return blobs, [(SUBS, line_payload(put.ns, put.id, record), ())]

    def _of_root(
        self, inputs: PutInputs, record: Record, bodies: KnownBodies, where: str
    ) -> tuple[dict[str, Blob], list[Appended]]:
        (put, parent, run), channel = inputs, self.messages_key
        codec, token = self.sessions.codec, put.token
        values: dict[str, Any] = dict(put.values)
        held, blobs = find_conversation(self.sessions, channel, inputs, record, values)
        blobs.update(encode_values(record, values, bodies, codec, where, parent.record))
        previous = None if run.is_first_put else parent.record
        step = Step(record, values.get(channel), parent.writes, run.shown, previous, parent.record)
        back = brought_back(step, token.cut) if token is not None and token.cut and channel in values else NO_KEYS
        if back:
            # Seldom, so that it costs less to encode twice than to look at every message before.
            values[channel] = keep_cut_first(values[channel], back)
            step = step._replace(value=values[channel])
            blobs.update(encode_values(record, values, bodies, codec, where, parent.record))
        if held:
            blobs.update({name: held[name] for name in record.names if name in held})
        append: list[Appended] = []
        if token is not None and inputs.may_follow_first:
            append += self._keep_first(token, blobs, where)
        append.append((INDEX, line_payload("", put.id, record), ()))
        deltas = (
            carried_over(record, step.value, held or {}, codec) if inputs.carries_over else step_changes(step, back)
        )
        append += [(LOG, delta.payload(), delta.added) for delta in deltas if delta.removed or delta.added]
        return blobs, append

    def _guard(self, put: Put) -> Guard:
        """What a put continues: a generation if its token or the cache tells one, else the checkpoint that it needs."""
        guard, key, cache = put.guard, put.key, self.sessions.cache
        if guard.generation is not None:
            return guard
        # What it builds on, or writes pending on it that came before it; whether or not either was freed since.
        met = None if guard.needs is None else cache.generation_of_put(key, guard.needs)
        met = cache.generation_of_put(key, writes_name(put.ns, put.id)) if met is None else met
        return guard if met is None else Guard(met)

    def _keep_first(self, token: Token, blobs: dict[str, Blob], where: str) -> list[Appended]:
        """Add the first checkpoint, which was shown but never stored, now that another builds on it.

        Args:
            token: What the run was shown.
            blobs: What is going to be sent; the checkpoint is added.
            where: Names the session in errors.

        Returns:
            Its entry in the index; empty if the run was shown another checkpoint.
        """
        if token.id != first_checkpoint_id(token.generation):
            return []
        channel = self.messages_key
        record = Record(
            first_checkpoint(token.generation, channel),
            dict(FIRST_METADATA),
            None,
            token.id,
            token.seen,
            token.names,
            channel=channel,
            refs=token.names,
            values={channel: [LIST, 0, len(token.names)]},
        )
        blobs[checkpoint_name("", token.id)] = encode_record(record, self.sessions.codec, where)
        return [(INDEX, line_payload("", token.id, record), ())]
