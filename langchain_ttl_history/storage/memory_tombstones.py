"""What deletions leave in memory: for a while, writes that continue what was deleted are refused.

```text
 ada's s1 is deleted, for 60 s    its fence is the newest generation there was then, that of ada's other sessions 0
 all of ada's are deleted         likewise of every session of hers, be it one that nobody knows of
 60 s later                       the fence of all of them is 0 again
```
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from langchain_ttl_history.keys import SessionKey, user_digest

__all__ = ["Tombstones"]

# How many are kept; beyond that the oldest are forgotten.
_MOST = 100_000


class Tombstones:
    """Fences by digests of sessions and users, without a trace of who they were; the storage's lock guards them."""

    def __init__(self) -> None:
        # By digest the newest deleted generation, and until when that counts.
        self._stones: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def put(self, digests: Iterable[str], generation: int, until: float) -> None:
        """Put one for each of these digests."""
        for digest in digests:
            self._stones[digest] = (generation, until)
            self._stones.move_to_end(digest)

    def fence(self, key: SessionKey, now: float) -> int:
        """The newest deleted generation of a session; 0 if no tombstone stands."""
        if not self._stones:
            return 0
        stones = (self._stones.get(digest, (0, now)) for digest in (key.digest, user_digest(key.user_id)))
        return max(fence if now < until else 0 for fence, until in stones)

    def free(self, now: float) -> None:
        """Free those that ended, as far as none that stands was put before, and the oldest if they are too many."""
        while self._stones:
            digest, (_, until) = next(iter(self._stones.items()))
            if now < until and len(self._stones) <= _MOST:
                return
            del self._stones[digest]
