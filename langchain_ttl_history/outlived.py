"""What is left to a turn whose session ended under it, by expiry or by age."""

from __future__ import annotations

from typing import Any

from langchain_ttl_history.bodies import restored
from langchain_ttl_history.checkpoint_reads import Token
from langchain_ttl_history.checkpoints import checkpoint_name
from langchain_ttl_history.codec import delta_snapshot, snapshot_value
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Blob
from langchain_ttl_history.strip import key_of
from langchain_ttl_history.values import is_conversation

__all__ = ["held_by", "leave_aged"]


def leave_aged(values: dict[str, Any], channel: str, token: Token, retention: Retention, now: float) -> None:
    """Past the maximal age of the session it loaded, a turn keeps only what it added."""
    value = values.get(channel)
    messages = snapshot_value(value)
    if not _is_aged(token, retention, now) or not is_conversation(messages):
        return
    old = {key_of(name) for name in token.names}
    kept = [message for message in messages if message.id not in old]
    values[channel] = kept if value is messages else delta_snapshot(kept)


def held_by(
    sessions: Sessions, key: SessionKey, parent: str | None, token: Token | None, now: float
) -> dict[str, Blob]:
    """What a turn over a `DeltaChannel` holds of a session that expired under it, as this process knows it.

    Such a channel hands over what each step writes, and never all that it holds.
    """
    known = sessions.memo.last(key)
    if known is None or (token is not None and known.generation != token.generation):
        return {}
    record = known.records.get(checkpoint_name("", parent or ""))
    # What began the session has no token, and was shown nothing.
    shown = () if token is None else token.names
    names = shown if record is None else record.names
    old = set(shown) if token is not None and _is_aged(token, sessions.retention, now) else set()
    kept = [name for name in names if name not in old]
    return restored(kept, known.base, sessions.codec, label(key))


def _is_aged(token: Token, retention: Retention, now: float) -> bool:
    age = retention.age_seconds
    return age is not None and now >= token.generation / 1e6 + age
