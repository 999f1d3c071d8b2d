"""Pointers to the latest checkpoint of a namespace; the root's may hide messages of that (see `freeing.gaps`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langchain_ttl_history.checkpoints import Record, decode_record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.records import decoder, pack, unpack, unread_form
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.names import checkpoint_name, pointer_name

__all__ = ["found_record", "hidden_payload", "hidden_places", "listed_checkpoint", "pointed_at", "target_of"]

_FORMAT = 1


def target_of(pointer: Blob) -> str:
    """The name of the checkpoint that a pointer points at.

    Raises:
        CorruptRecordError: It is damaged, and points at none.
    """
    if not pointer.refs:
        raise CorruptRecordError("the pointer to the latest checkpoint is damaged")
    return pointer.refs[0]


def hidden_payload(places: Sequence[int], codec: Codec) -> bytes:
    """The payload of a pointer that hides the messages at these places of the conversation it points at."""
    return codec.seal(pack([_FORMAT, list(places)])) if places else b""


@decoder("the pointer to the latest checkpoint")
def hidden_places(pointer: Blob, codec: Codec) -> frozenset[int]:
    """The places, in the conversation of the checkpoint that a pointer points at, of the messages that it hides.

    Raises:
        CorruptRecordError: It is damaged or of a newer format.
    """
    if not pointer.payload:
        return frozenset()
    form, places = unpack(codec.unseal(pointer.payload))
    if form != _FORMAT:
        raise unread_form("the pointer to the latest checkpoint", form, _FORMAT)
    return frozenset(places)


def pointed_at(pointer: Blob, blobs: Mapping[str, Blob], codec: Codec) -> Record:
    """The checkpoint that a pointer points at.

    Raises:
        CorruptRecordError: It is gone, damaged or of a newer format.
    """
    name = target_of(pointer)
    blob = blobs.get(name)
    if blob is None:
        raise CorruptRecordError("the latest checkpoint is gone")
    return _decoded(name, blob, codec)


def _decoded(name: str, blob: Blob, codec: Codec) -> Record:
    record = decode_record(blob, codec)
    if name.rpartition("\0")[2] != record.checkpoint["id"]:
        raise CorruptRecordError(f"a checkpoint is damaged: it has the id {record.checkpoint['id']!r} of another one")
    return record


def listed_checkpoint(ns: str, id: str, blobs: Mapping[str, Blob]) -> Blob:
    """A checkpoint that the index lists, as it is stored.

    Raises:
        CorruptRecordError: It is gone.
    """
    blob = blobs.get(checkpoint_name(ns, id))
    if blob is None:
        raise CorruptRecordError(f"checkpoint {id!r} is gone")
    return blob


def found_record(ns: str, id: str | None, blobs: Mapping[str, Blob], codec: Codec) -> Record | None:
    """The latest checkpoint of a namespace among these blobs, or the one of this id; None if there is none.

    Raises:
        CorruptRecordError: It is damaged or of a newer format, or the latest one is gone.
    """
    if id is None:
        pointer = blobs.get(pointer_name(ns))
        return None if pointer is None else pointed_at(pointer, blobs, codec)
    name = checkpoint_name(ns, id)
    blob = blobs.get(name)
    return None if blob is None else _decoded(name, blob, codec)
