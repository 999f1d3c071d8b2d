"""Requests to Redis as values: what is sent, and how the answer is understood. No I/O here.

A verb is a plan: a generator that yields requests and is sent their answers, so that it is
written once for both colours. The scripts in ``lua/`` say what they take and answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import KEEP, Change, Lease, Outcome, Query, Snapshot, Status
from langchain_ttl_history.storage.redis_commands import Eval, Keys, Scan, Script, packed
from langchain_ttl_history.storage.redis_numbers import Known, References
from langchain_ttl_history.storage.redis_replies import Listed, listed, snapshot, stored

__all__ = [
    "Plan",
    "Settings",
    "delete",
    "everyone",
    "forget",
    "page",
    "read",
    "sweep",
    "usage",
    "write",
]

T = TypeVar("T")

# So many keys are looked at for a page of a scan.
_PAGE = 1000
_MICRO = 1_000_000


Plan = Generator["Eval | Scan", Any, T]

_READ, _WRITE, _DELETE, _LISTING, _SWEEP = map(Script.load, ("read", "write", "delete", "listing", "sweep"))


class Settings(NamedTuple):
    """What every request of a storage has in common."""

    keys: Keys
    numbers: References
    clock: Any = None
    """Gives the time instead of the server, in seconds."""

    @property
    def now(self) -> int:
        """The time for a script; -1 is the server's."""
        return -1 if self.clock is None else round(self.clock() * _MICRO)

    @property
    def margin(self) -> int:
        """By how many milliseconds keys outlive their deadlines where the time is not the server's."""
        return 0 if self.clock is None else 3_600_000


def read(to: Settings, key: SessionKey, query: Query) -> Plan[Snapshot]:
    """Read parts of one session."""
    keys, digest, ids = to.keys.of(key)
    over: list[str | int] = []
    for name, most in query.outline_over.items():
        over += (name, most)
    marked_list, marked_blob = query.after_mark or ("", "")
    idle, age = (-2, -1) if query.lease is None else _times(query.lease)
    arguments = [
        digest, to.now, to.margin, idle, age, query.outline, query.names, "".join(query.follow), marked_list,
        marked_blob, over,
    ]  # fmt: skip
    reply = yield Eval(_READ, keys, [packed(arguments), ids])
    found, known = snapshot(reply)
    to.numbers.learn(key, known)
    return found


def write(to: Settings, key: SessionKey, change: Change) -> Plan[Outcome]:
    """Change one session."""
    request = secrets.token_urlsafe(6)
    known = to.numbers.of(key)
    reply = yield _write(to, key, change, request, known)
    if reply[0] == b"R":
        # What this process remembers is of a session that is no more.
        known = None
        reply = yield _write(to, key, change, request, known)
    outcome, numbers = stored(reply, change, _weighed(change))
    if outcome.status is Status.STORED:
        to.numbers.wrote(key, change, outcome.generation, known, numbers)
    return outcome


def _write(to: Settings, key: SessionKey, change: Change, request: str, known: Known | None) -> Eval:
    keys, digest, ids = to.keys.of(key)
    guard = change.guard
    payloads = [blob.payload for blob in change.blobs.values()]
    payloads += [payload for _, payload, _ in change.append]
    payloads += [entry.payload for _, entry in change.place]
    runs: list[bytes] = []

    def refer(refs: Iterable[str]) -> list[Any]:
        return list(refs) if known is None else known.refer(refs, runs, 3)

    arguments = [
        digest, to.now, to.margin, *_times(change.lease), request, _own(change),
        change.upkeep, change.new, _number(change.at_position), _number(change.at_generation),
        _number(guard.generation), guard.needs or "",
        -1 if known is None else known.generation, -1 if known is None else known.epoch,
        [(name, blob.mark, blob.also, refer(blob.refs)) for name, blob in change.blobs.items()],
        [(name, refer(refs)) for name, _, refs in change.append],
        [(name, entry.position, refer(entry.refs)) for name, entry in change.place],
        tuple(change.drop),
        [(name, tuple(positions)) for name, positions in change.trim.items()],
        _weighed(change),
    ]  # fmt: skip
    arguments.append(len(runs))
    return Eval(_WRITE, keys, [packed(arguments), ids, *runs, *payloads])


