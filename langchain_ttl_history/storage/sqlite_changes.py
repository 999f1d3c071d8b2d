"""What a change of a session writes to a SQLite file: planned on its mirror, without I/O.

Most writes go behind those before them, in the row of the session itself. Whatever drops or replaces
something writes the segments anew in which that stood, so that nothing of it stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from langchain_ttl_history.storage.base import KEEP, Blob, Change, Entry, Lease, Outcome, Status
from langchain_ttl_history.storage.sqlite_connections import Statement
from langchain_ttl_history.storage.sqlite_mirror import Key, Mirror
from langchain_ttl_history.storage.sqlite_packs import Large, Listed, Named, encode
from langchain_ttl_history.storage.sqlite_tail import SEGMENT, closed

__all__ = ["appended", "planned", "refusal", "renewal"]

_LARGE = SEGMENT // 2
"""From so many bytes on a payload has a row of its own."""
_OUTDATED = 50
"""A segment in which more blobs than these were replaced is written anew when it is full."""

_WHERE = "WHERE generation = ? AND head = ? AND NOT EXISTS (SELECT 1 FROM state WHERE unwiped > ?)"
_CHANGE = f"UPDATE sessions SET head = ?, tail = ? {_WHERE}"
_RENEW = f"UPDATE sessions SET head = ?, tail = ?, renewed = ?, deadline = ?, idle = ? {_WHERE}"
_INSERT = "INSERT INTO segments VALUES (?, ?, ?)"
_DELETE = "DELETE FROM segments WHERE generation = ? AND number = ?"
# More than any deletion that is still to be wiped.
_ANY = 1 << 62


def refusal(mirror: Mirror | None, change: Change, fence: int) -> Outcome | None:
    """Why a change is refused; None if it is not. Without a mirror there is no session."""
    guard = change.guard
    stored = {} if mirror is None else mirror.session.blobs
    if fence:
        if guard.generation is not None and guard.generation <= fence:
            return Outcome(Status.DELETED)
        if guard.needs is not None and guard.needs not in stored:
            return Outcome(Status.DELETED)
    if mirror is None and change.upkeep:
        return Outcome(Status.ABSENT)
    if change.at_generation is not None and (mirror is None or mirror.row.generation != change.at_generation):
        return Outcome(Status.MOVED)
    if change.at_position is not None and (mirror is None or mirror.row.position != change.at_position):
        return Outcome(Status.MOVED)
    if change.new and mirror is not None:
        return Outcome(Status.MOVED)
    wanted: set[str] = set()
    for blob in change.blobs.values():
        if blob.refs:
            wanted.update(blob.refs)
    for _, _, refs in change.append:
        wanted.update(refs)
    for _, entry in change.place:
        wanted.update(entry.refs)
    # One at a time: of two at once, `difference` walks through all of the second.
    missing = wanted.difference(stored).difference(change.blobs)
    return Outcome(Status.MISSING, frozenset(missing)) if missing else None


def planned(mirror: Mirror, change: Change, now: float, *, force: bool = False) -> tuple[Outcome, list[Statement]]:
    """Change a mirror, and tell what to write; the first of the statements changes a row if the mirror was true.

    Args:
        mirror: The session's, to be thrown away if it was not true.
        change: What is not refused.
        now: The time.
        force: Write even while a deletion is still to be wiped.
    """
    row, session = mirror.row, mirror.session
    plan = _Plan(mirror)
    plan.apply(change)
    row.segment, row.length = mirror.tail.number, mirror.tail.length
    row.position, row.bytes = session.position, session.bytes
    renewed = False
    if change.idle_ttl is not KEEP:
        row.give(change.idle_ttl, now, change.lease)
        renewed = True
    if not change.upkeep:
        renewed = row.use(now, change.lease) or renewed
    touched = [*[name for name, _, _ in change.append], *[name for name, _ in change.place], *change.trim]
    weights = {name: session.weights[name] for name in touched if name in session.weights}
    outcome = Outcome(Status.STORED, frozenset(), row.generation, row.position, row.bytes, weights)
    return outcome, [_update(mirror, renewed=renewed, force=force), *plan.statements]


def renewal(mirror: Mirror, lease: Lease, now: float) -> Statement:
    """Make a read a use of a session, and tell what to write."""
    mirror.row.use(now, lease)
    return _update(mirror, renewed=True, force=True)


def _update(mirror: Mirror, *, renewed: bool, force: bool) -> Statement:
    row, before = mirror.row, mirror.head
    row.version += 1
    head = mirror.head = row.head
    unwiped = _ANY if force else 0
    if renewed:
        times = (row.renewed, row.deadline, row.idle)
        return _RENEW, (head, mirror.tail.body, *times, row.generation, before, unwiped)
    return _CHANGE, (head, mirror.tail.body, row.generation, before, unwiped)


def appended(mirror: Mirror, change: Change, now: float) -> tuple[Outcome, list[Statement]] | None:
    """What `planned` does where a change, as most do, only goes behind what is there; None where it does not.

    It also looks whether the change is refused, and tells None then: nothing was changed.
    """
    row, session, tail = mirror.row, mirror.session, mirror.tail
    stored, lists, weights, homes = session.blobs, session.lists, session.weights, mirror.homes
    blobs = change.blobs
    if (
        change.drop or change.trim or change.place or change.new or change.idle_ttl is not KEEP
        or change.at_generation not in (None, row.generation) or change.at_position not in (None, row.position)
        or (now < mirror.until and _is_fenced(mirror, change))
    ):  # fmt: skip
        return None
    named: list[Named] = []
    for name, blob in blobs.items():
        old = stored.get(name)
        if old is not None:
            if old.payload or name in mirror.large:
                if old != blob:
                    return None
                continue
            if old == blob:
                continue
        refs = blob.refs
        if len(blob.payload) >= _LARGE or (refs and not _are_there(refs, stored, blobs)):
            return None
        named.append((name, blob, None))
    position = row.position
    listed: list[Listed] = []
    for name, payload, refs in change.append:
        if refs and not _are_there(refs, stored, blobs):
            return None
        position += 1
        listed.append((name, Entry(position, payload, refs)))
    statements: list[Statement] = []
    if named or listed:
        known = len(tail.names)
        pack = encode(tail.names, named, listed)
        if tail.length + len(pack) > SEGMENT:
            if len(pack) > SEGMENT // 2 or tail.outdated > _OUTDATED:
                tail.forget(known)
                return None
            statements.append((_INSERT, (row.generation, tail.number, closed(tail.content))))
            tail.restart(tail.number + 1)
            row.segment = tail.number
            pack = encode(tail.names, named, listed)
        tail.add(pack)
    number = tail.number
    held = row.bytes
    for name, blob, _ in named:
        if name in homes:
            mirror.outdate(name)
        homes[name] = number
        stored[name] = blob
        held += len(blob.payload)
    touched = {}
    for name, entry in listed:
        homes[name, entry.position] = number
        if name in lists:
            lists[name].append(entry)
        else:
            lists[name] = [entry]
        held += len(entry.payload)
        touched[name] = weights[name] = weights.get(name, 0) + 1 + len(entry.refs)
    row.length = tail.length
    row.position = session.position = position
    row.bytes = session.bytes = held
    renewed = not change.upkeep and row.use(now, change.lease)
    outcome = Outcome(Status.STORED, frozenset(), row.generation, position, held, touched)
    return outcome, [_update(mirror, renewed=renewed, force=False), *statements]


def _is_fenced(mirror: Mirror, change: Change) -> bool:
    generation, needs = change.guard
    return (generation is not None and generation <= mirror.fence) or (
        needs is not None and needs not in mirror.session.blobs
    )


def _are_there(refs: tuple[str, ...], stored: Mapping[str, Blob], given: Mapping[str, Blob]) -> bool:
    return all(map(stored.__contains__, refs)) or all(ref in stored or ref in given for ref in refs)


class _Plan:
    """A change under way: of a mirror, and the statements it takes in the file besides that of the row."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.generation = mirror.row.generation
        self.statements: list[Statement] = []
        # Segments in which something stands that goes.
        self.affected: set[int] = set()

    def apply(self, change: Change) -> None:
        """Change what the mirror holds, and note what is to be written."""
        mirror, session = self.mirror, self.mirror.session
        stored, position = session.blobs, session.position
        fresh = [
            (name, blob)
            for name, blob in change.blobs.items()
            if name not in stored or self._replaces(name, stored[name], blob)
        ]
        if change.place or change.drop or change.trim:
            self._free_all(change)
            session.apply(change)
            fresh = [each for each in fresh if each[0] in stored]
            listed = _left(change, position)
        else:
            for name, blob in fresh:
                session.set(name, blob)
            listed = []
            for name, payload, refs in change.append:
                session.append(name, payload, refs)
                listed.append((name, session.lists[name][-1]))
        named = [self._named(name, blob) for name, blob in fresh]
        if self.affected:
            moved = self._moved()
            named, listed = moved[0] + named, moved[1] + listed
        freed = bool(self.affected)
        for few, some in _parts(named, listed):
            self._store(few, some)
        if freed:
            mirror.tail.wipe()

    def _replaces(self, name: str, old: Blob, blob: Blob) -> bool:
        """Make room for a blob; False if it is stored as it is."""
        mirror = self.mirror
        if name in mirror.large:
            if name in mirror.unloaded:
                # Its payload is not there to be counted.
                mirror.session.bytes -= mirror.large[name].size
            self._free_blob(name)
        elif old == blob:
            return False
        elif old.payload:
            self._free_blob(name)
        else:
            # It says nothing, so that it may stay until its segment is written anew.
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
            self.statements.append((_DELETE, (self.generation, -large.number)))

    def _free(self, key: Key) -> None:
        home = self.mirror.homes.pop(key, None)
        if home is not None:
            self.affected.add(home)

    def _named(self, name: str, blob: Blob) -> Named:
        """A new blob that is to be written; its payload to a row of its own if it is large."""
        if len(blob.payload) < _LARGE:
            return name, blob, None
        mirror = self.mirror
        mirror.row.large += 1
        large = mirror.large[name] = Large(mirror.row.large, len(blob.payload))
        self.statements.append((_INSERT, (self.generation, -large.number, closed(blob.payload))))
        mirror.load(name, blob)
        return name, blob, large

    def _moved(self) -> tuple[list[Named], list[Listed]]:
        """Free the segments in which something goes. Returns what else stands in them."""
        mirror, session, affected = self.mirror, self.mirror.session, self.affected
        mirror.row.epoch += 1
        named: list[Named] = []
        at: dict[str, set[int]] = {}
        for key, home in mirror.homes.items():
            if home in affected:
                if isinstance(key, str):
                    named.append((key, session.blobs[key], mirror.large.get(key)))
                else:
                    at.setdefault(key[0], set()).add(key[1])
        listed = [
            (name, entry) for name, positions in at.items() for entry in session.lists[name] if entry[0] in positions
        ]
        for name in [name for name, ghosts in mirror.ghosts.items() if not ghosts.isdisjoint(affected)]:
            mirror.ghosts[name] -= affected
            if not mirror.ghosts[name]:
                del mirror.ghosts[name]
        tail = mirror.tail
        self.statements += [(_DELETE, (self.generation, number)) for number in affected if number != tail.number]
        if tail.number in affected:
            tail.restart(tail.number)
        return named, listed

    def _store(self, named: Sequence[Named], listed: Sequence[Listed]) -> None:
        """Write some behind what is there."""
        tail, homes = self.mirror.tail, self.mirror.homes
        pack = encode(tail.names, named, listed)
        if tail.length and tail.length + len(pack) > SEGMENT:
            self._close()
            pack = encode(tail.names, named, listed)
        tail.add(pack)
        segment = tail.number
        for name, _, _ in named:
            homes[name] = segment
        for name, entry in listed:
            homes[name, entry[0]] = segment

    def _close(self) -> None:
        """Put the segment aside and begin another; or write it anew if much of it is outdated."""
        tail = self.mirror.tail
        if tail.outdated > _OUTDATED:
            self.affected = {tail.number}
            named, listed = self._moved()
            if named or listed:
                tail.add(encode(tail.names, named, listed))
            if 2 * tail.length < SEGMENT:
                return
        self.statements.append((_INSERT, (self.generation, tail.number, closed(tail.content))))
        tail.restart(tail.number + 1)


def _left(change: Change, position: int) -> list[Listed]:
    """The entries that a change brings to a session at a position, without those it takes away itself."""
    entries: dict[tuple[str, int], Entry] = {}
    for name, payload, refs in change.append:
        position += 1
        entries[name, position] = Entry(position, payload, refs)
    for name, entry in change.place:
        entries[name, entry.position] = entry
    return [
        (name, entry)
        for (name, at), entry in entries.items()
        if name not in change.drop and at not in change.trim.get(name, ())
    ]


def _parts(named: list[Named], listed: list[Listed]) -> Iterator[tuple[list[Named], list[Listed]]]:
    """Blobs and entries in parts so small that segments are filled with them."""
    part: tuple[list[Named], list[Listed]] = [], []
    room = SEGMENT // 8
    for each in named:
        part[0].append(each)
        room -= 0 if each[2] else len(each[1].payload)
        if room <= 0:
            yield part
            part, room = ([], []), SEGMENT // 8
    for one in listed:
        part[1].append(one)
        room -= len(one[1].payload)
        if room <= 0:
            yield part
            part, room = ([], []), SEGMENT // 8
    if part[0] or part[1]:
        yield part
