"""What a process remembers of the blobs of one session in Redis, so that a read need not send them again.

Within an edition of a session a number stands for the same blob with the same content; the edition ends when a
blob is dropped or set again with other content, and is told with every answer. A read says which numbers are
remembered here, and the server leaves them out if generation, edition and lineage are still the same. Lists
are always sent:

```text
 a read asks for h and what it refers to    is sent h, which refers to m1 and m2, and these, of edition 0
 another read                               says that h is remembered, and 2 of kind m from number 0 on
                                            is sent h; m1 and m2 are added here
 another process sets h anew and drops m1   edition 1 begins
 another read                               says the same, of edition 0
                                            is sent h, which refers to m2, and m2; all else is forgotten
```
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from langchain_ttl_history.storage.redis.lineage import newest
from langchain_ttl_history.storage.redis.references import flat_runs
from langchain_ttl_history.storage.types import Blob

__all__ = ["NOTHING", "Mirror", "Remembered"]

# What a name and its containers cost besides the payload, and what a session costs in which nothing is remembered, in
# bytes.
_OVERHEAD = 300
_SESSION = 2_000


class Remembered(NamedTuple):
    """What a read tells the server that is remembered; its first four fields are arguments of the script."""

    generation: int = -1
    edition: int = -1
    by: str = ""
    """The id of the newest request that was known then."""
    runs: Sequence[int] = ()
    """The numbers, as kind, first number and count of each run."""
    numbers: Mapping[str, int] = {}
    """The same numbers by name; not sent."""


NOTHING = Remembered()


class Mirror:
    """Some blobs of one edition of a session, with all they refer to. Others may be added, never changed.

    Args:
        generation: The session's.
        edition: The session's.
        requests: The newest requests; see `lineage`. `Mirrors` sets them, with its lock held, before adding what an
            answer tells; read them after reading anything else, since threads read a mirror without a lock.
    """

    __slots__ = ("blobs", "edition", "generation", "numbers", "requests", "size")

    def __init__(self, generation: int, edition: int, requests: bytes) -> None:
        self.generation: int = generation
        self.edition: int = edition
        self.requests: bytes = requests
        self.blobs: dict[str, Blob] = {}
        self.numbers: dict[str, int] = {}
        self.size: int = _SESSION

    def add(self, found: Mapping[str, Blob], numbers: Mapping[str, int]) -> None:
        """Remember what was found, if it has a number and all it refers to is known."""
        blobs = self.blobs
        is_known = blobs.__contains__
        waiting = [(name, blob) for name, blob in found.items() if name in numbers and not blob.also]
        while waiting:
            unresolved = []
            for name, blob in waiting:
                if blob.refs and not all(map(is_known, blob.refs)):
                    unresolved.append((name, blob))
                    continue
                if name not in blobs:
                    self.size += _OVERHEAD + len(blob.payload)
                blobs[name] = blob
                self.numbers[name] = numbers[name]
            if len(unresolved) == len(waiting):
                break
            waiting = unresolved

    def without(self, names: Collection[str], edition: int) -> Mirror:
        """The mirror for the next edition, in which these names were dropped or set again."""
        gone = set(names)
        mirror = Mirror(self.generation, edition, self.requests)
        mirror.add({name: blob for name, blob in list(self.blobs.items()) if name not in gone}, self.numbers)
        return mirror

    def names(self) -> dict[int, str]:
        """The names by their numbers."""
        return {number: name for name, number in list(self.numbers.items())}

    def remembered(self) -> Remembered:
        """What a read tells the server about this mirror."""
        numbers = dict(self.numbers)
        runs = flat_runs(numbers.values())
        return Remembered(self.generation, self.edition, newest(self.requests).decode(), runs, numbers)

    def complete(
        self, blobs: dict[str, Blob], refs: Iterable[str], follow: tuple[str, ...], known: AbstractSet[str]
    ) -> None:
        """Add the remembered blobs that these references lead to, except those the caller knows."""
        find = self.blobs.get
        pending = list(refs)
        while pending:
            name = pending.pop()
            if name not in blobs and name not in known and name[:1] in follow:
                blob = find(name)
                if blob is not None:
                    blobs[name] = blob
                    pending += blob.refs
