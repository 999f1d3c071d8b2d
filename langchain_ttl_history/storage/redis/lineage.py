"""Whether two answers about a session in Redis descend from the same writes. Pure, without I/O.

After a failover the new primary may lack writes that the old one acknowledged; a server restored from a
backup lacks everything since. Either goes on counting from where it is, so it gives numbers that a
process still remembers for lost blobs to other blobs. Every answer therefore carries the ids of the
newest write requests that the server has applied to the session, newest first: up to 64 in the answer
to a read, up to 8 in the answer to a write. Each is a unique id of 8 bytes, followed by the session's
position after that request. Replicas apply writes in order, so a server that knows one request has
applied all before it, too.
"""

from __future__ import annotations

__all__ = ["later", "newest"]

_ID_BYTES = 8


def newest(requests: bytes) -> bytes:
    """The id of the newest of these requests."""
    return requests[:_ID_BYTES]


def later(one: bytes, other: bytes) -> bytes | None:
    """The later of two answers' requests; None if the two may not descend from the same writes.

    That is also the result when more requests lie between the two than a server remembers.
    """
    if newest(other) in one:
        return one
    return other if newest(one) in other else None
