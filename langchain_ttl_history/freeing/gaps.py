"""Keeps what is left of a conversation in one piece, though its log is freed from the start and its head is not.

The head keeps all its messages for as long as it is the head. Where others said something since, and that is freed, the
head's older messages would be shown in front of the newest as soon as the window has room. They are hidden instead: the
pointer to the head tells which (see `pointers.hidden_places`). So they are still there for whoever goes back to that
checkpoint, and for a run under way that brings them along.

```text
 q1 a1        q2 a2        q3 a3
 the head's   chains said these
              freed        what is left, and all that is shown; without hiding it would be q1 a1 q3 a3
```
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.log_entries import WHERE_IT_IS, Delta
from langchain_ttl_history.pointers import hidden_payload
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.names import BodyName, MessageKey, key_of

__all__ = ["older_than_freed", "pointer_hiding", "without_hidden"]


def older_than_freed(
    head: Iterable[BodyName], left: Iterable[Delta], names: Iterable[BodyName], stays: AbstractSet[BodyName]
) -> frozenset[MessageKey]:
    """The keys of the head's messages that stand before messages that are freed.

    Args:
        head: Names of the head's messages.
        left: The changes that are kept of the log.
        names: Names of the conversation.
        stays: Names of the messages that are not hidden.
    """
    of_head = {*map(key_of, head)}
    kept = of_head.union(*[delta.added_keys for delta in left])
    keys = [*map(key_of, names)]
    newest_freed = max((at for at, key in enumerate(keys) if key not in kept), default=0)
    return frozenset(keys[:newest_freed]).intersection(of_head).difference(map(key_of, stays))


def without_hidden(keys: AbstractSet[MessageKey], deltas: Iterable[Delta]) -> list[Delta]:
    """The changes, without additions of these hidden messages, which an edit would otherwise show at the end."""
    left: list[Delta] = []
    for delta in deltas:
        added = tuple(name for name in delta.added if key_of(name) not in keys)
        if added == delta.added:
            left.append(delta)
        elif added:
            left.append(delta._replace(added=added))
        else:
            left.append(delta._replace(after=WHERE_IT_IS))  # A run under way may bring the message along.
    return left


def pointer_hiding(pointer: Blob, names: Iterable[BodyName], visible: AbstractSet[BodyName], codec: Codec) -> Blob:
    """The pointer to the head, which hides those of the head's messages, of these names, that are not visible."""
    places = [place for place, name in enumerate(names) if name not in visible]
    return pointer._replace(payload=hidden_payload(places, codec))
