"""Makes of what was read of a session what a run loads: a checkpoint as LangGraph gets it, and the run's token.

The latest one shows the conversation as it is now, an older one as it was put. An example with at most 3 messages:

```text
 put               c1 shows q1, c2 shows q1 a1
 a chain adds      q2 a2
 latest            c2, showing q2 a2; the token says that these are shown, q1 a1 are cut, all of the log is seen
 older             c1, showing q1; the token says that this is shown, nothing is cut, all of the log is seen
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from langchain_ttl_history.cached_session import CachedSession
from langchain_ttl_history.checkpointing.first_checkpoint import FIRST_METADATA, first_checkpoint
from langchain_ttl_history.checkpointing.run_token import Token
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot
from langchain_ttl_history.encoding.records import decoder
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.log_entries import Seen, done_with
from langchain_ttl_history.pointers import found_record
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Snapshot
from langchain_ttl_history.stored.known_bodies import Load
from langchain_ttl_history.stored.names import BodyName, checkpoint_name, writes_name
from langchain_ttl_history.stored.pending import PendingWrite, decode_writes
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.stored.values import SNAPSHOT
from langchain_ttl_history.views import View

__all__ = ["Loaded", "Loading"]


class Loaded(NamedTuple):
    """A checkpoint as LangGraph gets it."""

    ns: str
    id: str
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    parent: str | None
    writes: list[PendingWrite]


@dataclass(frozen=True)
class Loading:
    """Makes checkpoints for LangGraph; `messages_key` is the channel that is the conversation."""

    sessions: Sessions
    messages_key: str

    def first(self, key: SessionKey, view: View) -> tuple[Loaded, Token]:
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

    def latest(self, key: SessionKey, view: View, record: Record) -> tuple[Loaded, Token]:
        """The latest checkpoint of the root, with the conversation as it is now, and the token of a run from there."""
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
        token = _token_of(view, record, shown)
        self.sessions.cache.note_put(key, checkpoint_name("", id), snapshot.generation)
        self._learn(cached, snapshot, record, shown, messages)
        cached.bodies.last_load = Load(id, token.shown, tuple(shown))
        return loaded, token

    def older(self, key: SessionKey, snapshot: Snapshot, id: str, recall: Recall) -> tuple[Loaded, Token] | None:
        """A checkpoint of the root as it was put, and the token of a run that goes back to it; None if it is gone."""
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

    def of_subgraph(self, key: SessionKey, ns: str, id: str | None, snapshot: Snapshot) -> Loaded | None:
        """A subgraph's checkpoint as it was put, the latest of its namespace or the one of this id; None if it is gone.

        It needs no token: what is said in a subgraph is its own.
        """
        codec, cache = self.sessions.codec, self.sessions.cache
        record = found_record(ns, id, snapshot.blobs, codec)
        if record is None:
            return None
        found = record.checkpoint["id"]
        name = checkpoint_name(ns, found)
        values = record.decode_values(snapshot.blobs, codec)
        writes = decode_writes(snapshot.lists.get(writes_name(ns, found), ()), snapshot.blobs, codec)
        cache.advance_to(key, snapshot.generation).learn(name, record, snapshot.blobs)
        cache.note_put(key, name, snapshot.generation)
        checkpoint = _handed(record, values)
        return Loaded(ns, found, checkpoint, dict(record.metadata), record.parent, writes)

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


def _token_of(view: View, record: Record, shown: Sequence[BodyName]) -> Token:
    """The token of a run that starts from the latest checkpoint, and is shown these messages."""
    # What is hidden of the head is cut like what the window leaves out.
    hidden = () if len(view.log.head) == len(record.names) else {*record.names}.difference(view.log.head)
    whole = (*hidden, *view.graph) if hidden else view.graph
    token = Token.of(view.snapshot.generation, record.checkpoint["id"], view.seen, shown, whole)
    if token.cut and view.graph is not view.names:
        # Edits wait while the graph does; those of what its run leaves out have nothing left to change.
        token = token._replace(seen=done_with(token.cut, view.log.deltas, token.seen))
    return token


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
