"""Checkpoint records: how a graph's checkpoints and pending writes are stored and listed.

Names in a session: ``c<ns>\\0<id>`` is a checkpoint, ``w<ns>\\0<id>`` the list of writes pending
on it, ``h<ns>`` points at the namespace's latest checkpoint, ``v<digest>`` is a large channel
value, and the lists ``index`` and ``subs`` hold a line for each checkpoint of the root graph and
of subgraphs, in the order they were put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from langgraph.checkpoint.serde.types import INTERRUPT, RESUME, _DeltaSnapshot

from langchain_ttl_history.codec import Codec, pack, unpack
from langchain_ttl_history.conversation import Base, Seen, decode_bodies, encode_bodies
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.base import Blob, Entry

__all__ = [
    "INDEX",
    "SUBS",
    "Line",
    "Record",
    "Write",
    "checkpoint_name",
    "decode_record",
    "decode_writes",
    "delta_snapshot",
    "encode_record",
    "encode_shown",
    "encode_writes",
    "first_checkpoint_id",
    "head_name",
    "line_of",
    "is_conversation",
    "lines_of",
    "overwritten",
    "snapshot_value",
    "waits_for_answer",
    "without_messages",
    "writes_name",
]

INDEX = "index"
SUBS = "subs"
_FORMAT = 1
# A value of up to so many bytes stands in its record; a larger one is shared as a blob.
_INLINE = 96
# How a value is stored.
_HERE, _BLOB, _LIST, _MESSAGE, _SNAPSHOT = range(5)


def checkpoint_name(ns: str, id: str) -> str:
    """The name of a checkpoint."""
    return f"c{ns}\0{id}"


def writes_name(ns: str, id: str) -> str:
    """The name of the list of writes pending on a checkpoint."""
    return f"w{ns}\0{id}"


def head_name(ns: str) -> str:
    """The name of what points at a namespace's latest checkpoint."""
    return f"h{ns}"


def first_checkpoint_id(generation: int) -> str:
    """The id of the checkpoint that a session without one shows: older than any it will get."""
    ticks = generation * 10 + 0x01B21DD213814000
    number = (ticks >> 12) << 80 | 0x6 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62
    return str(UUID(int=number))


class _Values:
    """Encodes values side by side, sharing one tuple of references."""

    def __init__(self, codec: Codec, where: str, base: Base) -> None:
        self.codec, self.where, self.base = codec, where, base
        self.refs: list[str] = []
        self.blobs: dict[str, Blob] = {}

    def messages(self, value: Sequence[BaseMessage], channel: str) -> list[int]:
        start = len(self.refs)
        where = f"{self.where}, channel {channel!r}"
        self.refs += encode_bodies(value, self.base, self.codec, where, self.blobs)
        return [start, len(self.refs)]

    def encode(self, value: Any, channel: str) -> list[Any]:
        own = self.codec.serde is None
        if own and is_conversation(value) and value:
            return [_LIST, *self.messages(value, channel)]
        if own and isinstance(value, BaseMessage):
            return [_MESSAGE, *self.messages([value], channel)]
        if own and type(value) is _DeltaSnapshot and is_conversation(value.value):
            return [_SNAPSHOT, *self.messages(value.value, channel)]
        data = self.codec.dumps(value, f"{self.where}, channel {channel!r}")
        if len(data) <= _INLINE:
            return [_HERE, data]
        name = "v" + hashlib.blake2b(data, digest_size=16).hexdigest()
        self.blobs[name] = Blob(self.codec.seal(data))
        self.refs.append(name)
        return [_BLOB, len(self.refs) - 1]


def _decode(stored: Sequence[Any], refs: Sequence[str], blobs: Any, codec: Codec) -> Any:
    kind = stored[0]
    if kind == _HERE:
        return codec.loads(stored[1])
    if kind == _BLOB:
        name = refs[stored[1]]
        if name not in blobs:
            raise CorruptRecordError("a channel's value is gone")
        return codec.loads(codec.unseal(blobs[name].payload))
    if kind not in (_LIST, _MESSAGE, _SNAPSHOT):
        raise CorruptRecordError(f"a channel's value is of kind {kind!r}, of a newer format")
    messages = decode_bodies(refs[stored[1] : stored[2]], blobs, codec)
    if kind == _LIST:
        return messages
    return messages[0] if kind == _MESSAGE else _DeltaSnapshot(messages)


def delta_snapshot(messages: list[BaseMessage]) -> Any:
    """A `DeltaChannel`'s stored value."""
    return _DeltaSnapshot(messages)


def snapshot_value(value: Any) -> Any:
    """A channel's value, out of its snapshot if it is one."""
    return value.value if type(value) is _DeltaSnapshot else value


def overwritten(value: Any) -> tuple[bool, Any]:
    """Whether a write replaces a channel's value, and what it writes."""
    if type(value).__name__ == "Overwrite" and hasattr(value, "value"):
        return True, value.value
    if isinstance(value, dict) and set(value) == {"__overwrite__"}:
        return True, value["__overwrite__"]
    return False, value


