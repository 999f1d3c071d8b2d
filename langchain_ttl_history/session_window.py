"""The window as operations on a session apply it: over names of messages, with the messages beside them.

```text
 at most 2 of q1 a1 q2 a2          q2 a2
 at most 3 of q1 call result a1    q1 a1, since a call stays with its results; see `window`
```
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import BodyName
from langchain_ttl_history.window import Caps, simple_start, visible

__all__ = ["SessionWindow"]


@dataclass(frozen=True)
class SessionWindow:
    """Cuts a conversation."""

    caps: Caps

    def names(self, names: Sequence[BodyName], messages: Mapping[BodyName, BaseMessage]) -> Sequence[BodyName]:
        """The newest of these names that fit the caps and are a valid chat."""
        return self.with_messages(names, messages)[0]

    def with_messages(
        self, names: Sequence[BodyName], messages: Mapping[BodyName, BaseMessage], known: KnownBodies | None = None
    ) -> tuple[Sequence[BodyName], list[BaseMessage]]:
        """The window's names and their messages; `known` remembers which messages need no check the next time."""
        whole = [*map(messages.__getitem__, names)]
        if len({*names}) < len(names):
            whole = _as_separate_objects(whole)
        start = simple_start(whole, self.caps, 0 if known is None else known.sound_in(names))
        if start is not None:
            if start:
                names, whole = names[start:], whole[start:]
            if known is not None:
                known.sound = tuple(names)
            return names, whole
        positions = visible(whole, self.caps)
        if len(positions) == len(names):
            return names, whole
        return [names[each] for each in positions], [whole[each] for each in positions]


def _as_separate_objects(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """The messages, each as an object of its own.

    Messages with the same content and no id share a name and a body, but their reader may give each an id of its own.
    """
    given: set[int] = set()
    apart: list[BaseMessage] = []
    for message in messages:
        apart.append(copy.deepcopy(message) if id(message) in given else message)
        given.add(id(message))
    return apart
