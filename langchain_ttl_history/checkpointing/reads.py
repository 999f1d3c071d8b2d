"""What a graph reads of a session: its latest checkpoint, an older one, the list of them.

The latest one shows the conversation as it is now, an older one as it was put:

```text
 put              c1 shows q1, c2 shows q1 a1
 a chain adds     q2 a2
 load(None)       c2, showing q1 a1 q2 a2; likewise by its id
 load(c1)         c1, showing q1
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from langchain_ttl_history.cached_session import CachedSession
from langchain_ttl_history.checkpointing.first_checkpoint import FIRST_METADATA, first_checkpoint, first_checkpoint_id
from langchain_ttl_history.checkpointing.run_token import TOKEN_KEY, Token
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot
from langchain_ttl_history.encoding.records import decoder
from langchain_ttl_history.flow import Flow, Read
from langchain_ttl_history.freeing.pruning import interrupted_roots, within_cap
from langchain_ttl_history.index import lines_of
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.listed_checkpoints import listed_lines
from langchain_ttl_history.log_entries import Seen, done_with
from langchain_ttl_history.pointers import found_record, target_of
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Lease, Query, Snapshot
from langchain_ttl_history.stored.known_bodies import Load
from langchain_ttl_history.stored.names import (
    BODY,
    CHECKPOINT,
    INDEX,
    LOG,
    SUBS,
    VALUE,
    WRITES,
    BodyName,
    checkpoint_name,
    pointer_name,
    writes_name,
)
from langchain_ttl_history.stored.pending import PendingWrite, decode_writes
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.stored.values import SNAPSHOT
from langchain_ttl_history.views import View, view_of

__all__ = ["CheckpointReads", "Loaded"]

_FOLLOW = (CHECKPOINT, BODY, VALUE, WRITES)


class Loaded(NamedTuple):
    """A checkpoint as LangGraph gets it."""

    ns: str
    id: str
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    parent: str | None
    writes: list[PendingWrite]


@dataclass(frozen=True)
class CheckpointReads:
    """Reads of checkpoints; `messages_key` is the channel that is the conversation."""

    sessions: Sessions
    messages_key: str

    def load(self, key: SessionKey, ns: str, id: str | None) -> Flow[Loaded | None]:
        """The latest checkpoint of a namespace, or the one of this id; None if there is none.

        That is a use of the session, and a run may start from the checkpoint, so a token is added.
        """
        sessions = self.sessions
        if ns:
            return (yield from self._load_sub(key, ns, id, sessions.lease))
        names, mark = _names_of_root(id), (LOG, pointer_name(""))
        recall = sessions.recall(key)
        if id is not None:
            names += (INDEX,)
        query = Query(
            names, _FOLLOW, mark, sessions.lease, outline_over=sessions.freeing.soft_limits, known=recall.known
        )
        snapshot: Snapshot = yield Read(key, query)
        found = self._found(key, snapshot, id, recall)
        if found is None:
            return None
        sessions.cache.count(key)
        loaded, token = found
        # What this process knows is all there is of what the run holds, should its session end under it.
        loaded.checkpoint["versions_seen"][TOKEN_KEY] = token.versions(sessions.cache.held(key))
        return loaded

    def load_listed(self, key: SessionKey, ns: str, id: str) -> Flow[Loaded | None]:
        """A checkpoint that `listed_ids` told of, and that is therefore within the cap; None if it is gone since."""
        sessions = self.sessions
        if ns:
            return (yield from self._load_sub(key, ns, id, None))
        recall = sessions.recall(key)
        query = Query(_names_of_root(id), _FOLLOW, (LOG, pointer_name("")), known=recall.known)
        snapshot: Snapshot = yield Read(key, query)
        pointer = snapshot.blobs.get(pointer_name(""))
        if pointer is not None and target_of(pointer) != checkpoint_name("", id):
            # It is listed as it was put, so the conversation as it is now need not be made for each of a list.
            snapshot.blobs = recall.completed(snapshot.blobs)
            found = self._older(key, snapshot, id, recall)
        else:
            found = self._found(key, snapshot, id, recall)
        if found is None:
            return None
        sessions.cache.count(key)
        return found[0]

    def _found(
        self, key: SessionKey, snapshot: Snapshot, id: str | None, recall: Recall
    ) -> tuple[Loaded, Token] | None:
        """A checkpoint in a snapshot of the session, and the token of a run that starts there."""
        if not snapshot.generation:
            return None
        view = view_of(snapshot, recall, self.sessions.codec)
        self.sessions.freeing.plan_after_read(key, view)
        if view.record is None:
            is_there = view.names and id in (None, first_checkpoint_id(snapshot.generation))
            return self._first(key, view) if is_there else None
        if id in (None, view.record.checkpoint["id"]):
            return self._latest(key, view, view.record)
        return self._older(key, snapshot, id, recall) if self._is_listed(snapshot, id) else None

    def _first(self, key: SessionKey, view: View) -> tuple[Loaded, Token]:
        """The checkpoint that a session without one shows: its conversation and nothing else."""
        snapshot = view.snapshot
        checkpoint = first_checkpoint(snapshot.generation, self.messages_key)
        id = checkpoint["id"]
        shown, messages = self.sessions.window.with_messages(view.graph, view.messages)
        token = Token.of(snapshot.generation, id, view.seen, shown, view.graph)
        self.sessions.cache.advance_to(key, snapshot.generation).bodies.learn_read(
            shown, messages, snapshot.blobs, self.sessions.codec
        )
        checkpoint["channel_values"] = {self.messages_key: messages}
        return Loaded("", id, checkpoint, dict(FIRST_METADATA), None, []), token

    def _latest(self, key: SessionKey, view: View, record: Record) -> tuple[Loaded, Token]:
        snapshot, id = view.snapshot, record.checkpoint["id"]
        cached = self.sessions.cache.advance_to(key, snapshot.generation)
        shown, messages = self.sessions.window.with_messages(view.graph, view.messages, cached.bodies)
        unchanged = shown is record.names or tuple(shown) == record.names
        loaded = self._loaded(snapshot, id, record, messages, unchanged=unchanged)
        versions = loaded.checkpoint["channel_versions"]
        if record.channel is not None:
            versions.setdefault(record.channel, 1)
        if record.channel != self.messages_key:
            self._add_conversation(loaded.checkpoint, record, messages)
        # What is hidden of the head is cut like what the window leaves out.
        hidden = () if len(view.log.head) == len(record.names) else {*record.names}.difference(view.log.head)
        token = Token.of(snapshot.generation, id, view.seen, shown, (*hidden, *view.graph) if hidden else view.graph)
        if token.cut and view.graph is not view.names:
            # Edits wait while the graph does; those of what its run leaves out have nothing left to change.
            token = token._replace(seen=done_with(token.cut, view.log.deltas, token.seen))
        self.sessions.cache.note_put(key, checkpoint_name("", id), snapshot.generation)
        self._learn(cached, snapshot, record, shown, messages)
        cached.bodies.last_load = Load(id, token.shown, tuple(shown))
        return loaded, token

    def _add_conversation(self, checkpoint: dict[str, Any], record: Record, messages: list[BaseMessage]) -> None:
        """Show the conversation in a checkpoint where its own record has none in the channel that is for it.

        Perhaps nobody has written to the channel yet, but a chain has added messages; or what another graph has left in
        there is outdated.
        """
        channel, versions = self.messages_key, checkpoint["channel_versions"]
        kind = record.kept_in(channel)
        if kind is not None or (messages and channel not in versions):
            checkpoint["channel_values"][channel] = delta_snapshot(messages) if kind == SNAPSHOT else messages
            versions.setdefault(channel, 1)

    def _older(self, key: SessionKey, snapshot: Snapshot, id: str, recall: Recall) -> tuple[Loaded, Token] | None:
        record = found_record("", id, snapshot.blobs, self.sessions.codec)
        if record is None:
            return None
        self.sessions.cache.note_put(key, checkpoint_name("", id), snapshot.generation)
        decoded = recall.decode(record.names, snapshot.blobs)
        shown, messages = self.sessions.window.with_messages(
            record.names, dict(zip(record.names, decoded, strict=True))
        )
        whole = len(shown) == len(record.names)
        loaded = self._loaded(snapshot, id, record, messages, unchanged=whole)
        seen = Seen(snapshot.position)
        token = Token.of(snapshot.generation, id, seen, shown, record.names)
        return loaded, token

    def _loaded(
        self,
        snapshot: Snapshot,
        id: str,
        record: Record,
        messages: list[BaseMessage],
        *,
        unchanged: bool,
    ) -> Loaded:
        codec = self.sessions.codec
        values = record.decode_values(snapshot.blobs, codec)
        if record.channel is not None and (record.explicit or not unchanged or record.parent_names is not None):
            # A `DeltaChannel` whose chain of writes no longer gives the whole value gets a snapshot.
            values[record.channel] = delta_snapshot(messages) if record.is_delta else messages
        writes = decode_writes(snapshot.lists.get(writes_name("", id), ()), snapshot.blobs, codec)
        return Loaded("", id, _handed(record, values), dict(record.metadata), record.parent, writes)

    def _learn(
        self,
        cached: CachedSession,
        snapshot: Snapshot,
        record: Record,
        names: Sequence[BodyName],
        messages: Sequence[BaseMessage],
    ) -> None:
        """Remember what the run that starts here will build on."""
        name = checkpoint_name("", record.checkpoint["id"])
        there = cached.records.get(name)
        if there is None or (there.names != names and not set(names) <= set(there.names)):
            # Another process put it, or it was forgotten. Where messages of it were freed meanwhile, the run under way
            # that put it needs to know what it was.
            if there is None or not set(record.names) <= set(there.names):
                cached.learn(name, record, snapshot.blobs)
            cached.bodies.learn_read(names, messages, snapshot.blobs, self.sessions.codec)

    def _is_listed(self, snapshot: Snapshot, id: str) -> bool:
        cap = self.sessions.retention.max_checkpoints
        lines = lines_of(snapshot.lists.get(INDEX, ()))
        waiting = interrupted_roots([line for line in lines if line.id == id], snapshot, self.sessions.codec)
        return any(line.id == id for line in within_cap(lines, (), cap, waiting))

    def _load_sub(self, key: SessionKey, ns: str, id: str | None, lease: Lease | None) -> Flow[Loaded | None]:
        names = (pointer_name(ns),) if id is None else (checkpoint_name(ns, id), writes_name(ns, id))
        snapshot: Snapshot = yield Read(key, Query(names, _FOLLOW, None, lease))
        codec = self.sessions.codec
        record = found_record(ns, id, snapshot.blobs, codec)
        if record is None:
            return None
        found = record.checkpoint["id"]
        name = checkpoint_name(ns, found)
        values = record.decode_values(snapshot.blobs, codec)
        writes = decode_writes(snapshot.lists.get(writes_name(ns, found), ()), snapshot.blobs, codec)
        self.sessions.cache.advance_to(key, snapshot.generation).learn(name, record, snapshot.blobs)
        self.sessions.cache.note_put(key, name, snapshot.generation)
        checkpoint = _handed(record, values)
        return Loaded(ns, found, checkpoint, dict(record.metadata), record.parent, writes)

    def listed_ids(self, key: SessionKey, lease: Lease | None) -> Flow[list[tuple[str, str]]]:
        """Namespace and id of the checkpoints a session lists, oldest first."""
        pointer = pointer_name("")
        query = Query((INDEX, SUBS, pointer), (), (LOG, pointer), lease)
        snapshot: Snapshot = yield Read(key, query)
        roots = lines_of(snapshot.lists.get(INDEX, ()))
        subs = lines_of(snapshot.lists.get(SUBS, ()))
        if not roots and snapshot.lists.get(LOG):
            return [("", first_checkpoint_id(snapshot.generation))]  # Only a chain has written.
        listed = yield from listed_lines(self.sessions, key, roots, subs)
        return [(line.ns, line.id) for line in listed]


def _names_of_root(id: str | None) -> tuple[str, ...]:
    """The names of what is stored of the latest checkpoint of the root, or besides of the one of this id."""
    pointer = pointer_name("")
    return (pointer,) if id is None else (pointer, checkpoint_name("", id), writes_name("", id))


@decoder("a checkpoint")
def _handed(record: Record, values: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint for LangGraph, with copies of the mappings that LangGraph changes in place."""
    checkpoint = record.checkpoint
    return {
        **checkpoint,
        "channel_values": values,
        "channel_versions": dict(checkpoint["channel_versions"]),
        "versions_seen": {node: dict(versions) for node, versions in checkpoint["versions_seen"].items()},
    }
