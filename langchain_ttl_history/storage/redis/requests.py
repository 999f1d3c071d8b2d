"""Plans that read, change and delete sessions in Redis: what is sent, and what is learnt from the answer. No I/O here.

The headers of the scripts in ``lua/`` describe their arguments and replies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.redis import writes
from langchain_ttl_history.storage.redis.commands import Eval, Script, packed, request_id
from langchain_ttl_history.storage.redis.mirror import NOTHING
from langchain_ttl_history.storage.redis.names import short_name
from langchain_ttl_history.storage.redis.numbers import NOT_DROPPING, Dropping
from langchain_ttl_history.storage.redis.plans import Context, Plan
from langchain_ttl_history.storage.redis.replies import may_complete, parse_read, parse_write
from langchain_ttl_history.storage.types import Change, Outcome, Query, Snapshot

__all__ = ["delete", "forget", "read", "write"]

_READ = Script.load("read", "deadlines", "layout", "list_reads", "remembered")
_DELETE = Script.load("delete", "tolerant")
# The answer of write.lua to a write that it leaves to change.lua.
_REFUSED = b"R"


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
    if mirror is not None and not may_complete(reply, mirror, remembered.by):
        mirror, remembered = None, NOTHING
        reply = yield Eval(_READ, address.keys, [packed([*arguments, *remembered[:4]]), address.ids])
    snapshot, told, found = parse_read(reply, query, mirror, remembered)
    context.numbers.after_read(key, told)
    context.mirrors.after_read(key, found, deletions)
    return snapshot


def write(context: Context, key: SessionKey, change: Change) -> Plan[Outcome]:
    """Change one session: by number if `write.lua` can, otherwise by name."""
    envelope = writes.Envelope(context.keys.of(key), context.now, context.margin, request_id())
    known = context.numbers.of(key)
    # Looked up once: another thread may begin to drop something else before the answer arrives.
    dropping = NOT_DROPPING if known is None else known.dropping
    # Without known numbers there may be no such session, and write.lua cannot create it.
    by_number = None if known is None else writes.by_number(envelope, change, known, dropping)
    reply = _REFUSED if by_number is None else (yield by_number)
    dropped: Collection[str] = dropping.names
    if reply == _REFUSED:
        dropped = ()
        if change.drop and known is not None:
            known.dropping = Dropping(envelope.request, frozenset(change.drop))
        reply = yield writes.by_name(envelope, change)
    outcome, told = parse_write(reply, change, writes.weighed(change))
    if told is not None:
        if dropped and known is not None:
            # That request may have begun the epoch which is told. But for what it drops, numbers from before hold.
            context.numbers.after_write(key, told.known, dropped, known.epoch)
        else:
            context.numbers.after_write(key, told.known, change.drop, told.epoch)
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
