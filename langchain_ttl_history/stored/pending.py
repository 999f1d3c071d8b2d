"""Pending writes: what tasks wrote, as entries of the list of their checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.records import decoder, pack, unpack, unread_form
from langchain_ttl_history.storage.types import Blob, Entry
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.values import ValueEncoder, decode_value

__all__ = ["PendingWrite", "decode_writes", "encode_writes", "has_interrupt", "has_open_interrupt"]

_FORMAT = 1


class PendingWrite(NamedTuple):
    """One pending write."""

    task_id: str
    path: str
    place: int
    channel: str
    value: Any


def encode_writes(
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    path: str,
    known: KnownBodies,
    codec: Codec,
    where: str,
    conversation: str,
) -> tuple[bytes, tuple[str, ...], dict[str, Blob]]:
    """A task's writes as payload and references of a list entry, and the blobs they need.

    Args:
        writes: Channels and values.
        task_id: The task's id.
        path: Its place among the tasks of its step.
        known: Bodies that need not be sent again.
        codec: Encodes the values.
        where: Names the session in errors.
        conversation: The channel that is the conversation.

    Raises:
        TypeNotAllowedError: A value would not come back as it is.
    """
    encoder = ValueEncoder(codec, where, known, conversation)
    stored = [
        [WRITES_IDX_MAP.get(channel, index), channel, encoder.encode(_kept(value, channel), channel)]
        for index, (channel, value) in enumerate(writes)
    ]
    payload = codec.seal(pack([_FORMAT, task_id, path, stored]))
    return payload, tuple(encoder.refs), encoder.blobs


def has_interrupt(writes: Iterable[tuple[str, Any]]) -> bool:
    """Whether a task's writes say that it waits for an answer."""
    return any(channel == INTERRUPT for channel, _ in writes)


def _kept(value: Any, channel: str) -> Any:
    """The value to store: for the error of a failed task its `repr`, as LangGraph's own savers store it."""
    return repr(value) if channel == ERROR and isinstance(value, BaseException) else value


@decoder("a pending write")
def decode_writes(entries: Iterable[Entry], blobs: Mapping[str, Blob], codec: Codec) -> list[PendingWrite]:
    """Pending writes in the order LangGraph applies them.

    A write at a regular place stays as it was first stored; an error, an interrupt or a resume
    is replaced by a later one.
    """
    found: dict[tuple[str, int], PendingWrite] = {}
    for entry in entries:
        task_id, path, stored = _unpacked(entry, codec)
        for index, channel, value in stored:
            if index < 0 or (task_id, index) not in found:
                found[task_id, index] = PendingWrite(
                    task_id, path, index, channel, decode_value(value, entry.refs, blobs, codec)
                )
    return sorted(found.values(), key=lambda write: writes_sort_key(write.path, write.task_id, write.place))


def _unpacked(entry: Entry, codec: Codec) -> tuple[str, str, list[Any]]:
    """The task's id, its path, and its writes as they are stored."""
    form, *fields = unpack(codec.unseal(entry.payload))
    if form != _FORMAT:
        raise unread_form("a write", form, _FORMAT)
    task_id, path, stored = fields
    return task_id, path, stored


@decoder("a pending write")
def has_open_interrupt(entries: Iterable[Entry], codec: Codec) -> bool:
    """Whether one of these tasks was interrupted and has not finished since."""
    interrupted: set[str] = set()
    finished: set[str] = set()
    for entry in entries:
        task_id, _, stored = _unpacked(entry, codec)
        for _, channel, _ in stored:
            if channel == INTERRUPT:
                interrupted.add(task_id)
            elif channel not in WRITES_IDX_MAP:
                finished.add(task_id)
    return bool(interrupted - finished)
