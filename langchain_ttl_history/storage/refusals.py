"""Why a write is refused: the rules of the contract, for storages that have the session in memory."""

from __future__ import annotations

from langchain_ttl_history.storage.memory_session import MemorySession
from langchain_ttl_history.storage.types import Change, Guard, Outcome, Status

__all__ = ["is_fenced", "refusal"]


def is_fenced(session: MemorySession | None, guard: Guard, fence: int) -> bool:
    """Whether a write continues what was deleted, while a tombstone with this fence stands."""
    if guard.generation is not None and guard.generation <= fence:
        return True
    return guard.needs is not None and (session is None or guard.needs not in session.blobs)


def refusal(session: MemorySession | None, change: Change, fence: int) -> Outcome | None:
    """Why a change is refused; None if it is not.

    Args:
        session: The session as it is; None where there is none.
        change: What is to be written.
        fence: The newest deleted generation while its tombstone stands, otherwise 0.
    """
    if fence and is_fenced(session, change.guard, fence):
        return Outcome(Status.DELETED)
    if session is None:
        if change.upkeep:
            return Outcome(Status.ABSENT)
        if change.at_generation is not None or change.at_position is not None:
            return Outcome(Status.MOVED)
    elif (
        change.new
        or change.at_generation not in (None, session.generation)
        or change.at_position not in (None, session.position)
    ):
        return Outcome(Status.MOVED)
    missing_of = list[str] if session is None else session.missing
    missing: list[str] = []
    for blob in change.blobs.values():
        if blob.refs:
            missing += missing_of(blob.refs)
    for _, _, refs in change.append:
        if refs:
            missing += missing_of(refs)
    for _, entry in change.place:
        missing += missing_of(entry.refs)
    if missing:
        unknown = frozenset(missing).difference(change.blobs)
        if unknown:
            return Outcome(Status.MISSING, unknown)
    return None
