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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_ttl_history.codec import Codec, decoder, pack, unpack
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


@decoder("a log entry")
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
    return [delta for delta in deltas if delta.position > seen.position and delta.run not in seen.runs]


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
    shown = dict(zip(order, names, strict=True))
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
    known = len(base)
    if tuple(names[:known]) == tuple(base) and len(set(map(key_of, names))) == len(names):
        return (), tuple(names[known:])
    before = dict(zip(keyed(base), base, strict=True))
    after = dict(zip(keyed(names), names, strict=True))
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
    keys = [key_of(name) for name in names]
    if len(set(keys)) == len(keys):
        return keys
    counts: dict[str, int] = {}
    unique: list[str] = []
    for key in keys:
        count = counts[key] = counts.get(key, 0) + 1
        unique.append(key if count == 1 else f"{key}\0{count}")
    return unique


@dataclass
class Base:
    """Bodies that are known to be stored, so that they need not be sent again."""

    names: dict[str, str] = field(default_factory=dict)
    """For each id the name of its body."""
    packed: dict[str, bytes] = field(default_factory=dict)
    """For each id the content."""
    contents: dict[bytes, str] = field(default_factory=dict)
    """For each content that was stored without an id its name."""
    size: int = 0
    """Bytes of all content."""

    def learn(self, name: str, packed: bytes) -> None:
        """Remember a body."""
        self.size += len(packed)
        id = name[1 + _DIGEST :]
        if id:
            self.names[id] = name
            self.packed[id] = packed
        else:
            self.contents[packed] = name

    def learn_read(self, names: Iterable[str], blobs: Mapping[str, Blob], codec: Codec) -> None:
        """Remember bodies as they were read."""
        known = self.names
        for name in names:
            id = name[1 + _DIGEST :]
            if id and known.get(id) != name and (blob := blobs.get(name)) is not None:
                content = blobs.get(blob.refs[0]) if blob.refs else blob
                if content is not None:
                    self.learn(name, codec.unseal(content.payload))


def encode_bodies(
    messages: Sequence[BaseMessage], base: Base, codec: Codec, where: str, blobs: dict[str, Blob]
) -> list[str]:
    """The names of these messages; the bodies that `base` lacks are added to `blobs`.

    Every message is packed anew and compared, so one that was changed in place is never missed.

    Raises:
        TypeNotAllowedError: A message holds something that would not come back.
    """
    # Nearly always all but the last few are as they were stored.
    stored = base.packed
    same: list[bytes] = []
    for message in messages:
        packed = stored.get(message.id or "")
        if packed is None:
            break
        same.append(packed)
    known = len(same) if codec.packed_alike(messages[: len(same)], same) else 0
    names = [base.names[message.id or ""] for message in messages[:known]]
    names += [_encode(message, base, codec, where, blobs) for message in messages[known:]]
    return names


def _encode(message: BaseMessage, base: Base, codec: Codec, where: str, blobs: dict[str, Blob]) -> str:
    id = message.id or None
    try:
        packed: bytes | None = codec.pack_message(message)
    except TypeError:
        packed = None  # `verified_message` tells what is wrong with it.
    if id is not None and packed is not None and base.packed.get(id) == packed:
        return base.names[id]
    content = None if packed is None else base.contents.get(packed)
    if packed is None or content is None:
        packed = codec.verified_message(message, f"{where}, message {message.id!r}")
        content = body_name(packed, None)
        if id is None or isinstance(message, ToolMessage):
            blobs.setdefault(content, Blob(codec.seal(packed)))
            base.learn(content, packed)
    if id is None:
        return content
    name = content + id
    if isinstance(message, ToolMessage):
        # A tool's result gets its id only after it was written as pending; both copies share the
        # content.
        blobs[name] = Blob(b"", (content,))
    else:
        blobs[name] = Blob(codec.seal(packed))
    base.learn(name, packed)
    return name


def decode_bodies(names: Iterable[str], blobs: Mapping[str, Blob], codec: Codec) -> list[BaseMessage]:
    """The messages of these names.

    Raises:
        CorruptRecordError: A body is gone, damaged or of a newer format.
    """
    packed: list[bytes] = []
    ids: list[str | None] = []
    plain = codec.cipher is None
    for name in names:
        try:
            blob = blobs[name]
            if blob.refs:
                blob = blobs[blob.refs[0]]
        except KeyError:
            raise CorruptRecordError(f"the body of message {key_of(name)!r} is gone") from None
        packed.append(blob.payload if plain else codec.unseal(blob.payload))
        ids.append(name[1 + _DIGEST :] or None)
    return codec.messages(packed, ids)
