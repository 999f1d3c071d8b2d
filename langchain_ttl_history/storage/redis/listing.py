"""Which sessions there are in Redis, page by page, and how much they are. No I/O here.

A user's hash lists the user's sessions; what lists all users is a scan of the server's keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, NamedTuple

from langchain_ttl_history.encoding.records import decoder
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.storage.redis.commands import Eval, Scan, Script, packed
from langchain_ttl_history.storage.redis.damage import shown
from langchain_ttl_history.storage.redis.layout import pairs
from langchain_ttl_history.storage.redis.plans import Context, Plan
from langchain_ttl_history.storage.types import UnreadablePageError, Usage
from langchain_ttl_history.storage.unread import warn_of

__all__ = ["Listed", "Listing", "everyone", "listing_of", "page", "unreadable", "usage", "users"]

_LISTING, _SIZES = Script.load("listing", "tolerant"), Script.load("sizes", "tolerant")
# How many keys a server looks at for a page of a scan.
_SCANNED = 1000
# Of how many sessions one request sums the bytes.
_SUMMED = 500
# How what lists a session begins: its last use, its deadline, and the length of the user id. The two ids follow.
_LISTED = Struct(">QQI")


class Listed(NamedTuple):
    """A session as its user's hash lists it; times are microseconds since the epoch."""

    digest: str
    used: int
    is_expired: bool
    key: SessionKey


class Listing(NamedTuple):
    """Sessions of a user, and what cannot be read of how they are listed."""

    found: list[Listed]
    unread: list[CorruptRecordError]
    after: str | None
    """Where the next page begins; None after the last."""


# Verbs


def page(context: Context, user_id: str, after: str | None) -> Plan[tuple[list[SessionKey], str | None]]:
    """A page of a user's sessions, least recently used first."""
    listing = yield from listing_of(context, context.keys.user(user_id), after)
    return _page(listing)


def everyone(context: Context, after: str | None) -> Plan[tuple[list[SessionKey], str | None]]:
    """A page of everyone's sessions: those of the users whose keys one page of a scan finds."""
    keys, after = yield Scan(context.keys.users, after, _SCANNED)
    found: list[Listed] = []
    unread: list[CorruptRecordError] = []
    for user in keys:
        found += yield from _every(context, user, unread)
    return _page(Listing(found, unread, after))


def usage(context: Context) -> Plan[Usage]:
    """How many sessions there are, and how many bytes they hold."""
    sessions = size = 0
    unread: list[CorruptRecordError] = []
    for user in (yield from users(context)):
        found = yield from _every(context, user, unread, with_expired=True)
        for start in range(0, len(found), _SUMMED):
            some = found[start : start + _SUMMED]
            keys = [user, *(context.keys.session(user, each.digest) for each in some)]
            total, *places = yield Eval(_SIZES, keys, [])
            unread += unreadable(some, keys, places)
            sessions += len(some) - len(places)
            size += int.from_bytes(total, "big")
    warn_of("stats()", unread)
    return Usage(sessions, size)


# Their parts


def users(context: Context) -> Plan[set[bytes]]:
    """The keys of all users."""
    keys: set[bytes] = set()
    after: str | None = None
    while True:
        found, after = yield Scan(context.keys.users, after, _SCANNED)
        keys.update(found)
        if after is None:
            return keys


def _every(
    context: Context, user: bytes, unread: list[CorruptRecordError], *, with_expired: bool = False
) -> Plan[list[Listed]]:
    """All pages of a user's sessions; what cannot be read is added to `unread`."""
    every: list[Listed] = []
    after: str | None = None
    while True:
        try:
            found, damaged, after = yield from listing_of(context, user, after, with_expired=with_expired)
        except CorruptRecordError as error:
            unread.append(error)
            return every
        every += found
        unread += damaged
        if after is None:
            return every


def listing_of(context: Context, user: bytes, after: str | None, *, with_expired: bool = False) -> Plan[Listing]:
    """A page of the sessions that the key of a user lists."""
    reply = yield Eval(_LISTING, [user], [packed([context.now, after or "0", with_expired])])
    return _listing_in(reply, user)


def _listing_in(reply: Sequence[Any], user: bytes) -> Listing:
    """Parse the reply of `listing.lua` about the key of a user."""
    now = int.from_bytes(reply[1], "big")
    found: list[Listed] = []
    unread: list[CorruptRecordError] = []
    for digest, entry in pairs(reply[2:]):
        try:
            found.append(_listed_in(digest, entry, now))
        except CorruptRecordError as error:
            unread.append(CorruptRecordError(f"{error}, in field {shown(b's' + digest)} of key {shown(user)}"))
    after = reply[0].decode()
    return Listing(found, unread, None if after == "0" else after)


@decoder("what lists a session")
def _listed_in(digest: bytes, entry: bytes, now: int) -> Listed:
    if len(entry) < _LISTED.size:
        raise CorruptRecordError("what lists a session is cut off")
    used, deadline, length = _LISTED.unpack_from(entry)
    user_id, session_id = entry[_LISTED.size : _LISTED.size + length], entry[_LISTED.size + length :]
    key = SessionKey(_text(user_id), _text(session_id))
    if key.digest.encode() != digest:
        raise CorruptRecordError(f"what lists a session, perhaps {label(key)}, is not what was written")
    return Listed(key.digest, used, bool(deadline) and deadline <= now, key)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _page(listing: Listing) -> tuple[list[SessionKey], str | None]:
    # A scan may return a session twice.
    keys = list(dict.fromkeys(each.key for each in sorted(listing.found, key=lambda each: each.used)))
    if listing.unread:
        raise UnreadablePageError(listing.unread, keys, listing.after)
    return keys, listing.after


def unreadable(
    sessions: Sequence[Listed], keys: Sequence[bytes], places: Iterable[int]
) -> Iterable[CorruptRecordError]:
    """Errors about the sessions whose keys, behind the user's, are at these places, counted from 1."""
    for place in places:
        name = shown(keys[place - 1])
        yield CorruptRecordError(f"{label(sessions[place - 2].key)}: key {name} is damaged, or holds something else")
