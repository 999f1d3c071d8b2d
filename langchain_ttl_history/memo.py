"""What this process knows of sessions it lately read or wrote, so that it need not ask again.

Never the truth: a write built on it names the generation it expects, and the bodies it leaves
out as references; where that is wrong the storage says so and the write is planned anew from a
read.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from langchain_ttl_history.bodies import Base
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Change

__all__ = ["Memo"]

_SESSIONS = 128
_RECORDS = 1_000
_PUT = 10_000
_BYTES = 32 * 1024 * 1024


class Memo:
    """A bounded memory of stored bodies and checkpoint records; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bases: OrderedDict[SessionKey, tuple[int, Base]] = OrderedDict()
        self._records: OrderedDict[tuple[SessionKey, str], tuple[int, Record]] = OrderedDict()
        # By hashes: there are many, and each may be held long after its checkpoint is gone.
        self._put: OrderedDict[int, int] = OrderedDict()
        self._plans: OrderedDict[SessionKey, Change] = OrderedDict()

    def base(self, key: SessionKey, generation: int) -> Base:
        """The bodies known to be stored in this generation of a session; the caller adds to it."""
        with self._lock:
            known, found = self._bases.get(key, (0, None))
            if found is not None and known == generation and found.size <= _BYTES:
                self._bases.move_to_end(key)
                return found
            base = Base()
            self._bases[key] = (generation, base)
            self._bases.move_to_end(key)
            held = sum(each.size for _, each in self._bases.values())
            while len(self._bases) > _SESSIONS or (len(self._bases) > 1 and held > _BYTES):
                held -= self._bases.popitem(last=False)[1][1].size
            return base

    def latest_base(self, key: SessionKey) -> Base:
        """The bodies known to be stored in the generation of a session last met."""
        found = self._bases.get(key)
        return Base() if found is None else found[1]

    def base_of(self, key: SessionKey, generation: int) -> Base | None:
        """The bodies that were stored in this generation of a session, though it may be gone."""
        found = self._bases.get(key)
        return found[1] if found is not None and found[0] == generation else None

    def record(self, key: SessionKey, name: str) -> tuple[int, Record] | None:
        """A checkpoint's generation and record, if it is known."""
        return self._records.get((key, name))

    def learn(self, key: SessionKey, name: str, generation: int, record: Record, instead: str | None = None) -> None:
        """Remember a checkpoint's record, instead of its parent's, on which its run is done building."""
        with self._lock:
            self._records.pop((key, instead or ""), None)
            self._records[key, name] = (generation, record)
            self._records.move_to_end((key, name))
            while len(self._records) > _RECORDS:
                self._records.popitem(last=False)
            self._put[hash((key, name))] = generation
            while len(self._put) > _PUT:
                self._put.popitem(last=False)

    def put_in(self, key: SessionKey, name: str) -> int | None:
        """The generation a checkpoint is known to have been put in, though it may be freed by now."""
        return self._put.get(hash((key, name)))

    def plan(self, key: SessionKey, change: Change) -> None:
        """Remember what can be freed of a session."""
        with self._lock:
            self._plans[key] = change
            while len(self._plans) > _SESSIONS:
                self._plans.popitem(last=False)

    def planned(self, key: SessionKey) -> Change | None:
        """What can be freed of a session; told once."""
        if not self._plans:
            return None
        with self._lock:
            return self._plans.pop(key, None)

    def drop(self, user_id: str, session_id: str | None = None) -> None:
        """Forget what was said in a session, or in all of a user's."""
        with self._lock:
            for key in [key for key in self._bases if _is_of(key, user_id, session_id)]:
                del self._bases[key]
            for found in [each for each in self._records if _is_of(each[0], user_id, session_id)]:
                del self._records[found]


def _is_of(key: SessionKey, user_id: str, session_id: str | None) -> bool:
    return key.user_id == user_id and session_id in (None, key.session_id)
