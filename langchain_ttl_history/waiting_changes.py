"""Changes of sessions that wait in this process for the moment at which they can be stored.

```text
 a read finds a session over its caps       what can be freed waits for the session's next write, which takes it along
 an interrupt comes before its checkpoint   it is stored, and waits to be stored again, should its checkpoint be freed
                                            before the two can meet; whoever puts the checkpoint takes it
```
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.keys import SessionKey, keys_concerned
from langchain_ttl_history.storage.types import Change

__all__ = ["EarlyInterrupts", "PlansToFree"]

# How many plans are kept, and the early interrupts of how many checkpoints.
_MOST = 128


class PlansToFree:
    """For sessions what can be freed of each, as it was planned last; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = lock()
        self._plans: OrderedDict[SessionKey, Change] = OrderedDict()

    def keep(self, key: SessionKey, change: Change) -> None:
        """Remember what can be freed of a session."""
        with self._lock:
            self._plans[key] = change
            while len(self._plans) > _MOST:
                self._plans.popitem(last=False)

    def take(self, key: SessionKey) -> Change | None:
        """Take what can be freed of a session; None if nothing is planned."""
        return self._plans.pop(key, None) if self._plans else None

    def drop(self, user_id: str, session_id: str | None) -> None:
        """Forget a session's plan, or all of a user's."""
        with self._lock:
            # In one step, since `take` needs no lock.
            plans = {*self._plans}
            for key in keys_concerned(plans, user_id, session_id):
                self._plans.pop(key, None)


class EarlyInterrupts:
    """For checkpoints the interrupts that were stored before each of them; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = lock()
        # By session and checkpoint.
        self._early: OrderedDict[tuple[SessionKey, str], list[Change]] = OrderedDict()

    def keep(self, key: SessionKey, name: str, change: Change) -> None:
        """Remember an interrupt that was stored before its checkpoint; that may be freed before the two can meet."""
        with self._lock:
            self._early.setdefault((key, name), []).append(change)
            while len(self._early) > _MOST:
                self._early.popitem(last=False)

    def take(self, key: SessionKey, name: str) -> Sequence[Change]:
        """Take the interrupts that were stored before this checkpoint."""
        if not self._early:
            return ()
        with self._lock:
            return self._early.pop((key, name), ())

    def drop(self, user_id: str, session_id: str | None) -> None:
        """Forget the interrupts of a session, or of all of a user's."""
        with self._lock:
            gone = {*keys_concerned({key for key, _ in self._early}, user_id, session_id)}
            for early in [each for each in self._early if each[0] in gone]:
                del self._early[early]
