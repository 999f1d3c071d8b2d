"""Whether two answers about a session in Redis are of one history. Pure, without I/O.

A server that takes over from another may lack writes which that one acknowledged, and one that is
restored lacks all since. It goes on counting from where it is, so that something else gets the numbers
that a process remembers of what was lost. Therefore every answer brings the session's newest requests,
as the server remembers them, newest first: a name that nobody else gives, and the position after it. The
answer to a read brings up to 64, that to a write up to 8.
Replicas get writes in their order, so who knows a request knows all before it, too.
"""

from __future__ import annotations

__all__ = ["later", "newest"]

_NAME = 8


def newest(requests: bytes) -> bytes:
    """The name of the newest of these requests."""
    return requests[:_NAME]


def later(one: bytes, other: bytes) -> bytes | None:
    """The later of two answers' requests; None if they may be of two histories.

    They may where more requests lie between them than a server remembers.
    """
    if newest(other) in one:
        return one
    return other if newest(one) in other else None
