"""One session read or changed in the file, with its mirror kept as the file is.

Where one thread changes a mirror, others wait for it a little.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.refusals import refusal
from langchain_ttl_history.storage.sqlite import freeing
from langchain_ttl_history.storage.sqlite.appends import plan_append
from langchain_ttl_history.storage.sqlite.changes import plan_change, renewal
from langchain_ttl_history.storage.sqlite.lookup import (
    TO_READ,
    TO_WRITE,
    Found,
    create,
    find_session,
    large_payload,
    load,
)
from langchain_ttl_history.storage.sqlite.mirror import Mirror
from langchain_ttl_history.storage.sqlite.mirrors import Mirrors
from langchain_ttl_history.storage.sqlite.names import name_of
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.storage.sqlite.transactions import Transactions
from langchain_ttl_history.storage.types import Change, Lease, Outcome, Query, Snapshot, generation_at

__all__ = ["MirroredSessions"]

# Of so many writes of a process, one does not use what is remembered, and so notices whether there is anything to free.
_LOOKS = 64
# After another process wrote to a session, so many writes to it do not use what is remembered.
_CONTESTED = 32
# How long, in seconds, a call waits for a mirror that another thread changes, before it reads the whole session: longer
# than a write takes on a busy machine, and far less than that thread may have to wait for another process. And which
# part of a shorter timeout, so that those who queue behind it are not kept for theirs.
_PATIENCE, _SHARE = 0.25, 0.25


class MirroredSessions:
    """Reads and writes of single sessions.

    Args:
        transactions: Those of the file.
        mirrors: What the process remembers.
        clock: Gives the time in seconds since the epoch.
        timeout: How long, in seconds, a verb waits for other processes.
    """

    def __init__(
        self, transactions: Transactions, mirrors: Mirrors, clock: Callable[[], float], timeout: float
    ) -> None:
        self._transactions = transactions
        self._mirrors = mirrors
        self._clock = clock
        self._patience = min(_PATIENCE, _SHARE * timeout)
        self._writes = 0

    def read(self, key: SessionKey, query: Query) -> Snapshot | None:
        """What a read that has nothing to record answers; None if its use has to be recorded."""
        began = looked = self._mirrors.moment()
        until = time.monotonic() + self._patience
        while True:
            now = self._clock()
            found = self._find(key, now)
            row = found.row
            if row is None:
                self._remember(key, None, began)
                return Snapshot(now, found.fence)
            if query.lease is not None and row.is_due(now, query.lease):
                return None
            known = self._mirrors.answer(key, row, query, now, found.fence, began, until)
            if known is not None:
                return known
            if time.monotonic() >= until or not self._mirrors.is_changing(key, looked):
                break
            looked = self._mirrors.moment()
        try:
            snapshot, mirror = self._transactions.read(lambda connection: self._read(connection, key, query))
            self._remember(key, mirror, began)
        except BaseException:
            self._mirrors.drop(*key)  # As in `write`.
            raise
        return snapshot

    def _remember(self, key: SessionKey, mirror: Mirror | None, began: int) -> None:
        """Remember a session as a read that began then found it, or nothing of one that ended (None)."""
        if mirror is None:
            self._mirrors.drop(*key)
        else:
            self._mirrors.put(key, mirror, began)

    def _find(self, key: SessionKey, now: float) -> Found:
        """Find a session, outside of any transaction."""
        return self._transactions.outside(lambda connection: find_session(connection, TO_READ, key, now))

    def read_as_use(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session, and record the use; waits like a write."""
        began = self._mirrors.moment()
        try:
            snapshot, mirror = self._transactions.write(
                lambda connection: self._read(connection, key, query, query.lease)
            )
            self._remember(key, mirror, began)
        except BaseException:
            self._mirrors.drop(*key)  # As in `write`.
            raise
        return snapshot

    def _read(
        self, connection: sqlite3.Connection, key: SessionKey, query: Query, used: Lease | None = None
    ) -> tuple[Snapshot, Mirror | None]:
        """Read parts of one session in a transaction, record the use under a lease, and bring its mirror up to date."""
        now = self._clock()
        found = find_session(connection, TO_READ, key, now)
        if found.row is None:
            return Snapshot(now, found.fence), None
        if used is not None and used.is_past_max_age(found.row.created, now):
            freeing.free_session(connection, name_of(key))
            return Snapshot(now, found.fence), None
        mirror = load(connection, found.row, self._mirrors.take(key))
        mirror.fence, mirror.until = found.fence, found.until
        if used is not None:
            connection.execute(*renewal(mirror, used, now))
        snapshot = mirror.answer(query, now, found.fence)
        for each in mirror.unloaded.intersection(snapshot.blobs):
            blob = snapshot.blobs[each]._replace(payload=large_payload(connection, mirror, each))
            snapshot.blobs = {**snapshot.blobs, each: blob}
            mirror.remember_payload(each, blob)
        return snapshot, mirror

    def write(self, key: SessionKey, change: Change) -> tuple[Outcome, int]:
        """Change one session; gives the outcome, and the deletion to be wiped or 0."""
        try:
            self._transactions.line_up()
            began = self._mirrors.moment()
            outcome = self._swapped(key, change, began)
            if outcome is not None:
                return outcome, 0
            outcome, unwiped, mirror = self._transactions.transact(
                lambda connection: self._write(connection, key, change)
            )
            if mirror is not None:
                self._mirrors.put(key, mirror, began)
        except BaseException:
            self._mirrors.drop(*key)  # It may have been taken, and nobody shall wait for it.
            raise
        finally:
            self._transactions.leave()
        return outcome, unwiped

    def _swapped(self, key: SessionKey, change: Change, began: int) -> Outcome | None:
        """Change one session as planned on its mirror; None if that is absent or outdated, or the change is refused."""
        now = self._clock()
        self._writes += 1
        if not self._writes % _LOOKS:
            return None
        mirror = self._mirrors.take(key, time.monotonic() + self._patience)
        if mirror is None:
            return None
        if mirror.contested:
            mirror.contested -= 1
        if mirror.contested or mirror.row.is_expired(now) or change.lease.is_past_max_age(mirror.row.created, now):
            self._mirrors.put(key, mirror)
            return None
        done = plan_append(mirror, change, now)
        if done is None:
            if refusal(mirror.session, change, mirror.fence_at(now)) is not None:
                self._mirrors.put(key, mirror)
                return None
            done = plan_change(mirror, change, now)
        outcome, statements = done
        if not self._transactions.swap(statements):
            # Another process wrote meanwhile: the next writes look at the row first.
            self._mirrors.put(key, Mirror(Row.new(0, now), contested=_CONTESTED))
            return None
        self._mirrors.put(key, mirror, began)
        return outcome

    def _write(
        self, connection: sqlite3.Connection, key: SessionKey, change: Change
    ) -> tuple[Outcome, int, Mirror | None]:
        """Change one session within a transaction; gives the outcome, the deletion to be wiped or 0, and the mirror."""
        now = self._clock()
        found = find_session(connection, TO_WRITE, key, now)
        mirror = None
        aged = found.row is not None and change.lease.is_past_max_age(found.row.created, now)
        if found.row is None or aged:
            self._mirrors.drop(*key)
        else:
            mirror = load(connection, found.row, self._mirrors.take(key))
            mirror.fence, mirror.until = found.fence, found.until
        refused = refusal(None if mirror is None else mirror.session, change, found.fence)
        if refused is not None:
            return refused, found.unwiped, mirror
        if found.litter:
            freeing.free_some(connection, now)
        if mirror is None:
            if found.litter or aged:
                freeing.free_session(connection, name_of(key))
            row = Row.new(max(found.newest + 1, generation_at(now)), now)
            create(connection, row, key)
            mirror = Mirror(row)
            mirror.fence, mirror.until = found.fence, found.until
        outcome, statements = plan_change(mirror, change, now, force=True)
        for statement in statements:
            connection.execute(*statement)
        return outcome, found.unwiped, mirror
