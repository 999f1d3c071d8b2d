"""Payloads as Redis holds them: records lose the words and ids they repeat.

A server's memory is what sessions cost most. Records are what refers to others, and entries of lists.
This takes a few microseconds; a real compression would spare more, but takes longer, and lets go of the
interpreter, so that others come before a write.
"""

from __future__ import annotations

import re
from binascii import unhexlify

from langchain_ttl_history.errors import CorruptRecordError

__all__ = ["full_payload", "short_entry", "short_record"]

# What is in no text and no type of MessagePack stands before the code of a word, or 0 and an id.
_MARK = b"\xc1"
# What is stored was made with these very words in this very order: more may be added at the end.
_WORDS = (
    b"\xb0channel_versions", b"\xadversions_seen", b"\xb0updated_channels", b"\xa9__start__", b"\xa9__input__\x80",
    b"branch:to:", b"\xa8messages", b"\xa1v\x04\xa2ts\xd9 ", b"+00:00\xa2id", b"\xa6source\xa4loop\xa4step",
    b"\xa6source\xa5input\xa4step", b"\xa7parents\x80", b"\xa7user_id", b"\xaasession_id", b"\xa9thread_id",
    b"\x92\x00\xc4\x01\xc0",
)  # fmt: skip
_CODES = [(word, _MARK + bytes((code,))) for code, word in enumerate(_WORDS, 1)]
_ID = re.compile(rb"\xd9\$([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_CODE = re.compile(rb"\xc1(?:\0(.{16})|(.)?)", re.DOTALL)
# Entries of more bytes are stored as they are: their length as it was has 16 bits.
_MOST = 0xFFFF


def short_record(payload: bytes) -> bytes | None:
    """The payload of a blob that refers to others, behind its length; None if it is to be stored as it is."""
    if _MARK in payload:
        return None
    short = payload
    for word, code in _CODES:
        short = short.replace(word, code)
    short = _ID.sub(_number, short)
    return len(payload).to_bytes(4, "big") + short if len(short) + 4 < len(payload) else None


def short_entry(payload: bytes) -> tuple[bytes, int]:
    """The payload of an entry as it is stored, and its length if it was shortened, otherwise 0."""
    if _MARK in payload or len(payload) > _MOST:
        return payload, 0
    short = _ID.sub(_number, payload)
    return short, len(payload) if len(short) < len(payload) else 0


def full_payload(short: bytes, size: int) -> bytes:
    """The payload that was shortened.

    Raises:
        CorruptRecordError: It is damaged.
    """
    try:
        payload = _CODE.sub(_meaning, short)
    except (IndexError, TypeError) as error:
        raise CorruptRecordError("a payload is damaged: it has a code without a meaning") from error
    if len(payload) != size:
        raise CorruptRecordError(f"a payload is damaged: it is not the {size} bytes it was")
    return payload


def _number(found: re.Match[bytes]) -> bytes:
    return b"\xc1\0" + unhexlify(found[1].replace(b"-", b""))


def _meaning(found: re.Match[bytes]) -> bytes:
    raw = found[1]
    if raw is None:
        return _WORDS[found[2][0] - 1]
    digits = raw.hex()
    text = f"\xd9${digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    return text.encode("latin-1")