def is_conversation(value: Any) -> bool:
    """Whether a channel's value is a list of messages."""
    return type(value) is list and all(isinstance(each, BaseMessage) for each in value)


@dataclass
class Record:
    """A checkpoint as it is stored."""

    checkpoint: dict[str, Any]
    """All of it but the channel values."""
    metadata: dict[str, Any]
    parent: str | None
    run: str
    """The id of the first checkpoint that its run put."""
    seen: Seen = field(default_factory=Seen)
    names: tuple[str, ...] = ()
    """The conversation at this checkpoint."""
    base: tuple[str, ...] | None = None
    """What its run was shown as the parent's conversation, where that differs from what the
    parent's own channel would give."""
    channel: str | None = None
    """The channel that is the conversation; None if there is none."""
    explicit: bool = True
    """Whether that channel stores the conversation, and not a chain of writes."""
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    refs: tuple[str, ...] = ()

    def decode_values(self, blobs: Any, codec: Codec) -> dict[str, Any]:
        """The channel values; the conversation is left to the caller."""
        return {
            channel: _decode(stored, self.refs, blobs, codec)
            for channel, stored in self.values.items()
            if channel != self.channel
        }

    @property
    def snapshot(self) -> bool:
        """Whether the conversation's channel holds a `DeltaChannel`'s snapshot."""
        stored = self.values.get(self.channel or "")
        return stored is not None and stored[0] == _SNAPSHOT


def encode_record(
    record: Record, values: Mapping[str, Any], base: Base, codec: Codec, where: str
) -> tuple[Blob, dict[str, Blob]]:
    """A checkpoint as a blob, and the other blobs it needs that `base` lacks.

    `record.names` is set from the conversation channel's value where `record.explicit`.

    Raises:
        TypeNotAllowedError: A value would not come back as it is.
    """
    encoder = _Values(codec, where, base)
    stored: dict[str, Any] = {}
    talk: list[int] | None = None
    if record.channel is not None and record.explicit:
        value = values[record.channel]
        snapshot = type(value) is _DeltaSnapshot
        talk = encoder.messages(value.value if snapshot else value, record.channel)
        stored[record.channel] = [_SNAPSHOT if snapshot else _LIST, *talk]
        record.names = tuple(encoder.refs[talk[0] : talk[1]])
    else:
        talk = [0, len(record.names)]
        encoder.refs += record.names
    shown = None
    if record.base is not None:
        shown = [len(encoder.refs), len(encoder.refs) + len(record.base)]
        encoder.refs += record.base
    for channel, value in values.items():
        if channel not in stored:
            stored[channel] = encoder.encode(value, channel)
    record.values, record.refs = stored, tuple(encoder.refs)
    return _blob(record, talk, shown, codec, where), encoder.blobs


def _blob(
    record: Record,
    talk: list[int],
    shown: list[int] | None,
    codec: Codec,
    where: str = "a new checkpoint",
) -> Blob:
    fields = [
        _FORMAT,
        record.checkpoint,
        _plain(codec).dumps(record.metadata, f"{where}, metadata"),
        record.parent,
        record.run,
        record.seen.position,
        list(record.seen.runs),
        talk,
        shown,
        record.channel,
        record.explicit,
        record.values,
    ]
    return Blob(codec.seal(pack(fields)), record.refs, record.seen.position)


def encode_shown(record: Record, codec: Codec) -> Blob:
    """A checkpoint that holds nothing but a conversation whose bodies are stored."""
    slice_ = [0, len(record.names)]
    record.values = {record.channel or "": [_LIST, *slice_]}
    record.refs = record.names
    return _blob(record, slice_, None, codec)


def _plain(codec: Codec) -> Codec:
    """Metadata is always in this package's own format, whatever serializes channels."""
    return codec if codec.serde is None else codec.allowing((), None)


def decode_record(blob: Blob, codec: Codec) -> Record:
    """The checkpoint a blob holds.

    Raises:
        CorruptRecordError: It is damaged or of a newer format.
    """
    fields = unpack(codec.unseal(blob.payload))
    if fields[0] != _FORMAT:
        raise CorruptRecordError(f"a checkpoint is of format {fields[0]}, newer than {_FORMAT}")
    _, checkpoint, metadata, parent, run, position, runs, talk, shown, channel, explicit, values = (
        fields
    )
    return Record(
        checkpoint,
        _plain(codec).loads(metadata),
        parent,
        run,
        Seen(position, tuple(runs)),
        blob.refs[talk[0] : talk[1]],
        None if shown is None else blob.refs[shown[0] : shown[1]],
        channel,
        explicit,
        values,
        blob.refs,
    )


