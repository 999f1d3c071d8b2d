"""The index: a line for each checkpoint of a session, in the order they were put."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.encoding.records import decoder, pack, unpack_each, unread_form
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.types import Entry

__all__ = ["Line", "every_line", "line_payload", "lines_of"]

_FORMAT = 1
_TEXT = frozenset({str, type(None)})


class Line(NamedTuple):
    """What the index says of a checkpoint."""

    ns: str
    id: str
    parent: str | None
    root: str | None
    """The root checkpoint a subgraph's ran under."""
    run_id: str | None
    """LangGraph's id of the run, which the metadata names; another one than `Record.run`."""
    deltas: tuple[str, ...] | None
    """Channels whose value is spread over its ancestors' writes."""
    valued: tuple[str, ...] | None
    """Channels whose value needs no ancestor: it is stored here, or nobody wrote to them yet. None stands for all."""
    position: int = 0

    def payload(self) -> bytes:
        """The entry's payload."""
        deltas = None if self.deltas is None else list(self.deltas)
        valued = None if self.valued is None else list(self.valued)
        return pack([_FORMAT, self.ns, self.id, self.parent, self.root, self.run_id, deltas, valued])


def line_payload(ns: str, id: str, record: Record) -> bytes:
    """The payload of a checkpoint's line."""
    metadata = record.metadata
    run_id = metadata.get("run_id")
    root = (metadata.get("parents") or {}).get("") if ns else None
    deltas = tuple(record.counters) or None
    valued = None
    if deltas is not None or record.has_snapshot:
        # LangGraph counts the steps of a `DeltaChannel` from the first on, but makes no snapshot of it before it was
        # written to: as long as that takes, it would keep all checkpoints.
        versions = record.checkpoint["channel_versions"]
        valued = (*record.values, *(channel for channel in deltas or () if channel not in versions))
    root, run_id = (None if each is None else str(each) for each in (root, run_id))
    return Line(ns, id, record.parent, root, run_id, deltas, valued).payload()


@decoder("an index line")
def every_line(entries: Sequence[Entry]) -> list[Line]:
    """The lines that entries of the index hold, in their order.

    Raises:
        CorruptRecordError: One is damaged or of a newer format.
    """
    lines: list[Line] = []
    for entry, record in zip(entries, unpack_each([entry.payload for entry in entries]), strict=True):
        form, ns, id, parent, root, run_id, deltas, valued = record
        if form != _FORMAT:
            raise unread_form("an index line", form, _FORMAT)
        if not _TEXT.issuperset(map(type, (ns, id, parent, root, run_id))):
            raise CorruptRecordError("an index line is damaged: checkpoints and runs are named by text")
        deltas = None if deltas is None else tuple(deltas)
        valued = None if valued is None else tuple(valued)
        lines.append(Line(ns, id, parent, root, run_id, deltas, valued, entry.position))
    return lines


def lines_of(entries: Sequence[Entry]) -> list[Line]:
    """The index, oldest first, each checkpoint once: where it was put last."""
    lines: dict[tuple[str, str], Line] = {}
    for line in every_line(entries):
        lines.pop((line.ns, line.id), None)
        lines[line.ns, line.id] = line
    return list(lines.values())
