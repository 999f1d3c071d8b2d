"""A graph's reads and writes of one session, as flows: what the checkpointer does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage
from langchain_core.messages.utils import convert_to_messages

from langchain_ttl_history.checkpoints import (
    INDEX,
    SUBS,
    Line,
    Record,
    Write,
    checkpoint_name,
    decode_record,
    decode_writes,
    delta_snapshot,
    encode_record,
    encode_shown,
    encode_writes,
    first_checkpoint_id,
    head_name,
    is_conversation,
    line_of,
    lines_of,
    overwritten,
    snapshot_value,
    writes_name,
)
from langchain_ttl_history.collection import shown_lines, waiting_roots
from langchain_ttl_history.conversation import (
    LOG,
    Base,
    Delta,
    Seen,
    decode_bodies,
    diff,
    encode_bodies,
    key_of,
    keyed,
)
from langchain_ttl_history.flow import Flow, reading, writing
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.sessions import Sessions, View
from langchain_ttl_history.storage.base import (
    Blob,
    Change,
    Guard,
    Lease,
    Outcome,
    Query,
    Snapshot,
    Status,
)

__all__ = ["TOKEN_KEY", "Loaded", "Put", "Runs", "Token"]

TOKEN_KEY = "__ttl_history__"
"""The entry of `versions_seen` in which a run carries what it has seen."""

_FOLLOW = ("c", "m", "v", "w")


@dataclass(frozen=True)
class Token:
    """What a run was shown when it loaded its checkpoint; it comes back with each of its puts."""

    generation: int
    id: str
    """The checkpoint it loaded."""
    seen: Seen
    names: tuple[str, ...]
    """The conversation it was shown."""

    def versions(self) -> dict[str, int]:
        """As an entry of `versions_seen`.

        All of it is in the key: LangGraph takes a session for new, and infers the node of an
        update, only while every version in there is falsy.
        """
        seen = self.seen
        return {
            json.dumps([self.generation, self.id, seen.position, seen.runs, self.names]): 0
        }

    @classmethod
    def taken_from(cls, versions_seen: dict[str, Any]) -> Token | None:
        """The token of a run, removed from its checkpoint's `versions_seen`."""
        stored = versions_seen.pop(TOKEN_KEY, None)
        if not stored:
            return None
        generation, id, position, runs, names = json.loads(next(iter(stored)))
        return cls(generation, id, Seen(position, tuple(runs)), tuple(names))


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as a graph is given it."""

    ns: str
    id: str
    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    parent: str | None
    writes: list[Write]


@dataclass(frozen=True)
class Put:
    """A checkpoint as a graph hands it over."""

    ns: str
    parent: str | None
    checkpoint: Mapping[str, Any]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Runs:
    """What the operations of a graph on its sessions have in common."""

    sessions: Sessions
    messages_key: str = "messages"

    # Reading

    def load(
        self, key: SessionKey, ns: str, id: str | None, lease: Lease | None
    ) -> Flow[Loaded | None]:
        """The latest checkpoint of a namespace, or the one of this id; None if there is none."""
        if ns:
            return (yield from self._load_sub(key, ns, id, lease))
        head = head_name("")
        names = (head,) if id is None else (head, _c("", id), _w("", id), INDEX)
        query = Query(names, _FOLLOW, (LOG, head), lease)
        snapshot = yield from reading(key, query)
        if not snapshot.generation:
            return None
        view = self.sessions.look(snapshot)
        if view.head_id is None:
            if view.names and id in (None, first_checkpoint_id(snapshot.generation)):
                return self._first(view)
            return None
        if id is None or id == view.head_id:
            return self._latest(view)
        if not self._is_shown(snapshot, id):
            return None
        return self._older(snapshot, id)

    def _first(self, view: View) -> Loaded:
        """The checkpoint that a session without one shows: its conversation and nothing else."""
        snapshot = view.snapshot
        id = first_checkpoint_id(snapshot.generation)
        shown = self.sessions.window(view.graph, view.bodies)
        token = Token(snapshot.generation, id, view.seen, tuple(shown))
        checkpoint = _first_checkpoint(id, snapshot.generation, self.messages_key)
        checkpoint["channel_values"] = {
            self.messages_key: [view.bodies[name] for name in shown]
        }
        checkpoint["versions_seen"] = {TOKEN_KEY: token.versions()}
        return Loaded("", id, checkpoint, dict(_FIRST_METADATA), None, [])

    def _latest(self, view: View) -> Loaded:
        record, snapshot = view.record, view.snapshot
        assert record is not None and view.head_id is not None  # `load` looked.
        shown = self.sessions.window(view.graph, view.bodies)
        messages = [view.bodies[name] for name in shown]
        channel = record.channel
        versions = record.checkpoint["channel_versions"]
        unchanged = list(shown) == list(record.names)
        if channel is None and messages and self.messages_key not in versions:
            # The graph has not used the channel yet, but a chain has spoken.
            channel, unchanged = self.messages_key, False
        loaded = self._loaded(snapshot, view.head_id, record, channel, messages, unchanged)
        token = Token(snapshot.generation, view.head_id, view.seen, tuple(shown))
        loaded.checkpoint["versions_seen"][TOKEN_KEY] = token.versions()
        if channel is not None:
            loaded.checkpoint["channel_versions"].setdefault(channel, 1)
        return loaded

    def _older(self, snapshot: Snapshot, id: str) -> Loaded | None:
        blob = snapshot.blobs.get(_c("", id))
        if blob is None:
            return None
        record = decode_record(blob, self.sessions.codec)
        bodies = dict(
            zip(record.names, decode_bodies(record.names, snapshot.blobs, self.sessions.codec))
        )
        shown = self.sessions.window(record.names, bodies)
        messages = [bodies[name] for name in shown]
        loaded = self._loaded(snapshot, id, record, record.channel, messages, True)
        seen = Seen(snapshot.position)
        token = Token(snapshot.generation, id, seen, tuple(shown))
        loaded.checkpoint["versions_seen"][TOKEN_KEY] = token.versions()
        return loaded

    def _loaded(
        self,
        snapshot: Snapshot,
        id: str,
        record: Record,
        channel: str | None,
        messages: list[BaseMessage],
        unchanged: bool,
    ) -> Loaded:
        codec = self.sessions.codec
        values = record.decode_values(snapshot.blobs, codec)
        if channel is not None and (record.explicit or not unchanged):
            # A `DeltaChannel` whose chain of writes no longer tells it all is given a snapshot.
            as_delta = record.snapshot or not record.explicit
            values[channel] = delta_snapshot(messages) if as_delta else messages
        writes = decode_writes(snapshot.lists.get(_w("", id), ()), snapshot.blobs, codec)
        checkpoint = {**record.checkpoint, "channel_values": values}
        return Loaded("", id, checkpoint, record.metadata, record.parent, writes)

    def _is_shown(self, snapshot: Snapshot, id: str) -> bool:
        cap = self.sessions.retention.max_checkpoints
        lines = lines_of(snapshot.lists.get(INDEX, ()))
        waiting = waiting_roots(
            [line for line in lines if line.id == id], snapshot, self.sessions.codec
        )
        return any(line.id == id for line in shown_lines(lines, (), cap, waiting))

    def _load_sub(
        self, key: SessionKey, ns: str, id: str | None, lease: Lease | None
    ) -> Flow[Loaded | None]:
        names = (head_name(ns),) if id is None else (_c(ns, id), _w(ns, id))
        snapshot = yield from reading(key, Query(names, _FOLLOW, None, lease))
        pointer = snapshot.blobs.get(head_name(ns))
        name = pointer.refs[0] if pointer is not None else _c(ns, id or "")
        if name not in snapshot.blobs:
            return None
        codec = self.sessions.codec
        record = decode_record(snapshot.blobs[name], codec)
        found = record.checkpoint["id"]
        values = record.decode_values(snapshot.blobs, codec)
        writes = decode_writes(snapshot.lists.get(_w(ns, found), ()), snapshot.blobs, codec)
        checkpoint = {**record.checkpoint, "channel_values": values}
        return Loaded(ns, found, checkpoint, record.metadata, record.parent, writes)

    def lines(self, key: SessionKey, lease: Lease | None) -> Flow[tuple[list[Line], str | None]]:
        """The checkpoints a session shows, oldest first, and the id of the one that a session
        without any shows."""
        head = head_name("")
        query = Query((INDEX, SUBS, head), (), (LOG, head), lease)
        snapshot = yield from reading(key, query)
        roots = lines_of(snapshot.lists.get(INDEX, ()))
        subs = lines_of(snapshot.lists.get(SUBS, ()))
        if not roots and snapshot.lists.get(LOG):
            return [], first_checkpoint_id(snapshot.generation)
        cap = self.sessions.retention.max_checkpoints
        waiting: set[str] = set()
        if cap is not None and len(roots) > cap:
            names = tuple(_w("", line.id) for line in roots[:-cap])
            writes = yield from reading(key, Query(names))
            waiting = waiting_roots(roots[:-cap], writes, self.sessions.codec)
        return shown_lines(roots, subs, cap, waiting), None

    def delta_history(
        self, key: SessionKey, ns: str, id: str | None, channels: Sequence[str]
    ) -> Flow[dict[str, dict[str, Any]]]:
        """For each channel the writes on the way to a checkpoint, oldest first, and the nearest
        stored value they start from."""
        codec = self.sessions.codec
        collected: dict[str, list[Write]] = {channel: [] for channel in channels}
        seeds: dict[str, Any] = {}
        remaining = set(channels)
        names = (head_name(ns),) if id is None else (_c(ns, id),)
        snapshot = yield from reading(key, Query(names, ("c", "m")))
        pointer = snapshot.blobs.get(head_name(ns))
        name = pointer.refs[0] if pointer is not None else _c(ns, id or "")
        record = None
        if name in snapshot.blobs:
            record = decode_record(snapshot.blobs[name], codec)
        while record is not None and record.parent is not None and remaining:
            parent = record.parent
            query = Query((_c(ns, parent), _w(ns, parent), *(record.base or ())), ("m", "v"))
            snapshot = yield from reading(key, query)
            writes = decode_writes(snapshot.lists.get(_w(ns, parent), ()), snapshot.blobs, codec)
            for channel in remaining:
                found = [write for write in writes if write.channel == channel]
                collected[channel] = found + collected[channel]
            if record.base is not None and record.channel in remaining:
                shown = decode_bodies(record.base, snapshot.blobs, codec)
                seeds[record.channel] = delta_snapshot(shown)
                remaining.discard(record.channel)
            blob = snapshot.blobs.get(_c(ns, parent))
            if blob is None:
                break
            record = decode_record(blob, codec)
            values = record.decode_values(snapshot.blobs, codec)
            if record.channel in remaining and record.channel in record.values:
                shown = decode_bodies(record.names, snapshot.blobs, codec)
                values[record.channel] = delta_snapshot(shown) if record.snapshot else shown
            for channel in remaining & values.keys():
                seeds[channel] = values[channel]
                remaining.discard(channel)
        return {
            channel: {
                "writes": [
                    (write.task_id, write.channel, write.value) for write in collected[channel]
                ],
                **({"seed": seeds[channel]} if channel in seeds else {}),
            }
            for channel in channels
        }

    # Writing

    def put(self, key: SessionKey, put: Put, again: bool = False) -> Flow[Outcome]:
        """Store a checkpoint and what it changed in the conversation."""
        codec = self.sessions.codec
        checkpoint = {k: v for k, v in put.checkpoint.items() if k != "channel_values"}
        checkpoint["versions_seen"] = dict(checkpoint["versions_seen"])
        token = Token.taken_from(checkpoint["versions_seen"])
        values: dict[str, Any] = dict(put.checkpoint["channel_values"])
        ns, id, parent = put.ns, put.checkpoint["id"], put.parent
        where = f"session {tuple(key)}"
        found = Snapshot(0.0)
        if parent is not None:
            names = (_c(ns, parent), _w(ns, parent))
            found = yield from reading(key, Query(names, () if ns else ("m",)))
        blob = found.blobs.get(_c(ns, parent or ""))
        before = None if blob is None else decode_record(blob, codec)
        first = token is not None and token.id == parent
        starts = parent is None or first or before is None
        same = token is None or token.generation == found.generation
        run = id if before is None or starts else before.run
        if before is not None and not first:
            shown, seen = before.names, before.seen
        elif token is not None and same:
            shown, seen = token.names, Seen(token.seen.position, (*token.seen.runs, run))
        else:
            shown, seen = (), Seen(0, (run,))
        if token is not None and not same:
            self._leave_aged(values, token, found.now)
        record = Record(checkpoint, put.metadata, parent, run, seen, tuple(shown))
        base = Base() if again else Base.of(shown, found.blobs, codec)
        if not ns:
            self._talk(record, values, before, found, key)
        blob, blobs = encode_record(record, values, base, codec, where)
        append: list[tuple[str, bytes, tuple[str, ...]]] = []
        if first and not ns and before is None and token is not None and same:
            append += self._keep_first(key, token, blobs)
        blobs[_c(ns, id)] = blob
        blobs[head_name(ns)] = Blob(b"", (_c(ns, id),), seen.position, (_w(ns, id),))
        append.append((SUBS if ns else INDEX, line_of(ns, id, record).payload(), ()))
        if not ns:
            fresh = starts and self._opens_turn(record, shown, blobs, base)
            delta = _delta(run, shown, record.names, fresh)
            if delta.removed or delta.added:
                append.append((LOG, delta.payload(), delta.added))
        change = Change(self.sessions.lease, _guard(put, token), blobs, append)
        outcome = yield from writing(key, change)
        if outcome.status is Status.MISSING and not again:
            # Bodies it counted on were freed since; this time it brings them all.
            return (yield from self.put(key, put, again=True))
        if outcome.status is Status.STORED:
            yield from self.sessions.tidy(key, outcome)
        return outcome

    def _leave_aged(self, values: dict[str, Any], token: Token, now: float) -> None:
        """Past the maximal age of the session it loaded, a turn keeps only what it added."""
        age = self.sessions.retention.age_seconds
        value = values.get(self.messages_key)
        messages = snapshot_value(value)
        if age is None or now < token.generation / 1e6 + age or not is_conversation(messages):
            return
        old = {key_of(name) for name in token.names}
        kept = [message for message in messages if message.id not in old]
        values[self.messages_key] = kept if value is messages else delta_snapshot(kept)

    def _talk(
        self,
        record: Record,
        values: Mapping[str, Any],
        before: Record | None,
        found: Snapshot,
        key: SessionKey,
    ) -> None:
        """Find out what the conversation at this checkpoint is, and which channel is it."""
        channel = self.messages_key
        if channel in values:
            if is_conversation(snapshot_value(values[channel])):
                record.channel = channel
            return
        counters = record.metadata.get("counters_since_delta_snapshot") or {}
        if channel not in counters or channel not in record.checkpoint["channel_versions"]:
            return
        # A `DeltaChannel` between snapshots: its new value is the old one and the parent's
        # writes, which LangGraph stores first.
        record.channel, record.explicit = channel, False
        if before is not None and before.names != record.names:
            record.base = record.names
        codec = self.sessions.codec
        entries = found.lists.get(_w("", record.parent or ""), ())
        writes = decode_writes(entries, found.blobs, codec)
        said = [write.value for write in writes if write.channel == channel]
        record.names = self._applied(record.names, said, key)

    def _applied(
        self, names: tuple[str, ...], writes: Sequence[Any], key: SessionKey
    ) -> tuple[str, ...]:
        shown = dict(zip(keyed(names), names))
        for value in writes:
            replaced, value = overwritten(value)
            if replaced:
                shown = {}
            try:
                messages = convert_to_messages(value if isinstance(value, list) else [value])
            except (ValueError, NotImplementedError):
                continue  # Not messages: another reducer's business.
            for message in messages:
                if isinstance(message, RemoveMessage):
                    shown.pop(message.id or "", None)
                    continue
                name = encode_bodies(
                    [message], Base(), self.sessions.codec, f"session {tuple(key)}", {}
                )[0]
                shown[keyed([*shown.values(), name])[-1] if not message.id else message.id] = name
        return tuple(shown.values())

    def _keep_first(
        self, key: SessionKey, token: Token, blobs: dict[str, Blob]
    ) -> list[tuple[str, bytes, tuple[str, ...]]]:
        """Store the checkpoint that a session without one showed, now that one builds on it."""
        if token.id != first_checkpoint_id(token.generation):
            return []
        checkpoint = _first_checkpoint(token.id, token.generation, self.messages_key)
        record = Record(
            checkpoint,
            dict(_FIRST_METADATA),
            None,
            token.id,
            token.seen,
            token.names,
            channel=self.messages_key,
        )
        blobs[_c("", token.id)] = encode_shown(record, self.sessions.codec)
        return [(INDEX, line_of("", token.id, record).payload(), ())]

    def _opens_turn(
        self, record: Record, shown: Sequence[str], blobs: Mapping[str, Blob], base: Base
    ) -> bool:
        """Whether the first checkpoint of a run opens a turn, and does not resume one."""
        if record.metadata.get("source") != "loop":
            return True
        old = set(shown)
        codec = self.sessions.codec
        new = [name for name in record.names if name not in old and name in blobs]
        return any(
            isinstance(message, HumanMessage) for message in decode_bodies(new, blobs, codec)
        )

    def put_writes(
        self,
        key: SessionKey,
        ns: str,
        id: str,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        path: str,
    ) -> Change:
        """The change that stores writes pending on a checkpoint, perhaps before it is put."""
        codec = self.sessions.codec
        payload, refs, blobs = encode_writes(writes, task_id, path, codec, f"session {tuple(key)}")
        return Change(
            self.sessions.lease,
            Guard(needs=_c(ns, id)),
            blobs,
            append=[(_w(ns, id), payload, refs)],
        )


_FIRST_METADATA: dict[str, Any] = {"source": "input", "step": -1, "parents": {}}
_c = checkpoint_name
_w = writes_name


def _first_checkpoint(id: str, generation: int, channel: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(generation / 1e6, timezone.utc)
    return {
        "v": 4,
        "id": id,
        "ts": created.isoformat(),
        "channel_versions": {channel: 1},
        "versions_seen": {},
        "updated_channels": None,
    }


def _delta(run: str, shown: Sequence[str], names: Sequence[str], fresh: bool) -> Delta:
    removed, added = diff(shown, names)
    after = None
    if added and not fresh:
        place = names.index(added[0])
        after = key_of(names[place - 1]) if place else None
    return Delta(run, removed, added, after)


def _guard(put: Put, token: Token | None) -> Guard:
    if token is not None:
        return Guard(token.generation)
    if put.ns:
        root = (put.metadata.get("parents") or {}).get("")
        return Guard(needs=_c("", root)) if root else Guard()
    return Guard(needs=_c("", put.parent)) if put.parent is not None else Guard()
