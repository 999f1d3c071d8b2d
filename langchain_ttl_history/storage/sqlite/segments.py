"""Where the blobs and entries of a session go in its SQLite file: planned on its mirror, without I/O.

What is new is appended to the tail. The segments that something is removed from are rewritten, so that nothing of it
stays in the file:

    before           segment 1: a b c    segment 2: d e f    tail (3): g
    h for b, d, e    segment 1: a c f    segment 2: deleted  tail (3): g h

Content of about the same age thus stays together, and so will be removed together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from secrets import randbits
from typing import NamedTuple

from langchain_ttl_history.storage.sqlite.mirror import Key, Mirror
from langchain_ttl_history.storage.sqlite.overflow import body_of
from langchain_ttl_history.storage.sqlite.packs import Large, ListedEntry, NamedBlob, Names, encode, sealed
from langchain_ttl_history.storage.sqlite.tail import SEGMENT, room
from langchain_ttl_history.storage.sqlite.updates import DELETE, INSERT, LARGE, OUTDATED, REPLACE, Statement
from langchain_ttl_history.storage.types import Blob

__all__ = ["Segments"]


class Items(NamedTuple):
    """Some blobs, and some entries of lists."""

    blobs: list[NamedBlob]
    entries: list[ListedEntry]

    def behind(self, others: Items) -> Items:
        """These with others before them."""
        return Items(others.blobs + self.blobs, others.entries + self.entries)


class Segments:
    """The segments of one session while a change is applied to its mirror."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._generation = mirror.row.generation
        self.statements: list[Statement] = []
        """What the change needs in the file, besides the statement for the session's row."""
        # Those that something is removed from, and that so have to be rewritten.
        self._affected: set[int] = set()

    # Removing

    def remove_blob(self, name: str) -> None:
        """Remove a stored blob, the outdated ones of its name, and its large payload."""
        mirror = self._mirror
        self._remove(name)
        self._affected |= mirror.ghosts.pop(name, set())
        large = mirror.large.pop(name, None)
        if large is not None:
            self.statements.append((DELETE, (self._generation, -large.number)))
            if name in mirror.unloaded:
                # The payload is not in the mirror, so whoever replaces the blob there cannot subtract its length.
                mirror.session.bytes -= large.size
                mirror.unloaded.discard(name)

    def remove_entry(self, name: str, position: int) -> None:
        """Remove the entry at a position of a list, if there is one."""
        self._remove((name, position))

    def _remove(self, key: Key) -> None:
        home = self._mirror.homes.pop(key, None)
        if home is not None:
            self._affected.add(home)

    # Adding

    def add(self, blobs: Iterable[tuple[str, Blob]], entries: list[ListedEntry]) -> None:
        """Append what is new to the tail, once what was removed is gone from all segments."""
        items = Items([self._named(name, blob) for name, blob in blobs], entries)
        rewritten = bool(self._affected)
        if rewritten:
            items = items.behind(self._rewrite_affected())
        for part in _parts(items):
            self._append(part)
        if rewritten:
            self._mirror.tail.wipe()

    def _named(self, name: str, blob: Blob) -> NamedBlob:
        """A blob that is to be written; its payload to a row of its own if it is large."""
        size = len(blob.payload)
        if size < LARGE:
            return name, blob, None
        mirror = self._mirror
        mirror.row.large += 1
        large = mirror.large[name] = Large(mirror.row.large, size)
        self.statements.append((INSERT, (self._generation, -large.number, body_of(sealed(blob.payload)))))
        mirror.remember_payload(name, blob)
        return name, blob, large

    def _append(self, part: Items) -> None:
        tail = self._mirror.tail
        pack = encode(tail.names, *part)
        if tail.length and tail.length + len(pack) > tail.room:
            self._close_tail()
            pack = encode(tail.names, *part)
        tail.add(pack)
        self._settle(part, tail.number)

    def _close_tail(self) -> None:
        """Turn the full tail into a segment and begin another; or rewrite it in place if much of it is outdated."""
        tail = self._mirror.tail
        if tail.outdated > OUTDATED:
            self._affected = {tail.number}
            left = self._rewrite_affected()
            if left.blobs or left.entries:
                tail.add(encode(tail.names, *left))
            if 2 * tail.length < tail.room:
                return
        self.statements.append((INSERT, (self._generation, tail.number, body_of(tail.content))))
        tail.restart(tail.number + 1)

    # Rewriting

    def _rewrite_affected(self) -> Items:
        """Rewrite the affected segments; returns what is left of them that has to go to the tail."""
        mirror, affected, tail = self._mirror, self._affected, self._mirror.tail
        # Not counted: a backup may be brought back, and go on with as many.
        mirror.row.epoch = randbits(32)
        mirror.ghosts = {name: left for name, ghosts in mirror.ghosts.items() if (left := ghosts - affected)}
        staying, leaving = self._left_in_affected()
        if tail.number in affected:
            tail.restart(tail.number)
        return leaving.behind(self._fill(sorted(affected - {tail.number}), staying))

    def _left_in_affected(self) -> tuple[Items, Items]:
        """What is left in the affected segments: what may fill them again, and what has to go to the tail."""
        mirror, session, tail = self._mirror, self._mirror.session, self._mirror.tail
        staying, leaving = Items([], []), Items([], [])
        # The segments of the entries, by list and position.
        homes: dict[str, dict[int, int]] = {}
        for key, home in mirror.homes.items():
            if home not in self._affected:
                continue
            if isinstance(key, str):
                # It has to come after the outdated blobs of its name, since the last one read counts.
                leaves = home == tail.number or key in mirror.ghosts
                (leaving if leaves else staying).blobs.append((key, session.blobs[key], mirror.large.get(key)))
            else:
                homes.setdefault(key[0], {})[key[1]] = home
        for name, of_list in homes.items():
            for entry in session.lists[name]:
                if entry.position in of_list:
                    leaves = of_list[entry.position] == tail.number
                    (leaving if leaves else staying).entries.append((name, entry))
        return staying, leaving

    def _fill(self, numbers: Sequence[int], items: Items) -> Items:
        """Fill these segments anew, and delete those not needed; returns what they have no room for."""
        parts = deque(_parts(items))
        for number in numbers:
            names: Names = {}
            body = b""
            most = 0
            while parts:
                pack = encode(names, *parts[0])
                most = most or room(len(pack))
                if len(body) + len(pack) > most:
                    break
                body += pack
                self._settle(parts.popleft(), number)
            if body:
                self.statements.append((REPLACE, (body_of(body), self._generation, number)))
            else:
                self.statements.append((DELETE, (self._generation, number)))
        left = Items([], [])
        for part in parts:
            left = part.behind(left)
        return left

    def _settle(self, items: Items, number: int) -> None:
        """Note the segment in which these are from now on."""
        homes = self._mirror.homes
        for name, _, _ in items.blobs:
            homes[name] = number
        for name, entry in items.entries:
            homes[name, entry.position] = number


def _parts(items: Items) -> Iterator[Items]:
    """Split blobs and entries into parts that are small enough to fill segments well."""
    most = SEGMENT // 8
    part, left = Items([], []), most
    for named in items.blobs:
        part.blobs.append(named)
        _, blob, large = named
        left -= len(blob.payload) if large is None else 0
        if left <= 0:
            yield part
            part, left = Items([], []), most
    for listed in items.entries:
        part.entries.append(listed)
        left -= len(listed[1].payload)
        if left <= 0:
            yield part
            part, left = Items([], []), most
    if part.blobs or part.entries:
        yield part
