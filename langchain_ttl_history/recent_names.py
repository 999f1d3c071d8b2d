"""Names of what was stored in sessions lately, each with the generation it was stored in."""

from __future__ import annotations

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey

__all__ = ["RecentNames"]

# At least so many of the newest names are remembered: more than there are steps at once.
_RECENT = 500


class RecentNames:
    """The generations in which names of sessions were noted last.

    Hashes, since there are many, and each may be held long after what it stands for is gone. Two halves, of which the
    older is dropped as a whole, take less memory and time than one mapping in the order of use.
    """

    def __init__(self) -> None:
        self._lock = lock()
        self._newer: dict[int, int] = {}
        self._older: dict[int, int] = {}

    def note(self, key: SessionKey, name: str, generation: int) -> None:
        """Remember that a name was noted in a generation."""
        newer = self._newer
        newer[hash((key, name))] = generation
        if len(newer) >= _RECENT:
            with self._lock:
                if self._newer is newer:
                    # In this order, so that a reader without the lock finds each entry in one of the two.
                    self._older = newer
                    self._newer = {}

    def generation(self, key: SessionKey, name: str) -> int | None:
        """The generation in which a name was noted; None if it was not lately."""
        known = hash((key, name))
        # The newer half first, since it may become the older one between the two look-ups.
        found = self._newer.get(known)
        return self._older.get(known) if found is None else found
