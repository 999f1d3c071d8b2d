"""What any change of a session writes to a SQLite file: planned on its mirror, without I/O.

A change that drops or replaces something rewrites the segments that contained it, so that nothing of it stays in the
file. (See `appends` for changes that only append.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from secrets import randbits

from langchain_ttl_history.storage.sqlite.mirror import Key, Mirror
from langchain_ttl_history.storage.sqlite.overflow import body_of
from langchain_ttl_history.storage.sqlite.packs import Large, ListedEntry, NamedBlob, Names, encode, sealed
from langchain_ttl_history.storage.sqlite.tail import SEGMENT, room
from langchain_ttl_history.storage.sqlite.updates import DELETE, INSERT, LARGE, OUTDATED, REPLACE, Statement, update
from langchain_ttl_history.storage.types import Blob, Change, Entry, Keep, Lease, Outcome, Status

__all__ = ["plan_change", "renewal"]


def plan_change(mirror: Mirror, change: Change, now: float, *, force: bool = False) -> tuple[Outcome, list[Statement]]:
    """Apply a change to a mirror; returns the outcome and the statements that do the same in the file.

    Args:
        mirror: The session's mirror. Throw it away if the first statement changes no row: then it was outdated.
        change: A change that is not refused.
        now: Seconds since the epoch.
        force: Write even while a deletion is still to be wiped.
    """
    row, session = mirror.row, mirror.session
    plan = _Plan(mirror)
    plan.apply(change, row.least_position(now))
    row.segment, row.length = mirror.tail.number, mirror.tail.length
    row.position, row.bytes = session.position, session.bytes
    renewed = False
    if not isinstance(change.idle_ttl, Keep):
        row.set_idle_ttl(change.idle_ttl, now, change.lease)
        renewed = True
    if not change.upkeep:
        renewed = row.use(now, change.lease) or renewed
    weights = session.weights_of(change)
    outcome = Outcome(Status.STORED, frozenset(), row.generation, row.position, row.bytes, weights)
    return outcome, [update(mirror, renewed=renewed, force=force), *plan.statements]


def renewal(mirror: Mirror, lease: Lease, now: float) -> Statement:
    """Record a read as a use in a mirror; returns the statement that does the same in the file."""
    mirror.row.use(now, lease)
    return update(mirror, renewed=True, force=True)


class _Plan:
    """A change being applied to a mirror, and the statements it needs in the file, except the one for the row."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.generation = mirror.row.generation
        self.statements: list[Statement] = []
        # Segments that contain something to be removed, and so have to be rewritten.
        self.affected: set[int] = set()

    def apply(self, change: Change, least: int) -> None:
        """Change what the mirror holds, and note what is to be written; nothing is appended before position `least`."""
        mirror, session = self.mirror, self.mirror.session
        stored, position = session.blobs, session.position
        fresh = [
            (name, blob)
            for name, blob in change.blobs.items()
            if name not in stored or self._replaces(name, stored[name], blob)
        ]
        if change.place or change.drop or change.trim:
            self._free_all(change)
            session.apply(change, least)
            fresh = [each for each in fresh if each[0] in stored]
            listed = _left(change, position, least)
        else:
            session.set(fresh)
            listed = []
            for name, payload, refs in change.append:
                session.append(name, payload, refs, least)
                listed.append((name, session.lists[name][-1]))
        named = [self._named(name, blob) for name, blob in fresh]
        freed = bool(self.affected)
        if freed:
            moved_named, moved_listed = self._moved()
            named, listed = moved_named + named, moved_listed + listed
        for few, some in _parts(named, listed):
            self._store(few, some)
        if freed:
            mirror.tail.wipe()

    def _replaces(self, name: str, old: Blob, blob: Blob) -> bool:
        """Remove the old blob of a name that is set again; False if the new one is the same."""
        mirror = self.mirror
        if name in mirror.large:
            if name in mirror.unloaded:
                # The payload is not in the mirror, so `set` cannot subtract its length.
                mirror.session.bytes -= mirror.large[name].size
            self._free_blob(name)
        elif old == blob:
            return False
        elif old.payload:
            self._free_blob(name)
        else:
            # A blob without a payload reveals nothing, so it may stay until its segment is rewritten.
            mirror.outdate(name)
        return True

    def _free_all(self, change: Change) -> None:
        """Free what a change takes away."""
        mirror, session = self.mirror, self.mirror.session
        for name, entry in change.place:
            self._free((name, entry.position))
        for name in change.drop:
            if name in session.blobs:
                if name in mirror.unloaded:
                    session.bytes -= mirror.large[name].size
                self._free_blob(name)
            for entry in session.lists.get(name, ()):
                self._free((name, entry.position))
        for name, positions in change.trim.items():
            for each in positions:
                self._free((name, each))

    def _free_blob(self, name: str) -> None:
        mirror = self.mirror
        self._free(name)
        self.affected |= mirror.ghosts.pop(name, set())
        mirror.unloaded.discard(name)
        large = mirror.large.pop(name, None)
        if large is not None:
            self.statements.append((DELETE, (self.generation, -large.number)))

    def _free(self, key: Key) -> None:
        home = self.mirror.homes.pop(key, None)
        if home is not None:
            self.affected.add(home)

    def _named(self, name: str, blob: Blob) -> NamedBlob:
        """A new blob that is to be written; its payload to a row of its own if it is large."""
        if len(blob.payload) < LARGE:
            return name, blob, None
        mirror = self.mirror
        mirror.row.large += 1
        large = mirror.large[name] = Large(mirror.row.large, len(blob.payload))
        self.statements.append((INSERT, (self.generation, -large.number, body_of(sealed(blob.payload)))))
        mirror.load(name, blob)
        return name, blob, large

    def _moved(self) -> tuple[list[NamedBlob], list[ListedEntry]]:
        """Rewrite the affected segments; returns those of their blobs and entries that are left to go to the tail."""
        mirror, session, affected, tail = self.mirror, self.mirror.session, self.affected, self.mirror.tail
        # Not counted: a backup may be brought back, and go on with as many.
        mirror.row.epoch = randbits(32)
        mirror.ghosts = {name: left for name, ghosts in mirror.ghosts.items() if (left := ghosts - affected)}
        # What fills the affected segments, and what has to go to the tail.
        named: list[NamedBlob] = []
        listed: list[ListedEntry] = []
        last_named: list[NamedBlob] = []
        last_listed: list[ListedEntry] = []
        at: dict[str, dict[int, int]] = {}
        for key, home in mirror.homes.items():
            if home in affected:
                if isinstance(key, str):
                    # It has to come after the outdated blobs of its name, since the last one read counts.
                    goes_last = home == tail.number or key in mirror.ghosts
                    moved = last_named if goes_last else named
                    moved.append((key, session.blobs[key], mirror.large.get(key)))
                else:
                    at.setdefault(key[0], {})[key[1]] = home
        for name, homes in at.items():
            for entry in session.lists[name]:
                if entry.position in homes:
                    goes_last = homes[entry.position] == tail.number
                    (last_listed if goes_last else listed).append((name, entry))
        if tail.number in affected:
            tail.restart(tail.number)
        rest_named, rest_listed = self._rewrite(sorted(affected - {tail.number}), named, listed)
        return rest_named + last_named, rest_listed + last_listed

    def _rewrite(
        self, numbers: Sequence[int], named: list[NamedBlob], listed: list[ListedEntry]
    ) -> tuple[list[NamedBlob], list[ListedEntry]]:
        """Fill these segments with blobs and entries, and delete those not needed; returns what is left over.

        Content of about the same age stays together, and so will be dropped together.
        """
        parts = deque(_parts(named, listed))
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
                self._settle(number, *parts.popleft())
            if body:
                self.statements.append((REPLACE, (body_of(body), self.generation, number)))
            else:
                self.statements.append((DELETE, (self.generation, number)))
        return [each for few, _ in parts for each in few], [each for _, some in parts for each in some]

    def _settle(self, number: int, named: Sequence[NamedBlob], listed: Sequence[ListedEntry]) -> None:
        homes = self.mirror.homes
        for name, _, _ in named:
            homes[name] = number
        for name, entry in listed:
            homes[name, entry[0]] = number

    def _store(self, named: Sequence[NamedBlob], listed: Sequence[ListedEntry]) -> None:
        """Append blobs and entries to the tail."""
        tail = self.mirror.tail
        pack = encode(tail.names, named, listed)
        if tail.length and tail.length + len(pack) > tail.room:
            self._close()
            pack = encode(tail.names, named, listed)
        tail.add(pack)
        self._settle(tail.number, named, listed)

    def _close(self) -> None:
        """Turn the full tail into a segment and begin another; or rewrite it in place if much of it is outdated."""
        tail = self.mirror.tail
        if tail.outdated > OUTDATED:
            self.affected = {tail.number}
            named, listed = self._moved()
            if named or listed:
                tail.add(encode(tail.names, named, listed))
            if 2 * tail.length < tail.room:
                return
        self.statements.append((INSERT, (self.generation, tail.number, body_of(tail.content))))
        tail.restart(tail.number + 1)