def delete(to: Settings, key: SessionKey, tombstone_ttl: float) -> Plan[int]:
    """Delete a session."""
    keys, digest, _ = to.keys.of(key)
    count: int = yield _deletion(to, keys, [digest], tombstone_ttl, secrets.token_urlsafe(6), whole=False)
    to.numbers.forget(key)
    return count


def forget(to: Settings, user_id: str, tombstone_ttl: float) -> Plan[int]:
    """Delete all of a user's sessions. The script is told their keys, so they are looked up first."""
    user = to.keys.user(user_id)
    digests: list[str] = []
    request = secrets.token_urlsafe(6)
    while True:
        keys = [user, *(to.keys.session(user, digest) for digest in digests)]
        reply = yield _deletion(to, keys, digests, tombstone_ttl, request, whole=True)
        if isinstance(reply, int):
            return reply
        digests = [each.decode() for each in reply]


def _deletion(
    to: Settings, keys: Sequence[bytes], digests: Sequence[str], standing: float, request: str, *, whole: bool
) -> Eval:
    arguments = [to.now, to.margin, round(standing * _MICRO), request, whole, digests]
    return Eval(_DELETE, keys, [packed(arguments)])


def page(to: Settings, user_id: str, after: str | None) -> Plan[tuple[list[SessionKey], str | None]]:
    """A page of a user's sessions, least recently used first."""
    found, after = yield from _listing(to, to.keys.user(user_id), after)
    return _sorted(found), after


def everyone(to: Settings, after: str | None) -> Plan[tuple[list[SessionKey], str | None]]:
    """A page of everyone's sessions: those of the users whose keys one page of a scan finds."""
    users, after = yield Scan(to.keys.users, after, _PAGE)
    found: list[Listed] = []
    for user in users:
        found += yield from _every(to, user)
    return _sorted(found), after


def usage(to: Settings) -> Plan[tuple[int, int]]:
    """How many sessions there are, and how many bytes they hold."""
    sessions = size = 0
    for user in (yield from _users(to)):
        for each in (yield from _every(to, user, over=True)):
            sessions += 1
            size += each.bytes
    return sessions, size


def sweep(to: Settings) -> Plan[int]:
    """Free what is over. Returns how many sessions that were."""
    freed = 0
    for user in (yield from _users(to)):
        after: str | None = None
        while True:
            found, after = yield from _listing(to, user, after, over=True)
            digests = [each.digest for each in found if each.is_over]
            keys = [user, *(to.keys.session(user, digest) for digest in digests)]
            freed += yield Eval(_SWEEP, keys, [packed([to.now, to.margin, digests])])
            if after is None:
                break
    return freed


def _users(to: Settings) -> Plan[set[bytes]]:
    """The keys of all users."""
    users: set[bytes] = set()
    after: str | None = None
    while True:
        found, after = yield Scan(to.keys.users, after, _PAGE)
        users.update(found)
        if after is None:
            return users


def _every(to: Settings, user: bytes, *, over: bool = False) -> Plan[list[Listed]]:
    """All pages of a user's sessions."""
    every: list[Listed] = []
    after: str | None = None
    while True:
        found, after = yield from _listing(to, user, after, over=over)
        every += found
        if after is None:
            return every


def _listing(
    to: Settings, user: bytes, after: str | None, *, over: bool = False
) -> Plan[tuple[list[Listed], str | None]]:
    reply = yield Eval(_LISTING, [user], [packed([to.now, after or "0", over])])
    return listed(reply)


def _sorted(found: Iterable[Listed]) -> list[SessionKey]:
    # A scan may tell the same twice.
    return list(dict.fromkeys(each.key for each in sorted(found, key=lambda each: each.used)))


def _times(lease: Lease) -> tuple[int, int]:
    """Idle time and maximal age in microseconds; -1 is unbounded."""
    idle, age = lease
    return -1 if idle is None else round(idle * _MICRO), -1 if age is None else round(age * _MICRO)


def _own(change: Change) -> int:
    own = change.idle_ttl
    if own is KEEP:
        return -1
    return 1 if own is None else max(2, round(own * _MICRO))


def _number(value: int | None) -> int:
    return -1 if value is None else value


def _weighed(change: Change) -> list[str]:
    """The lists that a change touches; what is dropped may be a blob."""
    names = dict.fromkeys(name for name, _, _ in change.append)
    names.update(dict.fromkeys(name for name, _ in change.place))
    names.update(dict.fromkeys(change.trim))
    return list(names)
