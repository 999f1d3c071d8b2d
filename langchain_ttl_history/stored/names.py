r"""The names of what a session holds in its storage. Their first letter tells what it is.

```text
 h<ns>             the pointer to a namespace's latest checkpoint; the root's namespace is empty, and its pointer
                   may hide messages of that checkpoint
 c<ns>\0<id>       a checkpoint
 w<ns>\0<id>       the list of the writes pending on it
 m<digest><id>     a message's body
 v<digest>         a large value of a channel
 log               the list of changes of the conversation
 index subs chain  lists of lines about checkpoints; see `index`
```
"""

from __future__ import annotations

import hashlib
from typing import NewType

__all__ = [
    "BODY",
    "CHAIN",
    "CHECKPOINT",
    "ID",
    "INDEX",
    "LOG",
    "NO_KEY",
    "NO_KEYS",
    "POINTER",
    "SUBS",
    "VALUE",
    "WRITES",
    "BodyName",
    "MessageKey",
    "checkpoint_name",
    "content_name",
    "is_root",
    "key_of",
    "pointer_name",
    "value_name",
    "writes_name",
]

BodyName = NewType("BodyName", str)
"""The name of a message's body."""
MessageKey = NewType("MessageKey", str)
"""What identifies a message within a conversation; see `key_of`."""
NO_KEY = MessageKey("")
"""No message has this key."""
NO_KEYS: frozenset[MessageKey] = frozenset()
# What makes one for each message does not call these types: that would take as long as all of `key_of`.

POINTER, CHECKPOINT, WRITES, BODY, VALUE = "h", "c", "w", "m", "v"
"""The first letters."""

LOG = "log"
"""The list of changes of the conversation."""
INDEX = "index"
"""The list of the root graph's lines."""
SUBS = "subs"
"""The list of subgraphs' lines."""
CHAIN = "chain"
"""The list of checkpoints that are kept only because a `DeltaChannel` of a listed one needs their writes."""

# Letters of the digest in a body's name.
_DIGEST = 24
ID = 1 + _DIGEST
"""Where the id begins in a body's name."""


def pointer_name(ns: str) -> str:
    """The name of the pointer to a namespace's latest checkpoint."""
    return f"h{ns}"


def checkpoint_name(ns: str, id: str) -> str:
    """The name of a checkpoint."""
    return f"c{ns}\0{id}"


def is_root(name: str) -> bool:
    """Whether a checkpoint's name is one of the root graph."""
    return name.startswith(f"{CHECKPOINT}\0")


def writes_name(ns: str, id: str) -> str:
    """The name of the list of writes pending on a checkpoint."""
    return f"w{ns}\0{id}"


def content_name(packed: bytes) -> BodyName:
    """The name of a message's content, packed without its id; with the id behind it, that of its body."""
    return "m" + hashlib.blake2b(packed, digest_size=_DIGEST // 2).hexdigest()  # type: ignore[return-value]  # is one


def key_of(name: BodyName) -> MessageKey:
    """What identifies a message in its conversation, by its body's name: its id, or that name if it has none."""
    return name[ID:] or name  # type: ignore[return-value]  # likewise


def value_name(data: bytes) -> str:
    """The name of a large value, by its content."""
    return "v" + hashlib.blake2b(data, digest_size=16).hexdigest()
