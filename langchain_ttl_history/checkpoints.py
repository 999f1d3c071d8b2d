"""Checkpoint records: how a graph's checkpoints are stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.langgraph_values import is_snapshot
from langchain_ttl_history.encoding.plain import plainly
from langchain_ttl_history.encoding.records import decoder, pack, unpack, unread_form
from langchain_ttl_history.errors import CorruptRecordError, TypeNotAllowedError, brief
from langchain_ttl_history.log_entries import Seen
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import BODY, BodyName, MessageKey
from langchain_ttl_history.stored.values import LIST, SNAPSHOT, ValueEncoder, decode_value, shifted

__all__ = [
    "Record",
    "decode_record",
    "encode_record",
    "encode_values",
    "without_messages",
]

_FORMAT = 1
# The fields that every checkpoint put by a graph has.
_NEEDED = frozenset({"id", "channel_versions", "versions_seen"})


class _Fields(NamedTuple):
    """A record as it is packed: part of the stored format, so fields are only added, at the end."""

    form: int
    checkpoint: dict[str, Any]
    metadata: bytes
    parent: str | None
    run: str
    position: int
    """With `runs`, what its run has seen; see `Seen.packed`."""
    runs: list[Any]
    conversation: list[int]
    """Where the names of the conversation begin and end among the references."""
    shown: list[int] | None
    """The same for the parent's conversation as its run was shown it."""
    channel: str | None
    explicit: bool
    values: Mapping[str, Sequence[Any]]
    last: MessageKey | None


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
    names: tuple[BodyName, ...] = ()
    """The conversation at this checkpoint."""
    last: MessageKey | None = None
    """The key of the last message that its run's turn has said so far."""
    parent_names: tuple[BodyName, ...] | None = None
    """The parent's conversation as its run was shown it, if that differs from the parent's own value."""
    channel: str | None = None
    """The channel that is the conversation; None if there is none."""
    explicit: bool = True
    """Whether the channel's value is stored here; if not, it is the result of a chain of writes."""
    kept_as: int = SNAPSHOT
    """How `encode_values` lets the channel keep the conversation, as LIST or SNAPSHOT, if that has been stored before
    and its value is not among those to encode. Of what is stored already `kind` tells it."""
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """How each channel's value is stored; see `stored.values`."""
    refs: tuple[str, ...] = ()
    """Names of the blobs that it needs: the conversation's first, then those of `values`."""

    @property
    def body_names(self) -> list[BodyName]:
        """The names of all messages that it needs, those in other channels included."""
        return [BodyName(ref) for ref in self.refs if ref[0] == BODY]

    @decoder("a channel's value")
    def decode_values(self, blobs: Mapping[str, Blob], codec: Codec) -> dict[str, Any]:
        """The channel values; the conversation is left to the caller.

        Raises:
            CorruptRecordError: One is gone, damaged or of a newer format.
            TypeNotAllowedError: It holds a type that is not allow-listed.
        """
        return {
            channel: decode_value(stored, self.refs, blobs, codec)
            for channel, stored in self.values.items()
            if channel != self.channel
        }

    @property
    def is_delta(self) -> bool:
        """Whether the conversation is a `DeltaChannel`'s."""
        return self.channel is not None and (not self.explicit or self.has_snapshot)

    @property
    def has_snapshot(self) -> bool:
        """Whether the conversation's channel holds a `DeltaChannel`'s snapshot."""
        stored = self.values.get(self.channel or "")
        return stored is not None and stored[0] == SNAPSHOT

    @property
    def counters(self) -> Mapping[str, Any]:
        """What LangGraph counts since the last snapshot of each `DeltaChannel`; empty for a graph without one."""
        return self.metadata.get("counters_since_delta_snapshot") or {}

    @property
    def kind(self) -> int:
        """How the conversation's channel keeps it, as LIST or SNAPSHOT."""
        return SNAPSHOT if self.is_delta else LIST

    def kept_in(self, channel: str) -> int | None:
        """How a channel keeps a conversation, be it outdated: as LIST or SNAPSHOT; None if it keeps none."""
        if channel == self.channel:
            return self.kind
        stored = self.values.get(channel)
        return stored[0] if stored is not None and stored[0] in (LIST, SNAPSHOT) else None


def encode_values(
    record: Record,
    values: Mapping[str, Any],
    known: KnownBodies,
    codec: Codec,
    where: str,
    before: Record | None = None,
) -> dict[str, Blob]:
    """Set a record's values and references, and its conversation if a channel's value is the conversation.

    A channel that has the same version as in the checkpoint `before` shares the value stored there.

    Returns:
        The blobs it needs that `known` lacks.

    Raises:
        TypeNotAllowedError: A value would not come back as it is.
    """
    encoder = ValueEncoder(codec, where, known)
    stored = _encode_conversation(record, values, encoder)
    if before is not None:
        # Before encoding: the run may have gone on and already changed the values it handed over.
        _share_unchanged(record, before, encoder, stored)
    for channel, value in values.items():
        if channel not in stored:
            stored[channel] = encoder.encode(value, channel)
    record.values, record.refs = stored, tuple(encoder.refs)
    return encoder.blobs


