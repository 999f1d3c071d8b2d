"""Requests to Redis as values: what is sent, and how the answer is understood. No I/O here.

A verb is a plan: a generator that yields requests and is sent their answers, so that it is written once for
sync and async. The headers of the scripts in ``lua/`` describe their arguments and replies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.storage.redis import writes
from langchain_ttl_history.storage.redis.commands import Eval, Keys, Scan, Script, packed, request_id
from langchain_ttl_history.storage.redis.damage import shown
from langchain_ttl_history.storage.redis.layout import MICRO
from langchain_ttl_history.storage.redis.mirror import NOTHING, Mirrors
from langchain_ttl_history.storage.redis.names import short_name
from langchain_ttl_history.storage.redis.numbers import NumbersCache
from langchain_ttl_history.storage.redis.replies import (
    Listed,
    Listing,
    is_completed,
    parse_listing,
    parse_read,
    parse_write,
)
from langchain_ttl_history.storage.types import Change, Outcome, Query, Snapshot, UnreadablePageError, Usage
from langchain_ttl_history.storage.unread import warn_of

__all__ = [
    "Context",
    "Plan",
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

# How many keys a server looks at for a page of a scan.
_SCANNED = 1000


Plan: TypeAlias = Generator["Eval | Scan", Any, T]

_READ = Script.load("read", "deadlines", "layout", "list_reads", "remembered")
_DELETE, _SWEEP, _LISTING, _SIZES = [Script.load(name, "tolerant") for name in ("delete", "sweep", "listing", "sizes")]
# The answer of write.lua to a write that it leaves to change.lua.
_REFUSED = b"R"
# Of how many sessions one request sums the bytes.
_WEIGHED = 500


class Context(NamedTuple):
    """What every request of a storage has in common."""

    keys: Keys
    numbers: NumbersCache
    mirrors: Mirrors
    clock: Callable[[], float] | None = None
    """Gives the time instead of the server, in seconds."""

    @property
    def now(self) -> int:
        """The time for a script; -1 is the server's."""
        return -1 if self.clock is None else round(self.clock() * MICRO)

    @property
    def margin(self) -> int:
        """By how many milliseconds keys outlive their deadlines where the time is not the server's."""
        # Longer than any step in which a machine's clock is set: the server must end nothing that this clock has not.
        return 0 if self.clock is None else 365 * 86_400_000


def read(context: Context, key: SessionKey, query: Query) -> Plan[Snapshot]:
    """Read parts of one session."""
    address = context.keys.of(key)
    outline_over: list[str | int] = []
    for name, most in query.outline_over.items():
        outline_over += (short_name(name), most)
    marked_list, marked_blob = query.after_mark or ("", "")
    idle, age = (-2, -1) if query.lease is None else writes.times(query.lease)
    arguments = [
        address.digest, context.now, context.margin, idle, age, query.outline,
        [short_name(name) for name in query.names], query.follow,
        short_name(marked_list), short_name(marked_blob), outline_over,
    ]  # fmt: skip
    deletions, mirror = context.mirrors.deletions, context.mirrors.of(key)
    remembered = NOTHING if mirror is None else mirror.remembered()
    reply = yield Eval(_READ, address.keys, [packed([*arguments, *remembered[:4]]), address.ids])
    if mirror is not None and not is_completed(reply, mirror, remembered.by):
        mirror, remembered = None, NOTHING
        reply = yield Eval(_READ, address.keys, [packed([*arguments, *remembered[:4]]), address.ids])
    found, known, seen = parse_read(reply, query, mirror, remembered)
    context.numbers.learn(key, known)
    context.mirrors.after_read(key, seen, deletions)
    return found


def write(context: Context, key: SessionKey, change: Change) -> Plan[Outcome]:
    """Change one session."""
    envelope = writes.Envelope(context.keys.of(key), context.now, context.margin, request_id())
    known = context.numbers.of(key)
    # Looked up once: another thread may begin to drop something else before the answer arrives.
    dropping = ("", frozenset[str]()) if known is None else known.dropping
    planned = None
    if known is not None:  # Otherwise there may be no such session, and write.lua cannot create it.
        planned = writes.by_number(envelope, change, known, dropping)
    reply = _REFUSED if planned is None else (yield planned)
    gone: Collection[str] = dropping[1] if reply != _REFUSED else ()
    if reply == _REFUSED:
        if change.drop and known is not None:
            known.dropping = envelope.request, frozenset(change.drop)
        reply = yield writes.by_name(envelope, change)
    outcome, told = parse_write(reply, change, writes.weighed(change))
    if told is not None:
        if gone and known is not None:
            context.numbers.learn(key, told.known, gone, known.epoch)
        else:
            context.numbers.learn(key, told.known, change.drop, told.epoch)
        context.mirrors.after_write(key, told, change)
    return outcome


def delete(context: Context, key: SessionKey, tombstone_ttl: float) -> Plan[int]:
    """Delete a session."""
    address = context.keys.of(key)
    count: int = yield _deletion(context, address.keys, [address.digest], tombstone_ttl, request_id(), whole=False)
    context.numbers.forget(*key)
    context.mirrors.forget(*key)
    return count


