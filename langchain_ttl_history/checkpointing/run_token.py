"""How a run says what it has seen: by a token in the checkpoint it loads, which LangGraph passes on to its puts."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from langchain_ttl_history.encoding.records import pack, unpack
from langchain_ttl_history.log_entries import Seen
from langchain_ttl_history.stored.names import NO_KEYS, BodyName, MessageKey, key_of

__all__ = ["TOKEN_KEY", "Token"]

TOKEN_KEY = "__ttl_history__"  # noqa: S105  # no secret: what a run has seen
"""The entry of a checkpoint's `versions_seen` that carries a run's token."""


class _Holding(str):  # noqa: SLOT000  # str has no room for a named slot
    """A string that keeps an object alive; to everyone else, and where it is copied, it is the string it equals."""

    _alive: object

    def __new__(cls, text: str, alive: object) -> _Holding:
        made = super().__new__(cls, text)
        made._alive = alive
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str.__str__(self),)


class Token(NamedTuple):
    """What a run was shown when it loaded its checkpoint; it comes back with each of its puts."""

    generation: int
    id: str
    """The checkpoint it loaded."""
    seen: Seen
    cut: frozenset[MessageKey]
    """The keys of the messages that the window left out."""
    shown: str
    """The names of the conversation it was shown, as one string; most puts need not read it."""

    @classmethod
    def of(cls, generation: int, id: str, seen: Seen, names: Sequence[BodyName], whole: Sequence[BodyName]) -> Token:
        """The token of a run that loads this checkpoint and is shown these messages of the whole conversation."""
        # By name first, since most are shown.
        left_out: Collection[BodyName] = {*whole}.difference(names) if len(whole) > len(names) else ()
        cut = frozenset(map(key_of, left_out)).difference(map(key_of, names)) if left_out else NO_KEYS
        shown = "\n".join(names)
        if shown.count("\n") >= max(1, len(names)):
            shown = json.dumps(names)  # An id contains a line break.
        return cls(generation, id, seen, cut, shown)

    @property
    def names(self) -> tuple[BodyName, ...]:
        """The conversation it was shown."""
        if not self.shown:
            return ()
        # A name begins with an m, so a bracket tells that it is JSON.
        return tuple(json.loads(self.shown) if self.shown[0] == "[" else self.shown.split("\n"))

    @property
    def shown_count(self) -> int:
        """How many messages it was shown."""
        return len(self.names) if self.shown[:1] in ("", "[") else self.shown.count("\n") + 1

    def versions(self, holds: object) -> dict[str, int]:
        """The token as an entry of `versions_seen`, which keeps an object alive for as long as its run goes on.

        All of it is in the keys and every version is 0: LangGraph treats a thread as new, and infers the node of an
        update, only while every version in there is falsy.
        """
        seen = self.seen
        fields = pack([self.generation, self.id, seen.position, seen.packed(), sorted(self.cut)])
        return {fields.hex(): 0, _Holding(self.shown, holds): 0}

    @classmethod
    def taken_from(cls, versions_seen: dict[str, Any]) -> Token | None:
        """The token of a run, removed from its checkpoint's `versions_seen`."""
        stored = versions_seen.pop(TOKEN_KEY, None)
        if not stored:
            return None
        # LangGraph may have added channels after ours, when it marked a snapshot as seen.
        fields, shown, *added = stored
        if added:
            for node, seen in versions_seen.items():
                versions_seen[node] = {
                    name: version for name, version in seen.items() if not name.startswith(TOKEN_KEY)
                }
        return cls(*_parsed(fields), shown)


@lru_cache(maxsize=256)
def _parsed(fields: str) -> tuple[int, str, Seen, frozenset[MessageKey]]:
    """All but the last field of a token, which every put of its run needs; cached, since all of them bring the same."""
    generation, id, position, runs, cut = unpack(bytes.fromhex(fields))
    return generation, id, Seen.unpacked(position, runs), frozenset(cut)
