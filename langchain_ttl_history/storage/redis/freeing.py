"""Frees what is left in Redis of sessions that expired, which is what lists them, and tombstones that did. No I/O here.

The server frees a session by itself, since its key has a deadline.
"""

from __future__ import annotations

from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.redis.commands import Eval, Script, packed
from langchain_ttl_history.storage.redis.damage import shown
from langchain_ttl_history.storage.redis.listing import listing_of, unreadable, users
from langchain_ttl_history.storage.redis.plans import Context, Plan
from langchain_ttl_history.storage.unread import warn_of

__all__ = ["sweep"]

_SWEEP = Script.load("sweep", "tolerant")


def sweep(context: Context) -> Plan[int]:
    """Free what expired. Returns how many sessions that were."""
    freed = 0
    unread: list[CorruptRecordError] = []
    for user in (yield from users(context)):
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
        listing = yield from listing_of(context, user, after, with_expired=True)
        expired = [each for each in listing.found if each.is_expired]
        digests = [each.digest for each in expired]
        keys = [user, *(context.keys.session(user, digest) for digest in digests)]
        count, places, stones = yield Eval(_SWEEP, keys, [packed([context.now, digests])])
        freed += count
        unread += listing.unread
        unread += unreadable(expired, keys, places)
        for field in stones:
            unread.append(CorruptRecordError(f"a tombstone is damaged, in field {shown(field)} of key {shown(user)}"))
        after = listing.after
        if after is None:
            return freed