def _encode_conversation(record: Record, values: Mapping[str, Any], encoder: ValueEncoder) -> dict[str, Any]:
    """The conversation's channel as it is stored, if its value is; its messages come first among the references."""
    channel = record.channel if record.explicit else None
    if channel is not None and channel in values:
        value = values[channel]
        snapshot = is_snapshot(value)
        start, end = encoder.messages(value.value if snapshot else value, channel, whole=True)
        record.names = cast("tuple[BodyName, ...]", tuple(encoder.refs[start:end]))
        return {channel: [SNAPSHOT if snapshot else LIST, start, end]}
    encoder.refs += record.names
    return {} if channel is None else {channel: [record.kept_as, 0, len(record.names)]}


def _share_unchanged(record: Record, before: Record, encoder: ValueEncoder, stored: dict[str, Any]) -> None:
    """Take over what an earlier record stored of channels that have the same version in both."""
    versions, earlier = record.checkpoint["channel_versions"], before.checkpoint["channel_versions"]
    for channel, value in before.values.items():
        if (
            channel not in stored
            and channel in versions
            and versions[channel] == earlier.get(channel)
            and channel != record.channel
        ):
            stored[channel] = encoder.share(value, before.refs)


def encode_record(record: Record, codec: Codec, where: str) -> Blob:
    """A checkpoint as a blob, once its values are set; its conversation is the first references.

    Raises:
        TypeNotAllowedError: Something in the checkpoint or its metadata would not come back as it is.
    """
    refs, shown = record.refs, None
    if record.parent_names is not None:
        shown = [len(refs), len(refs) + len(record.parent_names)]
        refs += record.parent_names
    fields = _Fields(
        _FORMAT,
        record.checkpoint,
        plainly(record.metadata) or codec.dumps(record.metadata, f"{where}, metadata"),
        record.parent,
        record.run,
        record.seen.position,
        record.seen.packed(),
        [0, len(record.names)],
        shown,
        record.channel,
        record.explicit,
        record.values,
        record.last,
    )
    try:
        payload = pack(list(fields))
    except TypeError as error:
        raise TypeNotAllowedError(
            f"{where}: the versions, times and ids of a checkpoint must be text and numbers, which those of "
            f"{brief(record.checkpoint)} are not: {error}"
        ) from error
    return Blob(codec.seal(payload), refs, record.seen.position)


@decoder("a checkpoint")
def decode_record(blob: Blob, codec: Codec) -> Record:
    """The checkpoint a blob holds.

    Raises:
        CorruptRecordError: It is damaged or of a newer format.
        TypeNotAllowedError: It holds a type that is not allow-listed.
    """
    fields = _fields_of(blob, codec)
    (start, end), shown = fields.conversation, fields.shown
    return Record(
        fields.checkpoint,
        codec.loads(fields.metadata),
        fields.parent,
        fields.run,
        Seen.unpacked(fields.position, fields.runs),
        names=cast("tuple[BodyName, ...]", blob.refs[start:end]),
        last=fields.last,
        parent_names=None if shown is None else cast("tuple[BodyName, ...]", blob.refs[shown[0] : shown[1]]),
        channel=fields.channel,
        explicit=fields.explicit,
        values=fields.values,
        refs=blob.refs,
    )


def _fields_of(blob: Blob, codec: Codec) -> _Fields:
    fields = unpack(codec.unseal(blob.payload))
    if fields[0] != _FORMAT:
        raise unread_form("a checkpoint", fields[0], _FORMAT)
    found = _Fields(*fields)
    own = found.values.get(found.channel) if found.explicit and found.channel is not None else None
    if found.conversation != [0, found.conversation[1]] or (own is not None and own[1:] != found.conversation):
        raise CorruptRecordError("a checkpoint is damaged: what it says of its conversation differs")
    if lacking := _NEEDED.difference(found.checkpoint):
        raise CorruptRecordError(f"a checkpoint is damaged: it has no {' and no '.join(sorted(lacking))}")
    return found


@decoder("a checkpoint")
def without_messages(blob: Blob, lost: Collection[BodyName], codec: Codec) -> Blob:
    """A checkpoint whose conversation lacks some messages.

    Args:
        blob: The checkpoint.
        lost: The names of the messages that go.
        codec: Unseals and seals it.
    """
    fields = _fields_of(blob, codec)
    start, end = fields.conversation
    kept = tuple(name for name in blob.refs[start:end] if name not in lost)
    # The conversation comes first among the references, so all others move towards the start.
    shift = end - start - len(kept)
    shown = None if fields.shown is None else [place - shift for place in fields.shown]
    own, values = fields.channel, dict(fields.values)
    explicit = fields.explicit or own is not None
    if own is not None and not fields.explicit:
        # The chain of writes would bring back what is cut, so the channel gets a snapshot here.
        values[own] = [SNAPSHOT, start, end]
    for channel, stored in values.items():
        values[channel] = [stored[0], 0, len(kept)] if channel == own else shifted(stored, shift)
    fields = fields._replace(conversation=[0, len(kept)], shown=shown, explicit=explicit, values=values)
    return blob._replace(payload=codec.seal(pack(list(fields))), refs=kept + blob.refs[end:])
