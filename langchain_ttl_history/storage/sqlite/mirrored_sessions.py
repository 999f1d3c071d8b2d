"""One session read or changed in the file, with its mirror kept as the file is.

    a read    look at the row; is it that of the mirror?  yes: answer from the mirror
                                                          no:  in a transaction, read what is new, or all
              (where the use moves the deadline, in a transaction that writes)

    a write   plan it on the mirror, and do one statement:
              UPDATE sessions SET ... WHERE head = (as in the mirror) ...; did a row change?  yes: done
              no:  in a transaction, look at the row, read what is new, plan on that, and write

A thread that plans a write takes the mirror, and puts it back as the file is then. Others wait for it a little. If the
thread fails it throws the mirror away, so that nobody waits for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import NamedTuple

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
from langchain_ttl_history.storage.sqlite.updates import Statement
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

    # Reading

    def read(self, key: SessionKey, query: Query) -> Snapshot | None:
        """What a read that has nothing to record answers; None if its use has to be recorded."""
        began = looked = self._mirrors.moment()
        wait_until = time.monotonic() + self._patience
        while True:
            now = self._clock()
            found = self._find(key, now)
            if found.row is None:
                self._mirrors.drop(*key)
                return Snapshot(now, found.fence.generation)
            if query.lease is not None and found.row.is_due(now, query.lease):
                return None
            known = self._mirrors.answer(key, found.row, query, now, found.fence.generation, began, wait_until)
            if known is not None:
                return known
            if time.monotonic() >= wait_until or not self._mirrors.is_changing(key, looked):
                return self._read_file(self._transactions.read, key, query, None, began)
            # Another thread put back what this row is too old for, or is about to: look at the row again.
            looked = self._mirrors.moment()

    def _find(self, key: SessionKey, now: float) -> Found:
        """Find a session, outside of any transaction."""
        return self._transactions.outside(lambda connection: find_session(connection, TO_READ, key, now))

    def read_as_use(self, key: SessionKey, query: Query) -> Snapshot:
        """Read parts of one session, and record the use; waits like a write."""
        return self._read_file(self._transactions.write, key, query, query.lease, self._mirrors.moment())

    def _read_file(
        self,
        transact: Callable[[Callable[[sqlite3.Connection], _Read]], _Read],
        key: SessionKey,
        query: Query,
        used: Lease | None,
        began: int,
    ) -> Snapshot:
        """Read parts of one session from the file, and remember it.

        Args:
            transact: Does this in one transaction.
            key: The session.
            query: What is asked for.
            used: The lease under which this is a use to be recorded; None if it is not.
            began: The moment at which the read began.
        """
        try:
            snapshot, mirror = transact(lambda connection: self._read(connection, key, query, used))
            if mirror is None:
                self._mirrors.drop(*key)
            else:
                self._mirrors.put(key, mirror, began)
        except BaseException:  # Nobody shall wait for a mirror that this thread has taken.
            self._mirrors.drop(*key)
            raise
        return snapshot

    def _read(self, connection: sqlite3.Connection, key: SessionKey, query: Query, used: Lease | None) -> _Read:
        """What `_read_file` does in its transaction."""
        now = self._clock()
        found = find_session(connection, TO_READ, key, now)
        if found.row is None:
            return _Read(Snapshot(now, found.fence.generation), None)
        if used is not None and used.is_past_max_age(found.row.created, now):
            freeing.free_session(connection, name_of(key))
            return _Read(Snapshot(now, found.fence.generation), None)
        mirror = self._loaded(connection, key, found, found.row)
        if used is not None:
            connection.execute(*renewal(mirror, used, now))
        snapshot = mirror.answer(query, now, found.fence.generation)
        for name in mirror.unloaded.intersection(snapshot.blobs):
            blob = snapshot.blobs[name]._replace(payload=large_payload(connection, mirror, name))
            snapshot.blobs = {**snapshot.blobs, name: blob}
            mirror.remember_payload(name, blob)
        return _Read(snapshot, mirror)

    def _loaded(self, connection: sqlite3.Connection, key: SessionKey, found: Found, row: Row) -> Mirror:
        """The mirror of a session that was found, as the file is."""
        mirror = load(connection, row, self._mirrors.take(key))
        mirror.fence = found.fence
        return mirror

    # Writing

    def write(self, key: SessionKey, change: Change) -> tuple[Outcome, int]:
        """Change one session; gives the outcome, and the deletion to be wiped or 0."""
        try:
            self._transactions.line_up()
            began = self._mirrors.moment()
            outcome = self._write_as_planned(key, change, began)
            if outcome is not None:
                return outcome, 0
            written = self._transactions.transact(lambda connection: self._write(connection, key, change))
            if written.mirror is not None:
                self._mirrors.put(key, written.mirror, began)
        except BaseException:  # Nobody shall wait for a mirror that this thread has taken.
            self._mirrors.drop(*key)
            raise
        finally:
            self._transactions.leave()
        return written.outcome, written.unwiped

    def _write_as_planned(self, key: SessionKey, change: Change, began: int) -> Outcome | None:
        """Change one session as planned on its mirror; None, with nothing written, if the row has to be looked at."""
        now = self._clock()
        mirror = self._take_to_plan_on(key, change, now)
        if mirror is None:
            return None
        planned = _planned(mirror, change, now)
        if planned is None:
            self._mirrors.put(key, mirror)
            return None
        outcome, statements = planned
        if not self._transactions.swap(statements):
            # Another process wrote meanwhile. This mirror is of no session, and only tells the next writes so.
            self._mirrors.put(key, Mirror(Row.new(0, now), contested=_CONTESTED))
            return None
        self._mirrors.put(key, mirror, began)
        return outcome

    def _take_to_plan_on(self, key: SessionKey, change: Change, now: float) -> Mirror | None:
        """Take the mirror of a session if a change can be planned on it; None if the row has to be looked at."""
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
        return mirror

    def _write(self, connection: sqlite3.Connection, key: SessionKey, change: Change) -> _Written:
        """Change one session as it is in the file, within a transaction."""
        now = self._clock()
        found = find_session(connection, TO_WRITE, key, now)
        mirror = None
        aged = found.row is not None and change.lease.is_past_max_age(found.row.created, now)
        if found.row is None or aged:
            self._mirrors.drop(*key)
        else:
            mirror = self._loaded(connection, key, found, found.row)
        refused = refusal(None if mirror is None else mirror.session, change, found.fence.generation)
        if refused is not None:
            return _Written(refused, found.unwiped, mirror)
        if found.litter:
            freeing.free_some(connection, now)
        if mirror is None:
            if found.litter or aged:
                freeing.free_session(connection, name_of(key))
            mirror = _created(connection, key, found, now)
        outcome, statements = plan_change(mirror, change, now, force=True)
        for statement in statements:
            connection.execute(*statement)
        return _Written(outcome, found.unwiped, mirror)


class _Read(NamedTuple):
    """What a read found, and the session's mirror; None if there is no session."""

    snapshot: Snapshot
    mirror: Mirror | None


class _Written(NamedTuple):
    """What became of a write in a transaction."""

    outcome: Outcome
    unwiped: int
    """The deletion to be wiped, or 0."""
    mirror: Mirror | None
    """The session's; None if there is no session."""


def _planned(mirror: Mirror, change: Change, now: float) -> tuple[Outcome, list[Statement]] | None:
    """Plan a change; None, with the mirror unchanged, if it is refused."""
    planned = plan_append(mirror, change, now)
    if planned is None and refusal(mirror.session, change, mirror.fence.at(now)) is None:
        planned = plan_change(mirror, change, now)
    return planned


def _created(connection: sqlite3.Connection, key: SessionKey, found: Found, now: float) -> Mirror:
    """The mirror of a session that is created now."""
    row = Row.new(max(found.newest + 1, generation_at(now)), now)
    create(connection, row, key)
    mirror = Mirror(row)
    mirror.fence = found.fence
    return mirror