def without_messages(blob: Blob, lost: Collection[str], codec: Codec) -> Blob:
    """A checkpoint whose conversation lacks some messages."""
    fields = unpack(codec.unseal(blob.payload))
    start, end = fields[7]
    kept = tuple(name for name in blob.refs[start:end] if name not in lost)
    # The conversation stands first among the references, so all others move up.
    shift = end - start - len(kept)
    fields[7] = [0, len(kept)]
    if fields[8] is not None:
        fields[8] = [place - shift for place in fields[8]]
    for channel, stored in fields[11].items():
        if stored[0] == _HERE:
            continue
        own = channel == fields[9] and fields[10]
        fields[11][channel] = [
            stored[0],
            *((0, len(kept)) if own else (place - shift for place in stored[1:])),
        ]
    return blob._replace(payload=codec.seal(pack(fields)), refs=kept + blob.refs[end:])


@dataclass(frozen=True)
class Write:
    """One pending write."""

    task_id: str
    path: str
    index: int
    channel: str
    value: Any


def encode_writes(
    writes: Sequence[tuple[str, Any]], task_id: str, path: str, codec: Codec, where: str
) -> tuple[bytes, tuple[str, ...], dict[str, Blob]]:
    """A task's writes as payload and references of a list entry, and the blobs they need.

    Raises:
        TypeNotAllowedError: A value would not come back as it is.
    """
    encoder = _Values(codec, where, Base())
    stored = [
        [WRITES_IDX_MAP.get(channel, index), channel, encoder.encode(value, channel)]
        for index, (channel, value) in enumerate(writes)
    ]
    payload = codec.seal(pack([_FORMAT, task_id, path, stored]))
    return payload, tuple(encoder.refs), encoder.blobs


def decode_writes(entries: Iterable[Entry], blobs: Any, codec: Codec) -> list[Write]:
    """Pending writes in the order LangGraph applies them.

    A write at a regular place stays as it was first stored; an error, an interrupt or a resume
    is replaced by a later one.
    """
    found: dict[tuple[str, int], Write] = {}
    for entry in entries:
        form, task_id, path, stored = unpack(codec.unseal(entry.payload))
        if form != _FORMAT:
            raise CorruptRecordError(f"a write is of format {form}, newer than {_FORMAT}")
        for index, channel, value in stored:
            if index < 0 or (task_id, index) not in found:
                found[task_id, index] = Write(
                    task_id, path, index, channel, _decode(value, entry.refs, blobs, codec)
                )
    return sorted(
        found.values(), key=lambda write: writes_sort_key(write.path, write.task_id, write.index)
    )


def waits_for_answer(entries: Iterable[Entry], codec: Codec) -> bool:
    """Whether an interrupt among these writes has not been resumed."""
    asked: set[str] = set()
    answered: set[str] = set()
    for entry in entries:
        _, task_id, _, stored = unpack(codec.unseal(entry.payload))
        for _, channel, _ in stored:
            if channel == INTERRUPT:
                asked.add(task_id)
            elif channel not in (RESUME, *WRITES_IDX_MAP):
                answered.add(task_id)
    return bool(asked - answered)


@dataclass(frozen=True)
class Line:
    """What the index says of a checkpoint."""

    ns: str
    id: str
    parent: str | None
    root: str | None
    """The root checkpoint a subgraph's ran under."""
    run_id: str | None
    deltas: tuple[str, ...] | None
    """Channels whose value is spread over its ancestors' writes."""
    valued: tuple[str, ...] | None
    """Channels it stores a value of; None stands for all of them."""
    position: int = 0

    def payload(self) -> bytes:
        """The entry's payload."""
        deltas = None if self.deltas is None else list(self.deltas)
        valued = None if self.valued is None else list(self.valued)
        return pack(
            [_FORMAT, self.ns, self.id, self.parent, self.root, self.run_id, deltas, valued]
        )


def line_of(ns: str, id: str, record: Record) -> Line:
    """The index line of a checkpoint."""
    counters = record.metadata.get("counters_since_delta_snapshot") or {}
    deltas = tuple(counters) or None
    run_id = record.metadata.get("run_id")
    root = (record.metadata.get("parents") or {}).get("") if ns else None
    return Line(
        ns,
        id,
        record.parent,
        root,
        None if run_id is None else str(run_id),
        deltas,
        None if deltas is None and not record.snapshot else tuple(record.values),
    )


def lines_of(entries: Iterable[Entry]) -> list[Line]:
    """The index, oldest first, each checkpoint once: where it was put last.

    Raises:
        CorruptRecordError: A line is damaged or of a newer format.
    """
    lines: dict[tuple[str, str], Line] = {}
    for entry in entries:
        form, ns, id, parent, root, run_id, deltas, valued = unpack(entry.payload)
        if form != _FORMAT:
            raise CorruptRecordError(f"an index line is of format {form}, newer than {_FORMAT}")
        lines.pop((ns, id), None)
        lines[ns, id] = Line(
            ns,
            id,
            parent,
            root,
            run_id,
            None if deltas is None else tuple(deltas),
            None if valued is None else tuple(valued),
            entry.position,
        )
    return list(lines.values())
