"""Log, head and fold: what the conversation of a session is.

A message is stored once, as a **body** named after its content and its id, and everything else
refers to that name. The **log** holds changes in the order they were stored, each made by one
**run** (a chain's turn, or a graph's run). The **head** is the list of names the latest root
checkpoint shows, with what its run had seen of the log. The conversation is the head with every
unseen change folded in:

* what the head's run had seen is never applied again;
* a change that the head's own run made later to the same message wins;
* an addition goes after the message it says it follows, otherwise to the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_ttl_history.codec import Codec, pack, unpack
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.base import Blob, Entry

__all__ = [
    "LOG",
    "Base",
    "Delta",
    "Seen",
    "body_name",
    "decode_bodies",
    "delta_of",
    "diff",
    "encode_bodies",
    "fold",
    "key_of",
    "unseen",
]

LOG = "log"
"""The list of changes."""

_DIGEST = 24
_FORMAT = 1


def body_name(packed: bytes, id: str | None) -> str:
    """The name of a body: m, the digest of its content, its id."""
    return "m" + hashlib.blake2b(packed, digest_size=_DIGEST // 2).hexdigest() + (id or "")


def key_of(name: str) -> str:
    """What tells two messages of a conversation apart: the id, or the content without one."""
    return name[1 + _DIGEST :] or name


@dataclass(frozen=True)
class Seen:
    """What a run has seen: every change up to a position, and those of some runs beyond it."""

    position: int = 0
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delta:
    """One entry of the log: what one step of a run changed."""

    run: str
    removed: tuple[str, ...] = ()
    """Keys."""
    added: tuple[str, ...] = ()
    """Names, upserted in this order."""
    after: str | None = None
    """The key of the message they follow; None means the end."""
    position: int = 0

    def payload(self) -> bytes:
        """The entry's payload; `added` are its references."""
        return pack([_FORMAT, self.run, list(self.removed), self.after])


def delta_of(entry: Entry) -> Delta:
    """The change an entry of the log holds.

    Raises:
        CorruptRecordError: It is damaged or of a newer format.
    """
    record = unpack(entry.payload)
    if record[0] != _FORMAT:
        raise CorruptRecordError(f"a log entry is of format {record[0]}, newer than {_FORMAT}")
    return Delta(record[1], tuple(record[2]), entry.refs, record[3], entry.position)


def unseen(deltas: Iterable[Delta], seen: Seen) -> list[Delta]:
    """The changes that somebody who has seen so much has not."""
    return [
        delta
        for delta in deltas
        if delta.position > seen.position and delta.run not in seen.runs
    ]


def fold(names: Sequence[str], deltas: Sequence[Delta], seen: Seen) -> Sequence[str]:
    """The names of the conversation: the head's, with the unseen changes applied."""
    new = unseen(deltas, seen)
    if not new:
        return names
    # Where the head's own run changed a message later than an unseen change did, it stands.
    own: dict[str, int] = {}
    for delta in deltas:
        if delta.run in seen.runs:
            for key in (*delta.removed, *map(key_of, delta.added)):
                own[key] = delta.position
    order = list(keyed(names))
    shown = dict(zip(order, names))
    for delta in new:
        for key in delta.removed:
            if key in shown and own.get(key, 0) < delta.position:
                del shown[key]
                order.remove(key)
        at = len(order)
        if delta.after in shown:
            at = order.index(delta.after) + 1
        for name in delta.added:
            key = key_of(name)
            if own.get(key, 0) > delta.position:
                continue
            if key not in shown:
                order.insert(at, key)
                at += 1
            shown[key] = name
    return [shown[key] for key in order]


def diff(base: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What turns one list of names into another, as keys removed and names added.

    A message that changed its place is removed and added again.
    """
    before = dict(zip(keyed(base), base))
    after = dict(zip(keyed(names), names))
    removed = [key for key in before if key not in after]
    stays = [key for key in before if key in after]
    moved: set[str] = set()
    place = 0
    for key in after:
        if place < len(stays) and stays[place] == key:
            place += 1
        elif key in before:
            moved.add(key)
        elif place < len(stays):
            # Something new before something old: all that follows is put down again.
            moved.update(stays[place:])
            place = len(stays)
    added = [name for key, name in after.items() if key in moved or before.get(key) != name]
    return (*removed, *(key for key in before if key in moved)), tuple(added)


def keyed(names: Iterable[str]) -> list[str]:
    """A key for each name, unique even where one message stands twice."""
    keys: list[str] = []
    counts: dict[str, int] = {}
    for name in names:
        key = key_of(name)
        count = counts[key] = counts.get(key, 0) + 1
        keys.append(key if count == 1 else f"{key}\0{count}")
    return keys


@dataclass
class Base:
    """Bodies that are known to be stored: for each key the name and the content."""

    names: dict[str, str] = field(default_factory=dict)
    packed: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str], blobs: Any, codec: Codec) -> Base:
        """The bodies of these names, as far as they were read."""
        base = cls()
        for name in names:
            blob = blobs.get(name)
            if blob is not None and blob.refs:
                blob = blobs.get(blob.refs[0])
            if blob is not None:
                key = key_of(name)
                base.names[key] = name
                base.packed[key] = codec.unseal(blob.payload)
        return base


def encode_bodies(
    messages: Sequence[BaseMessage], base: Base, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """The names of these messages; the bodies that `base` lacks are added to `blobs`.

    Every message is packed anew and compared, so one that was changed in place is never missed.

    Raises:
        TypeNotAllowedError: A message holds something that would not come back.
    """
    names: list[str] = []
    for message in messages:
        id = message.id
        packed: bytes | None = None
        if id and (stored := base.packed.get(id)) is not None:
            try:
                packed = codec.pack_message(message)
            except TypeError:
                packed = None  # `verified_message` below tells what is wrong with it.
            if packed == stored:
                names.append(base.names[id])
                continue
        packed = codec.verified_message(message, where)
        name = body_name(packed, id)
        if name not in blobs:
            payload = codec.seal(packed)
            if id and isinstance(message, ToolMessage):
                # A tool's result gets its id only after it was written as pending; both copies
                # share the content.
                content = body_name(packed, None)
                blobs[content] = Blob(payload)
                blobs[name] = Blob(b"", (content,))
            else:
                blobs[name] = Blob(payload)
        names.append(name)
    return names


def decode_bodies(names: Iterable[str], blobs: Any, codec: Codec) -> list[BaseMessage]:
    """The messages of these names.

    Raises:
        CorruptRecordError: A body is gone, damaged or of a newer format.
    """
    messages = []
    decode, cipher = codec.message, codec.cipher
    for name in names:
        try:
            blob = blobs[name]
            if blob.refs:
                blob = blobs[blob.refs[0]]
        except KeyError:
            raise CorruptRecordError(f"the body of message {key_of(name)!r} is gone") from None
        payload = blob.payload if cipher is None else codec.unseal(blob.payload)
        messages.append(decode(payload, name[1 + _DIGEST :] or None))
    return messages
