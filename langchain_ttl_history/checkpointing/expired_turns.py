"""What a turn may still store when its session ended, or its checkpoint was freed, while it ran.

It holds all that it was shown, so that is what its next put brings along (`carried_over`), a change for each turn:

```text
 a chain                  adds q1 a1
 an agent begins          is shown q1 a1, and asked q2; while its model thinks, the session expires
 the agent's next puts    add q1 a1, add q2, and add a2 after q2
                          if the session was past `max_age`: only q2 a2 (`remove_aged`)
```

Over a `DeltaChannel` a turn holds more than it hands over, and `held_by` tells what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_ttl_history.checkpointing.put_inputs import Put
from langchain_ttl_history.checkpointing.run_token import Token
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot, snapshot_value
from langchain_ttl_history.log_entries import CARRIED_OVER, Delta
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Blob, Lease, created_in
from langchain_ttl_history.stored.bodies import decode_bodies, restored
from langchain_ttl_history.stored.names import ID, key_of
from langchain_ttl_history.stored.values import is_conversation
from langchain_ttl_history.window import ends_open

__all__ = ["carried_over", "held_by", "remove_aged"]


def remove_aged(values: dict[str, Any], channel: str, token: Token, lease: Lease, now: float) -> None:
    """Remove what a turn did not add itself from its conversation, if the session it loaded is past `max_age`.

    Args:
        values: The checkpoint's channel values; the conversation is replaced in place.
        channel: The channel that is the conversation.
        token: What the turn was shown.
        lease: Has `max_age`.
        now: Seconds since the epoch, by the storage's clock.
    """
    value = values.get(channel)
    messages = snapshot_value(value)
    if not lease.is_past_max_age(created_in(token.generation), now) or not is_conversation(messages):
        return
    old = {key_of(name) for name in token.names}
    # Those without an id are the first ones: nothing but a reducer that appends leaves messages so.
    nameless = sum(not name[ID:] for name in token.names)
    kept: list[BaseMessage] = []
    for message in messages:
        if message.id:
            if message.id not in old:
                kept.append(message)
        elif nameless:
            nameless -= 1
        else:
            kept.append(message)
    values[channel] = kept if value is messages else delta_snapshot(kept)


def held_by(sessions: Sessions, put: Put, now: float) -> dict[str, Blob]:
    """The conversation that a turn over a `DeltaChannel` still holds when what it built on is gone, as bodies by name.

    A `DeltaChannel` hands over only what each step writes, never its whole value, so this is taken from what the
    process remembers.

    Args:
        sessions: What sessions have in common.
        put: The turn's put of a root checkpoint.
        now: Seconds since the epoch, by the storage's clock.
    """
    token = put.token
    # Others may have begun the session anew meanwhile, or this turn itself, if it expired before.
    cached = sessions.cache.last_with(put.key, put.parent_name, None if token is None else token.generation)
    if cached is None:
        return {}
    record = cached.records.get(put.parent_name)
    # The run that created the session has no token: there was nothing to show it.
    shown = () if token is None else token.names
    # Of what it loaded it holds what it was shown, which others may have added to since that was put.
    loaded = token is not None and token.id == put.parent
    names = shown if record is None or loaded else record.names
    is_aged = token is not None and sessions.lease.is_past_max_age(created_in(token.generation), now)
    old = set(shown) if is_aged else set()
    kept = [name for name in names if name not in old]
    return restored(kept, cached.bodies, sessions.codec)


def carried_over(record: Record, value: Any, held: Mapping[str, Blob], codec: Codec) -> list[Delta]:
    """The changes, one a turn, for what a run carries over into a session that began after its own ended.

    In between, an agent that ran in one of its tools may have carried over the same and said more.

    Args:
        record: The checkpoint's record with its conversation set; `record.last` is set here.
        value: The value of the conversation's channel.
        held: For a `DeltaChannel`, which has no value, the bodies of what the turn holds besides this step's messages.
        codec: Decodes these.
    """
    names, messages = record.names, snapshot_value(value)
    if not is_conversation(messages):
        messages = decode_bodies([*takewhile(held.__contains__, names)], held, codec)
    record.last = key_of(names[-1]) if names else None
    begins = [at for at in range(1, len(messages)) if _begins_turn(messages, at)]
    turns = [names[begin:end] for begin, end in pairwise([0, *begins, len(names)])]
    return [Delta(record.run, (), turn, None, known=CARRIED_OVER) for turn in turns if turn]


def _begins_turn(messages: Sequence[BaseMessage], at: int) -> bool:
    """Whether a turn begins at this place: with a question, or in another's tool."""
    kind = type(messages[at])
    return issubclass(kind, HumanMessage) or (not issubclass(kind, ToolMessage) and ends_open(messages[:at]))
