"""Stores a checkpoint, and what its step changed in the conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain_ttl_history.checkpointing.conversation_changes import (
    brings_back,
    find_channel,
    keep_cut_first,
    log_entry,
)
from langchain_ttl_history.checkpointing.expired_turns import held_by, leave_aged
from langchain_ttl_history.checkpointing.first_checkpoint import FIRST_METADATA, first_checkpoint, first_checkpoint_id
from langchain_ttl_history.checkpointing.put_inputs import Parent, Put, RunState
from langchain_ttl_history.checkpointing.run_token import Token
from langchain_ttl_history.checkpoints import Record, decode_record, encode_record, encode_values
from langchain_ttl_history.codec import is_snapshot
from langchain_ttl_history.flow import Flow, Read, Write
from langchain_ttl_history.index import line_of
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Blob, Change, Guard, Outcome, Query, Snapshot, Status
from langchain_ttl_history.stored.bodies import KnownBodies
from langchain_ttl_history.stored.names import BODY, INDEX, LOG, SUBS, VALUE, checkpoint_name, head_name, writes_name
from langchain_ttl_history.stored.pending import decode_writes
from langchain_ttl_history.stored.values import LIST

__all__ = ["CheckpointPuts"]

_NOTHING: frozenset[str] = frozenset()
# How many times a put is planned if its session changes between its read and its write.
_ATTEMPTS = 3


@dataclass(frozen=True)
class CheckpointPuts:
    """Puts of checkpoints; `messages_key` is the channel that is the conversation."""

    sessions: Sessions
    messages_key: str = "messages"

    def put(self, key: SessionKey, put: Put) -> Flow[tuple[Change, Outcome]]:
        """Store a checkpoint and what it changed in the conversation.

        Returns:
            The change and what became of it. A subgraph's change that was refused can be written again later.

        Raises:
            TypeNotAllowedError: A value would not come back as it is; nothing was stored.
        """
        checkpoint = dict(put.checkpoint)
        del checkpoint["channel_values"]
        seen = checkpoint["versions_seen"] = dict(checkpoint["versions_seen"])
        token = Token.taken_from(seen)
        remembered = self._remembered(key, put, token)
        if remembered is not None:
            parent, bodies = remembered
            change, record = self._planned(key, put, checkpoint, token, parent, bodies)
            outcome: Outcome = yield from self.sessions.write(key, change)
            if outcome.status is Status.STORED:
                bodies.sent(change.blobs)
                yield from self._done(key, put, record, outcome)
                return change, outcome
            if outcome.status is Status.DELETED and not put.ns:
                return change, outcome
        # Looked up once: another run that builds on the same parent may make this process forget it.
        known = self._known_parent(key, put) if remembered is None else remembered[0]
        for _ in range(_ATTEMPTS):
            parent = yield from self._read(key, put)
            if known is not None and known.generation == parent.generation:
                parent = parent.as_remembered(known.record)
            change, record = self._planned(key, put, checkpoint, token, parent, KnownBodies())
            outcome = yield Write(key, change)
            if outcome.status not in (Status.MOVED, Status.MISSING):
                break
        if outcome.status is Status.STORED:
            yield from self._done(key, put, record, outcome)
        return change, outcome

    def _remembered(self, key: SessionKey, put: Put, token: Token | None) -> tuple[Parent, KnownBodies] | None:
        """What this process knows of what a put builds on; None if that must be read."""
        known = self.sessions.cache.last(key)
        if put.parent is None:
            # A put with a token but without a parent is a copy of the first checkpoint.
            generation = None if token is None else token.generation
            if known is None or (token is not None and known.generation != token.generation):
                known = self.sessions.cache.of(key, generation or 0)
            return Parent(generation, 0.0, None, (), remembered=True), known.bodies
        if known is None or (token is not None and token.generation != known.generation):
            return None
        if not put.ns and self.messages_key not in put.checkpoint["channel_values"]:
            return None  # Perhaps a `DeltaChannel`, whose pending writes are needed.
        parent = self._known_parent(key, put)
        return None if parent is None else (parent, known.bodies)

    def _known_parent(self, key: SessionKey, put: Put) -> Parent | None:
        known = self.sessions.cache.last(key)
        record = None if known is None else known.records.get(put.parent_name)
        if known is None or record is None:
            return None
        return Parent(known.generation, 0.0, record, (), remembered=True)

    def _read(self, key: SessionKey, put: Put) -> Flow[Parent]:
        if put.parent is None:
            return Parent(None, 0.0, None, ())
        names = (checkpoint_name(put.ns, put.parent), writes_name(put.ns, put.parent))
        found: Snapshot = yield Read(key, Query(names, (BODY, VALUE)))
        codec = self.sessions.codec
        blob = found.blobs.get(names[0])
        record = None if blob is None else decode_record(blob, codec)
        writes: tuple[Any, ...] = ()
        if not put.ns and self.messages_key not in put.checkpoint["channel_values"]:
            writes = tuple(
                write.value
                for write in decode_writes(found.lists.get(names[1], ()), found.blobs, codec)
                if write.channel == self.messages_key
            )
        return Parent(found.generation, found.now, record, writes)

    def _planned(
        self,
        key: SessionKey,
        put: Put,
        checkpoint: dict[str, Any],
        token: Token | None,
        parent: Parent,
        bodies: KnownBodies,
    ) -> tuple[Change, Record]:
        before, codec, where = parent.record, self.sessions.codec, label(key)
        run = RunState.of(put, token, parent, bodies)
        record = Record(checkpoint, put.metadata, put.parent, run.id, run.seen, run.shown)
        values: dict[str, Any] = dict(put.checkpoint["channel_values"])
        append: list[tuple[str, bytes, tuple[str, ...]]] = []
        if put.ns:
            blobs = encode_values(record, values, bodies, codec, where, before)
            append.append((SUBS, line_of(put.ns, put.id, record), ()))
        else:
            held = self._find_conversation(key, put, token, parent, run, record, values)
            blobs = encode_values(record, values, bodies, codec, where, before)
            channel = self.messages_key
            cut = _NOTHING if token is None else token.cut
            if cut and not (channel in values and brings_back(record.names, run.shown, cut)):
                cut = _NOTHING
            if cut:
                # Seldom, so that it costs less to encode twice than to look at every message before.
                values[channel] = keep_cut_first(values[channel], cut)
                blobs.update(encode_values(record, values, bodies, codec, where, before))
            if held:
                blobs.update({name: held[name] for name in record.names if name in held})
            if run.is_first_put and before is None and token is not None and run.same_session:
                append += self._keep_first(token, blobs)
            delta = log_entry(record, values.get(channel), run.shown, None if run.is_first_put else before, cut)
            append.append((INDEX, line_of("", put.id, record), ()))
            if delta.removed or delta.added:
                append.append((LOG, delta.payload(), delta.added))
        blobs[put.name] = encode_record(record, codec, where)
        blobs[head_name(put.ns)] = Blob(b"", (put.name,), run.seen.position, (writes_name(put.ns, put.id),))
        # Writes that were made pending on a checkpoint after it was freed are of no more use.
        orphan = (writes_name(put.ns, put.parent or ""),) if parent.freed else ()
        guard, generation = self._guard(key, put, token), parent.generation or None
        return Change(self.sessions.lease, guard, blobs, append, drop=orphan, at_generation=generation), record

    def _find_conversation(
        self,
        key: SessionKey,
        put: Put,
        token: Token | None,
        parent: Parent,
        run: RunState,
        record: Record,
        values: dict[str, Any],
    ) -> dict[str, Blob] | None:
        """Set on a root checkpoint's record which channel holds the conversation, and its messages if they are known.

        Args:
            key: The session.
            put: The put.
            token: That of its run.
            parent: What it builds on.
            run: How far its run has come.
            record: The checkpoint's record; updated in place.
            values: The channel values; left are those that have to be encoded, in the order they are stored.

        Returns:
            The bodies, by name, that the turn holds where what it builds on is gone, else None.
        """
        before, channel = parent.record, self.messages_key
        if token is not None and not run.same_session:
            leave_aged(values, channel, token, self.sessions.retention, parent.now)
        held: dict[str, Blob] | None = None
        # What a run builds on is gone if its session ended, and perhaps if its parent was freed.
        is_gone = before is None and put.parent is not None and not (run.is_first_put and run.same_session)
        if (is_gone or parent.reduced) and channel not in values:
            held = held_by(self.sessions, key, put.parent, token, parent.now)
        find_channel(record, values, channel, parent, held, self.sessions.codec, key)
        found = record.channel or ""
        if parent.remembered and found in values and found not in put.changed and run.shown and run.same_session:
            # The conversation is as it was shown, so all of it is stored already and need not be encoded.
            record.plain = not is_snapshot(values.pop(found))
        return held

    def _guard(self, key: SessionKey, put: Put, token: Token | None) -> Guard:
        guard = put.guard if token is None else Guard(token.generation)
        if guard.needs is not None and (met := self.sessions.cache.put_in(key, guard.needs)):
            return Guard(met)  # This holds even if the checkpoint was freed since.
        return guard

    def _done(self, key: SessionKey, put: Put, record: Record, outcome: Outcome) -> Flow[None]:
        cache = self.sessions.cache
        known = cache.last(key)
        if known is None or known.generation != outcome.generation:
            known = cache.of(key, outcome.generation)
        if known.before is not None and put.parent_name not in known.records:
            # The session ended under its run, which brought along what it shows, and may have to once more.
            known.bodies.take(record.names, known.before.bodies)
        if not put.ns:
            known.bodies.settle(record.names)
        before = known.records.get(put.parent_name)
        # Forget the parent only if it is this run's own: other runs may still build on another's.
        known.learn(put.name, record, put.parent_name if before is not None and before.run == record.run else None)
        cache.note_put(key, put.name, outcome.generation)
        if self.sessions.is_heavy(outcome):
            yield from self.sessions.free_now(key)

    def _keep_first(self, token: Token, blobs: dict[str, Blob]) -> list[tuple[str, bytes, tuple[str, ...]]]:
        """Store the first checkpoint, which was shown but never stored, now that another builds on it."""
        if token.id != first_checkpoint_id(token.generation):
            return []
        channel = self.messages_key
        record = Record(
            first_checkpoint(token.id, token.generation, channel),
            dict(FIRST_METADATA),
            None,
            token.id,
            token.seen,
            token.names,
            channel=channel,
            refs=token.names,
            values={channel: [LIST, 0, len(token.names)]},
        )
        blobs[checkpoint_name("", token.id)] = encode_record(record, self.sessions.codec)
        return [(INDEX, line_of("", token.id, record), ())]