def forget(context: Context, user_id: str, tombstone_ttl: float) -> Plan[int]:
    """Delete all of a user's sessions. The script must be given their keys, so those are looked up first."""
    user = context.keys.user(user_id)
    digests: list[str] = []
    request = request_id()
    while True:
        keys = [user, *(context.keys.session(user, digest) for digest in digests)]
        reply = yield _deletion(context, keys, digests, tombstone_ttl, request, whole=True)
        if isinstance(reply, int):
            context.numbers.forget(user_id, None)
            context.mirrors.forget(user_id, None)
            return reply
        digests = [each.decode() for each in reply]


def _deletion(
    context: Context, keys: Sequence[bytes], digests: Sequence[str], standing: float, request: str, *, whole: bool
) -> Eval:
    arguments = [context.now, context.margin, writes.micro(standing), request, whole, digests]
    return Eval(_DELETE, keys, [packed(arguments)])


def page(context: Context, user_id: str, after: str | None) -> Plan[tuple[list[SessionKey], str | None]]:
    """A page of a user's sessions, least recently used first."""
    listing = yield from _listing(context, context.keys.user(user_id), after)
    return _page(listing)


def everyone(context: Context, after: str | None) -> Plan[tuple[list[SessionKey], str | None]]:
    """A page of everyone's sessions: those of the users whose keys one page of a scan finds."""
    users, after = yield Scan(context.keys.users, after, _SCANNED)
    found: list[Listed] = []
    unread: list[CorruptRecordError] = []
    for user in users:
        found += yield from _every(context, user, unread)
    return _page(Listing(found, unread, after))


def usage(context: Context) -> Plan[Usage]:
    """How many sessions there are, and how many bytes they hold."""
    sessions = size = 0
    unread: list[CorruptRecordError] = []
    for user in (yield from _users(context)):
        found = yield from _every(context, user, unread, with_expired=True)
        for start in range(0, len(found), _WEIGHED):
            some = found[start : start + _WEIGHED]
            keys = [user, *(context.keys.session(user, each.digest) for each in some)]
            total, *places = yield Eval(_SIZES, keys, [])
            unread += _unreadable(some, keys, places)
            sessions += len(some) - len(places)
            size += int.from_bytes(total, "big")
    warn_of("stats()", unread)
    return Usage(sessions, size)


def sweep(context: Context) -> Plan[int]:
    """Free what expired. Returns how many sessions that were."""
    freed = 0
    unread: list[CorruptRecordError] = []
    for user in (yield from _users(context)):
        try:
            freed += yield from _sweep_user(context, user, unread)
        except CorruptRecordError as error:
            unread.append(error)
    warn_of("sweep()", unread)
    return freed


def _sweep_user(context: Context, user: bytes, unread: list[CorruptRecordError]) -> Plan[int]:
    freed: int = 0
    after: str | None = None
    while True:
        listing = yield from _listing(context, user, after, with_expired=True)
        expired = [each for each in listing.found if each.is_expired]
        digests = [each.digest for each in expired]
        keys = [user, *(context.keys.session(user, digest) for digest in digests)]
        count, places, stones = yield Eval(_SWEEP, keys, [packed([context.now, digests])])
        freed += count
        unread += listing.unread
        unread += _unreadable(expired, keys, places)
        for field in stones:
            unread.append(CorruptRecordError(f"a tombstone is damaged, in field {shown(field)} of key {shown(user)}"))
        after = listing.after
        if after is None:
            return freed


def _unreadable(
    sessions: Sequence[Listed], keys: Sequence[bytes], places: Iterable[int]
) -> Iterable[CorruptRecordError]:
    """Errors about the sessions whose keys, behind the user's, are at these places, counted from 1."""
    for place in places:
        name = shown(keys[place - 1])
        yield CorruptRecordError(f"{label(sessions[place - 2].key)}: key {name} is damaged, or holds something else")


def _users(context: Context) -> Plan[set[bytes]]:
    """The keys of all users."""
    users: set[bytes] = set()
    after: str | None = None
    while True:
        found, after = yield Scan(context.keys.users, after, _SCANNED)
        users.update(found)
        if after is None:
            return users


def _every(
    context: Context, user: bytes, unread: list[CorruptRecordError], *, with_expired: bool = False
) -> Plan[list[Listed]]:
    """All pages of a user's sessions; what cannot be read is added to `unread`."""
    every: list[Listed] = []
    after: str | None = None
    while True:
        try:
            found, damaged, after = yield from _listing(context, user, after, with_expired=with_expired)
        except CorruptRecordError as error:
            unread.append(error)
            return every
        every += found
        unread += damaged
        if after is None:
            return every


def _listing(context: Context, user: bytes, after: str | None, *, with_expired: bool = False) -> Plan[Listing]:
    reply = yield Eval(_LISTING, [user], [packed([context.now, after or "0", with_expired])])
    return parse_listing(reply, user)


def _page(listing: Listing) -> tuple[list[SessionKey], str | None]:
    # A scan may return a session twice.
    keys = list(dict.fromkeys(each.key for each in sorted(listing.found, key=lambda each: each.used)))
    if listing.unread:
        raise UnreadablePageError(listing.unread, keys, listing.after)
    return keys, listing.after
