"""Payloads as Redis holds them: words, ids and times in records are replaced by short codes.

Memory of the server is the main cost of sessions. Only records are shortened: blobs that refer to others, and
entries of lists. This takes a few microseconds. A real compression would save more, but takes longer, and
releases the interpreter lock, so that other threads would delay a write.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from langchain_ttl_history.errors import CorruptRecordError

__all__ = ["full_payload", "short_entry", "short_record"]

# Precedes every code: that of a word, or one of those below. This byte occurs in no UTF-8 text, and is no type of
# MessagePack.
_MARK = b"\xc1"
# Part of the stored format: add words at the end, never change or reorder them.
_WORDS = (
    b"\xb0channel_versions", b"\xadversions_seen", b"\xb0updated_channels", b"\xa9__start__", b"\xa9__input__\x80",
    b"branch:to:", b"\xa8messages", b"\xa1v\x04\xa2ts\xd9 ", b"+00:00\xa2id", b"\xa6source\xa4loop\xa4step",
    b"\xa6source\xa5input\xa4step", b"\xa7parents\x80", b"\xa7user_id", b"\xaasession_id", b"\xa9thread_id",
    b"\x92\x00\xc4\x01\xc0", b"\xa9__input__\x80\xa9__start__\x81\xa9__start__", b"\xa7parents\x80\xa7user_id",
    b"\xc0\xa8messages\xc3\x81\xa8messages\x93\x02\x00", b"\xc0\xa8messages\xc3\x82\xa8messages\x93\x02\x00",
    b"\xc0\xa8messages\xc3\x83\xa8messages\x93\x02\x00", b"~__pregel_pull, ",
    b"\x92\x93\x00\xa8messages\x93\x02\x00\x01\x93\x01",
)  # fmt: skip
# Longer words first, since they may contain shorter ones.
_CODES = sorted([(word, _MARK + bytes((code,))) for code, word in enumerate(_WORDS, 1)], key=lambda each: -len(each[0]))
# The words that occur in entries, which hold what tasks wrote.
_IN_ENTRIES = [(word, code) for word, code in _CODES if code[1] in {6, 7, 16, 22, 23}]
# Precedes an id of 16 bytes.
_ID = b"\xc1\0"
# Stands for the same id as the one before: a checkpoint names its run twice, and often its parent.
_AGAIN = b"\xc1\xfe"
# The start of a checkpoint of LangGraph's fourth format, up to its time; and the code for both, before 8 bytes of time.
_HEAD = b"\x9d\x01\x86\xa1v\x04\xa2ts\xd9 "
_TIMED_HEAD = b"\xc1\xfd"
_TIME = len("2026-11-26T03:49:55.277471")
_YEAR_1 = datetime(1, 1, 1, tzinfo=timezone.utc)
_UUID = re.compile(rb"\xd9\$([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_CODE = re.compile(rb"\xc1(?:\0(.{16})|\xfd(.{8})|(.)?)", re.DOTALL)
# Longer entries are stored as they are: the field for their original length has 16 bits.
_MOST = 0xFFFF


def short_record(payload: bytes) -> bytes | None:
    """The payload of a blob that refers to others, behind its length; None if it is to be stored as it is."""
    if _MARK in payload:
        return None
    head, rest = _timed_head(payload)
    short = head + _shortened(rest, _CODES)
    return len(payload).to_bytes(4, "big") + short if len(short) + 4 < len(payload) else None


def short_entry(payload: bytes) -> tuple[bytes, int]:
    """The payload of an entry as it is stored, and its length if it was shortened, otherwise 0."""
    if _MARK in payload or len(payload) > _MOST:
        return payload, 0
    short = _shortened(payload, _IN_ENTRIES)
    return short, len(payload) if len(short) < len(payload) else 0


def full_payload(short: bytes, size: int) -> bytes:
    """The payload that was shortened.

    Raises:
        CorruptRecordError: It is damaged.
    """
    last = ""

    def meaning(found: re.Match[bytes]) -> bytes:
        nonlocal last
        id, time, code = found.groups()
        if id is not None:
            digits = id.hex()
            last = f"\xd9${digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        elif time is not None:
            moment = _YEAR_1 + timedelta(microseconds=int.from_bytes(time, "big"))
            return _HEAD + moment.isoformat(timespec="microseconds").encode()[:_TIME]
        elif code != _AGAIN[1:]:
            return _WORDS[code[0] - 1]
        return last.encode("latin-1")

    try:
        payload = _CODE.sub(meaning, short)
    except (IndexError, TypeError, OverflowError) as error:
        raise CorruptRecordError("a payload is damaged: it has a code without a meaning") from error
    if len(payload) != size:
        raise CorruptRecordError(f"a payload is damaged: it is not the {size} bytes it was")
    return payload


def _shortened(payload: bytes, codes: Sequence[tuple[bytes, bytes]]) -> bytes:
    for word, code in codes:
        payload = payload.replace(word, code)
    last = b""

    def number(found: re.Match[bytes]) -> bytes:
        nonlocal last
        digits = found[1]
        if digits == last:
            return _AGAIN
        last = digits
        return _ID + unhexlify(digits.replace(b"-", b""))

    # Last, since in the bytes of an id there can be anything.
    return _UUID.sub(number, payload)


def _timed_head(payload: bytes) -> tuple[bytes, bytes]:
    """How a checkpoint begins, with its time, and the rest."""
    if not payload.startswith(_HEAD):
        return b"", payload
    end = len(_HEAD) + _TIME
    time = payload[len(_HEAD) : end]
    try:
        moment = datetime.fromisoformat(time.decode() + "+00:00")
        if moment.isoformat(timespec="microseconds").encode()[:_TIME] != time:
            return b"", payload
        number = (moment - _YEAR_1) // timedelta(microseconds=1)
    except (ValueError, TypeError):
        return b"", payload
    return _TIMED_HEAD + number.to_bytes(8, "big"), payload[end:]
