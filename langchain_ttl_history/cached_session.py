"""What this process knows of one session: checkpoints and messages, of its newest generation and of those before.

A run that began in a generation before may still go on, and bring along what it holds:

```text
 a run puts c1 in generation 1           last: 1
 the session ends; another puts c2       last: 2, before: 1
 the session ends; a third puts c3       last: 3, before: 2; also 1, if the first run still holds that
 the session ends; a subgraph goes on    last: 4, before: 3; also 1
 the session ends; a subgraph goes on    last: 5, before: 3, since 4 has nothing of the root graph; also 1
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from weakref import ReferenceType, ref

from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import MessageKey, is_root

__all__ = ["CachedSession", "Generations"]

# How many checkpoints of a session are remembered, and of how many of the root graph all messages: mostly more than
# there are runs at once.
_RECORDS = 64
_WHOLE = 4


class CachedSession:
    """What is known of one generation of a session."""

    __slots__ = ("__weakref__", "before", "bodies", "freed", "generation", "past", "records", "tolerated", "values")

    def __init__(self, generation: int, before: CachedSession | None = None) -> None:
        self.generation: int = generation
        self.before: CachedSession | None = before
        """What was known of the generation before; a turn that began in that may still go on."""
        self.bodies: KnownBodies = KnownBodies()
        """Bodies known to be stored; whoever stores more adds them."""
        self.records: dict[str, Record] = {}
        """Checkpoints by name: the latest of each run that was active recently."""
        self.values: dict[str, Mapping[str, Blob]] = {}
        """By checkpoint what its channels hold besides the conversation: its run does not hand that over again."""
        self.freed: set[str] = set()
        """Those of `records` that were found to be freed when writes pending on them were stored."""
        self.past: tuple[str, frozenset[MessageKey]] | None = None
        """A checkpoint's id, and the keys of the messages that those it builds on had; see `brought_back`."""
        self.tolerated: int = 0
        """Up to how many bytes it may have, though over `max_bytes`, since freeing it would do nothing."""

    @property
    def size(self) -> int:
        """Bytes of all content."""
        values = sum(len(blob.payload) for held in [*self.values.values()] for blob in held.values())
        return self.bodies.size + values + (0 if self.before is None else self.before.size)

    @property
    def has_root(self) -> bool:
        """Whether it may have a checkpoint of the root graph that a run would have to store again."""
        # Another thread may remember one more meanwhile.
        return not self.records or any(map(is_root, list(self.records)))

    def learn(
        self, name: str, record: Record, blobs: Mapping[str, Blob], parent: str = "", *, replaces: bool = False
    ) -> None:
        """Remember a checkpoint.

        Args:
            name: Of the checkpoint.
            record: What is stored of it.
            blobs: Has the values of its channels, but for those that it shares with its parent.
            parent: The parent's name.
            replaces: Whether its run no longer needs the parent, which is then forgotten.
        """
        before = self.values.get(parent, {})

        def found(refs: Iterable[str]) -> dict[str, Blob]:
            return {ref: blob for ref in refs if (blob := blobs.get(ref) or before.get(ref)) is not None}

        values = found(record.refs[len(record.names) :])
        # A message may share the content of another.
        values.update(found([ref for blob in values.values() for ref in blob.refs]))
        if replaces:
            self._forget(parent)
        self.records[name] = record
        if values:
            self.values[name] = values
        if len(self.records) > _RECORDS:
            # Another thread may do the same: the oldest can be gone by now.
            *names, _ = list(self.records)
            roots = [each for each in names if is_root(each)]
            # Subgraphs put many while one step of the root goes on, and each turn leaves one of the root.
            others = [each for each in names if not is_root(each)]
            self._forget((roots if len(roots) > _RECORDS // 2 else others or roots)[0])

    def settle(self, record: Record) -> None:
        """Forget bodies, if they are many, that neither this newest checkpoint needs nor one that a run put lately.

        A run that is asked something, or fails, stores its last checkpoint again if its session has ended.
        """
        self.bodies.settle(record.names, self._needed_lately)

    def _needed_lately(self) -> Sequence[Sequence[str]]:
        # Of a run the last checkpoint alone is remembered.
        roots = [record.refs for name, record in list(self.records.items()) if is_root(name)]
        return roots[-_WHOLE:]

    def _forget(self, name: str) -> None:
        self.records.pop(name, None)
        self.values.pop(name, None)
        self.freed.discard(name)


class Generations:
    """What is known of a session; whoever holds this keeps it known, as a run under way does."""

    __slots__ = ("__weakref__", "_older", "counted", "last")

    def __init__(self, last: CachedSession) -> None:
        self.last: CachedSession = last
        """What is known of the generation that was seen last, even if that is gone by now."""
        self.counted: int = 0
        """How much of its size the cache has counted."""
        self._older: tuple[ReferenceType[CachedSession], ...] = ()

    def begin(self, generation: int) -> None:
        """Begin with a new generation, of which nothing is known but what was known of the one before.

        One in which only subgraphs went on has nothing that a run of the root graph would have to store again, so the
        one before it stays. Others stay known as long as runs that began in them hold them.
        """
        before = self.last if self.last.has_root else self.last.before or self.last
        for each in (self.last, before):
            if each.before is not None and each.before is not before:
                alive = [known for known in self._older if known() is not None]
                self._older = (*alive, ref(each.before))
                each.before = None
        self.last = CachedSession(generation, before)

    def all(self) -> list[CachedSession]:
        """What is known of the generation that was seen last, and of those before it."""
        last = self.last
        # In this order: another thread that begins a new generation moves the one before to the older ones.
        before = last.before
        older = [known() for known in self._older]
        return [each for each in (last, before, *older) if each is not None]
