"""What was cut for bytes of a conversation whose run goes on, and still holds it: its next puts leave that out as well.

Otherwise each of them would bring it back, only to have it freed again.
"""

from __future__ import annotations

from langchain_ttl_history.checkpointing.conversation_changes import Step
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.storage.base import Blob

__all__ = ["without_cut"]


def without_cut(step: Step, before: Record, blobs: dict[str, Blob]) -> tuple[Step, dict[str, Blob]]:
    """A step without what was cut of the checkpoint before, and the blobs that it then needs.

    One that does more than add messages is left as it is, since what it edits or removes may be what was cut. So is one
    whose turn was cut to its end, since others have said more since: it would be shown from the middle on.

    Args:
        step: The step, as its run made it; its record is updated in place.
        before: What is left of the checkpoint before.
        blobs: What the record needs that has to be sent.
    """
    record, held, left = step.record, before.held, {*before.names}
    if step.shown != held or record.names[: len(held)] != held or held[-1] not in left or record.is_delta:
        return step, blobs
    messages = step.messages
    places = [place for place, name in enumerate(record.names) if place >= len(held) or name in left]
    record.leave_only(places)
    value = step.value if messages is None else [messages[place] for place in places]
    return step._replace(shown=before.names, value=value), _needed(blobs, record)


def _needed(blobs: dict[str, Blob], record: Record) -> dict[str, Blob]:
    needed = {*record.refs}
    # A body may need the content that it shares.
    needed.update([ref for name, blob in blobs.items() if name in needed for ref in blob.refs])
    return {name: blob for name, blob in blobs.items() if name in needed}