def _left(change: Change, position: int, least: int) -> list[ListedEntry]:
    """The entries that a change adds to a session at this position, without those that it drops or trims itself.

    Args:
        change: The change.
        position: The newest position given out before it.
        least: The least position of an entry that it appends.
    """
    entries: dict[tuple[str, int], Entry] = {}
    for name, payload, refs in change.append:
        position = max(position + 1, least)
        entries[name, position] = Entry(position, payload, refs)
    for name, entry in change.place:
        entries[name, entry.position] = entry
    return [
        (name, entry)
        for (name, at), entry in entries.items()
        if name not in change.drop and at not in change.trim.get(name, ())
    ]


def _parts(named: list[NamedBlob], listed: list[ListedEntry]) -> Iterator[tuple[list[NamedBlob], list[ListedEntry]]]:
    """Split blobs and entries into parts that are small enough to fill segments well."""
    part: tuple[list[NamedBlob], list[ListedEntry]] = [], []
    left = SEGMENT // 8
    for each in named:
        part[0].append(each)
        left -= 0 if each[2] else len(each[1].payload)
        if left <= 0:
            yield part
            part, left = ([], []), SEGMENT // 8
    for one in listed:
        part[1].append(one)
        left -= len(one[1].payload)
        if left <= 0:
            yield part
            part, left = ([], []), SEGMENT // 8
    if part[0] or part[1]:
        yield part
