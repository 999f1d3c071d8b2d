"""What a put stores: the checkpoint's record, the messages it needs, and what its step changed in the conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain_ttl_history.checkpointing.brought_back import brought_back, keep_cut_first
from langchain_ttl_history.checkpointing.conversation_changes import Step, carried_over, set_channel, step_changes
from langchain_ttl_history.checkpointing.delta_channels import applied
from langchain_ttl_history.checkpointing.expired_turns import held_by, remove_aged
from langchain_ttl_history.checkpointing.first_checkpoint import FIRST_METADATA, first_checkpoint, first_checkpoint_id
from langchain_ttl_history.checkpointing.put_inputs import Parent, Put, RunState
from langchain_ttl_history.checkpointing.run_token import Token
from langchain_ttl_history.checkpoints import Record, encode_record, encode_values
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot, is_snapshot
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

__all__ = ["PutPlans"]


@dataclass(frozen=True)
class PutPlans:
    """Plans of puts; `messages_key` is the channel that is the conversation."""

    sessions: Sessions
    messages_key: str

    def plan(self, put: Put, parent: Parent, bodies: KnownBodies) -> tuple[Change, Record]:
        """The change that stores a checkpoint and what it changed in the conversation, and the checkpoint's record.

        Args:
            put: The put.
            parent: What it builds on.
            bodies: The messages that need not be sent; those that the change sends are added.

        Raises:
            TypeNotAllowedError: A value would not come back as it is.
        """
        run = RunState.of(put, parent, bodies)
        record = Record(put.checkpoint, put.metadata, put.parent, run.id, run.seen, run.shown)
        planned = self._of_root if not put.ns else self._of_subgraph
        blobs, append = planned(put, parent, run, record, bodies)
        blobs[put.name] = encode_record(record, self.sessions.codec, label(put.key))
        blobs[pointer_name(put.ns)] = Blob(b"", (put.name,), run.seen.position, (writes_name(put.ns, put.id),))
        # Writes that were made pending on a checkpoint after it was freed are of no more use.
        orphan = (writes_name(put.ns, put.parent or ""),) if parent.freed else ()
        guard, generation = self._guard(put), parent.generation or None
        return Change(self.sessions.lease, guard, blobs, append, drop=orphan, at_generation=generation), record

    # The following set a record's values, and return the blobs and entries that have to be stored besides the record.

    def _of_subgraph(
        self, put: Put, parent: Parent, run: RunState, record: Record, bodies: KnownBodies
    ) -> tuple[dict[str, Blob], list[Appended]]:
        blobs = encode_values(record, put.values, bodies, self.sessions.codec, label(put.key), parent.record)
        return blobs, [(SUBS, line_payload(put.ns, put.id, record), ())]

    def _of_root(
        self, put: Put, parent: Parent, run: RunState, record: Record, bodies: KnownBodies
    ) -> tuple[dict[str, Blob], list[Appended]]:
        before, token, channel = parent.record, put.token, self.messages_key
        codec, where = self.sessions.codec, label(put.key)
        values: dict[str, Any] = dict(put.values)
        held, blobs = self._find_conversation(put, parent, run, record, values)
        blobs.update(encode_values(record, values, bodies, codec, where, before))
        last = None if run.is_first_put else before
        step = Step(record, values.get(channel), parent.writes, run.shown, last, before)
        back = brought_back(step, token.cut) if token is not None and token.cut and channel in values else NO_KEYS
        if back:
            # Seldom, so that it costs less to encode twice than to look at every message before.
            values[channel] = keep_cut_first(values[channel], back)
            step = step._replace(value=values[channel])
            blobs.update(encode_values(record, values, bodies, codec, where, before))
        if held:
            blobs.update({name: held[name] for name in record.names if name in held})
        append: list[Appended] = []
        # Where there is a checkpoint already, whoever put it has stored the first one, which was freed since.
        if run.is_first_put and before is None and token is not None and run.same_session and not parent.has_head:
            append += self._keep_first(token, blobs, where)
        if before is None and put.parent is not None and (token is None or not run.same_session):
            deltas = carried_over(record, step.value, held or {}, codec)
        else:
            deltas = step_changes(step, back)
        append.append((INDEX, line_payload("", put.id, record), ()))
        append += [(LOG, delta.payload(), delta.added) for delta in deltas if delta.removed or delta.added]
        return blobs, append

    def _find_conversation(
        self, put: Put, parent: Parent, run: RunState, record: Record, values: dict[str, Any]
    ) -> tuple[dict[str, Blob] | None, dict[str, Blob]]:
        """Set on a root checkpoint's record which channel holds the conversation, and its messages if they are known.

        Args:
            put: The put.
            parent: What it builds on.
            run: How far its run has come.
            record: The checkpoint's record; updated in place.
            values: The channel values; left are those that have to be encoded, in the order they are stored.

        Returns:
            The bodies, by name, that the turn holds where what it builds on is gone, else None; and those of messages
            that are pending on the parent and not stored as bodies there.
        """
        before, token, channel = parent.record, put.token, self.messages_key
        if token is not None and not run.same_session:
            remove_aged(values, channel, token, self.sessions.lease, parent.now)
        held: dict[str, Blob] | None = None
        # What a run builds on is gone if its session ended, and perhaps if its parent was freed.
        is_gone = before is None and put.parent is not None and not (run.is_first_put and run.same_session)
        if (is_gone or parent.freed or parent.reduced) and channel not in values:
            held = held_by(self.sessions, put, parent.now)
        written: dict[str, Blob] = {}
        if is_snapshot(values.get(channel)) and isinstance(values[channel].value, tuple):
            values[channel] = delta_snapshot([*values[channel].value])  # What an `Overwrite` may hold.
        if set_channel(record, values, channel, parent, held):  # type: ignore[arg-type]  # bodies by name
            record.names, written = applied(record.names, parent.writes, self.sessions.codec, put.key)
        found = record.channel or ""
        if parent.remembered and found in values and found not in put.changed and run.shown and run.same_session:
            # The conversation is as it was shown, so all of it is stored already and need not be encoded.
            record.plain = not is_snapshot(values.pop(found))
        return held, written

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
