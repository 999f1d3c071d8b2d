"""What a storage must keep of a session, as dicts and lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from langchain_ttl_history.storage.types import KEEP, Blob, Entry, Lease


@dataclass
class Session:
    """What the model knows of a session."""

    generation: int
    created: float
    used: float
    lease: Lease
    own: Any = KEEP
    ends: float | None = None
    """The deadline that was read last, where it may be later than the model's."""
    position: int = 0
    blobs: dict[str, Blob] = field(default_factory=dict)
    entries: list[tuple[str, Entry]] = field(default_factory=list)

    @property
    def idle(self) -> float | None:
        """How long it lives after a use."""
        idle: float | None = self.lease.idle_ttl if self.own is KEEP else self.own
        return idle

    @property
    def deadline(self) -> float:
        """When it ends at the earliest."""
        return self.ended(0.0)

    def ended(self, late: float) -> float:
        """When it ends, so many seconds late if it is for idleness."""
        ends = [float("inf")]
        if self.idle is not None:
            ends.append(self.used + self.idle + late)
        if self.lease.max_age is not None:
            ends.append(self.created + self.lease.max_age)
        return min(ends)

    def list(self, name: str) -> list[Entry]:
        """The entries of a list."""
        return sorted((entry for of, entry in self.entries if of == name), key=lambda entry: entry.position)

    @property
    def bytes(self) -> int:
        """Every payload byte."""
        return sum(len(each.payload) for each in (*self.blobs.values(), *(entry for _, entry in self.entries)))


def reached(session: Session, start: set[str], follow: tuple[str, ...]) -> set[str]:
    """Every name that a read reaches: grown until it grows no more."""
    names = set(start)
    while True:
        found = set(names)
        for name in names:
            refs: set[str] = {ref for entry in session.list(name) for ref in entry.refs}
            if name in session.blobs:
                refs = {*session.blobs[name].refs, *session.blobs[name].also}
            found |= {ref for ref in refs if ref.startswith(follow)} if follow else set()
        if found == names:
            return names
        names = found
