"""The checkpoint that is shown for a session that only chains have written to: its conversation, nothing else.

It is stored once another checkpoint builds on it. Its id tells the generation of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from langchain_ttl_history.storage.types import created_in

__all__ = ["FIRST_METADATA", "first_checkpoint", "first_checkpoint_id", "first_shown_in"]

# The Unix epoch in the time of a UUID: ticks of 100 ns since 15 October 1582.
_EPOCH = 0x01B21DD213814000
_AFTER_THE_TIME = "-8000-000000000000"

FIRST_METADATA: Mapping[str, Any] = {"source": "input", "step": -1, "parents": {}}
"""The metadata of the checkpoint that a session without one shows."""


def first_checkpoint_id(generation: int) -> str:
    """The id of the checkpoint that a session without one shows: older than any it will get."""
    # A UUID of version 6, as LangGraph's ids are: the upper 48 bits of the time, the version, its lower 12 bits, the
    # variant. All after that is zero, which no other id of a checkpoint has.
    ticks = generation * 10 + _EPOCH
    number = (ticks >> 12) << 80 | 0x6 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62
    return str(UUID(int=number))


def first_shown_in(id: str) -> int | None:
    """The generation whose `first_checkpoint_id` this is; None if it is another checkpoint's."""
    if not id.endswith(_AFTER_THE_TIME):
        return None
    try:
        number = UUID(id).int
    except ValueError:
        return None
    ticks = (number >> 80) << 12 | (number >> 64) & 0xFFF
    generation = max(0, ticks - _EPOCH) // 10
    return generation if first_checkpoint_id(generation) == id else None


def first_checkpoint(generation: int, channel: str) -> dict[str, Any]:
    """The checkpoint that a session without one shows, less its values."""
    created = datetime.fromtimestamp(created_in(generation), timezone.utc)
    return {
        "v": 4,  # The form of the checkpoints of LangGraph's graphs, which convert older ones.
        "id": first_checkpoint_id(generation),
        "ts": created.isoformat(),
        "channel_versions": {channel: 1},
        "versions_seen": {},
        "updated_channels": None,
    }
