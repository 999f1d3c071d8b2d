"""Stores a checkpoint again with the writes pending on it: its session ended, or it was freed, under their run.

A run that an interrupt or an error ends puts no more checkpoints, so its last writes have to bring along what it holds:

```text
 an agent is shown q1 a1, is asked q2, and calls a tool    its last checkpoint has q1 a1 q2 call
 while the tool runs, the session expires                  that checkpoint is gone
 the tool asks a person                                    a new session begins: with that checkpoint, the interrupt
                                                           pending on it, and a log that adds q1 a1 and q2 call
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from langchain_ttl_history.cached_session import CachedSession
from langchain_ttl_history.checkpointing.expired_turns import carried_over
from langchain_ttl_history.checkpointing.put_inputs import TaskWrites
from langchain_ttl_history.checkpoints import Record, encode_record, encode_values
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.flow import Flow, Read
from langchain_ttl_history.index import line_payload, lines_of
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.log_entries import Seen
from langchain_ttl_history.pointers import found_record
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Appended, Blob, Change, Entry, Guard, Query, Snapshot, created_in
from langchain_ttl_history.stored.bodies import restored
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import CHECKPOINT, INDEX, LOG, SUBS, pointer_name, writes_name

__all__ = ["with_expired_checkpoint", "with_freed_checkpoint"]


class _Content(NamedTuple):
    """What a checkpoint refers to, as blobs by name."""

    bodies: dict[str, Blob]
    """Its messages."""
    values: Mapping[str, Blob]
    """Its other values."""


class _Remembered(NamedTuple):
    """A checkpoint as this process remembers it."""

    name: str
    record: Record
    cached: CachedSession
    """What is known of its session."""

    @classmethod
    def of(cls, name: str, cached: CachedSession | None) -> _Remembered | None:
        """The checkpoint of this name, if it is remembered."""
        record = None if cached is None else cached.records.get(name)
        return None if cached is None or record is None else cls(name, record, cached)

    def content(self, record: Record, codec: Codec, where: str) -> _Content | None:
        """What the checkpoint refers to; None if this process does not remember all of it.

        Args:
            record: The checkpoint as it is stored again, which gets its values here.
            codec: Encodes them.
            where: Names the session in errors.
        """
        encode_values(record, {}, KnownBodies(), codec, where, self.record)
        bodies = restored(record.body_names, self.cached.bodies, codec)
        values = self.cached.values.get(self.name, {})
        return None if any(ref not in bodies and ref not in values for ref in record.refs) else _Content(bodies, values)


def with_expired_checkpoint(sessions: Sessions, given: TaskWrites, ended: int, writes: Change) -> Flow[Change | None]:
    """The change that puts a checkpoint into a session that began anew, together with the writes pending on it.

    Where another run has put a checkpoint there meanwhile, that stays the latest, and only what was said is stored.
    None if this process does not remember all of it, or if the session is past its `max_age`.

    Args:
        sessions: What sessions have in common.
        given: The writes, which name the checkpoint.
        ended: The generation of the session that ended.
        writes: What stores the writes.
    """
    key, ns, id, name = given.key, given.ns, given.id, given.checkpoint_name
    codec, where = sessions.codec, label(key)
    remembered = _Remembered.of(name, sessions.cache.last_with(key, name, ended))
    if remembered is None:
        return None
    old = remembered.record
    found: Snapshot = yield Read(key, Query((pointer_name(ns),)))
    if sessions.lease.is_past_max_age(created_in(ended), found.now) or (ns and (found.blobs or _is_spread(old))):
        return None
    # Of what it loaded the run holds what it was shown.
    shown = remembered.cached.bodies.names_loaded(id)
    names = old.names if shown is None else shown
    seen = Seen(0, ((old.run, None),))
    record = Record(
        old.checkpoint, old.metadata, old.parent, old.run, seen, names, channel=old.channel, kept_as=old.kind
    )
    content = remembered.content(record, codec, where)
    if content is None:
        return None
    append: list[Appended] = []
    if record.channel is not None:  # Never in a subgraph.
        append += [(LOG, each.payload(), each.added) for each in carried_over(record, None, content.bodies, codec)]
    blobs = {**writes.blobs, **content.values, **content.bodies}
    if not found.blobs:  # Nobody has put a checkpoint in the new session.
        append.append((SUBS if ns else INDEX, line_payload(ns, id, record), ()))
        blobs[name] = encode_record(record, codec, where)
        blobs[pointer_name(ns)] = Blob(b"", (name,), 0, (writes_name(ns, id),))
    return replace(
        writes,
        guard=Guard(ended),
        blobs=blobs,
        append=[*append, *writes.append],
        at_generation=found.generation or None,
        at_position=found.position if found.generation else None,
        new=not found.generation,
    )


def with_freed_checkpoint(sessions: Sessions, key: SessionKey, name: str, writes: Change) -> Flow[Change | None]:
    """The change that puts a root checkpoint again that was freed under its run, with the writes pending on it.

    It is listed about where it was, and another run's checkpoint stays the latest. None if this process does not
    remember all of the checkpoint, or another one was built on it.

    Args:
        sessions: What sessions have in common.
        key: The session.
        name: The checkpoint's name.
        writes: What stores the writes.
    """
    remembered = _Remembered.of(name, sessions.cache.last(key))
    if remembered is None or _is_spread(remembered.record):
        return None
    codec, where = sessions.codec, label(key)
    record = replace(remembered.record, kept_as=remembered.record.kind)
    content = remembered.content(record, codec, where)
    if content is None:
        return None
    blobs = {**writes.blobs, **content.values, **content.bodies, name: encode_record(record, codec, where)}
    id = record.checkpoint["id"]
    found: Snapshot = yield Read(key, Query((INDEX, pointer_name("")), (CHECKPOINT,)))
    lines = lines_of(found.lists.get(INDEX, ()))
    head = found_record("", None, found.blobs, codec)
    has_all = head is not None and record.names and {*record.names} <= {*head.names}
    if has_all or any(each.parent == id for each in lines):
        return None  # Another run has built on it, and its answer stands in the place of this one.
    # Ids count up with time, but for workers whose clocks differ. The last line is the latest checkpoint's, and stays.
    taken = {each.position for each in lines}
    last = max(taken, default=0)
    newer = next((each.position for each in lines if each.id > id), last)
    # It was listed before the last line, so there is room: where an entry of another list is, at least.
    free = (at for at in chain(range(newer - 1, 0, -1), range(newer + 1, last)) if at not in taken)
    place = next(free, None)
    if place is None:
        return writes  # They are refused, since there is another session by now.
    return replace(writes, blobs=blobs, place=[(INDEX, Entry(place, line_payload("", id, record)))])


def _is_spread(record: Record) -> bool:
    """Whether a part of its channels' values is in writes before it, which ended with its session."""
    versions = record.checkpoint["channel_versions"]
    return any(channel in versions and channel not in record.values for channel in record.counters)
