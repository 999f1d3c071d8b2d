"""Payloads as Redis holds them: shortened, since a server's memory is what sessions cost most.

Records, which refer to others or are entries of lists, lose the words and ids that programs' records
repeat; that takes a few microseconds and never the interpreter's lock away. Texts are compressed where
they are long enough to be worth it, and not so long that an event loop would wait for it.
"""

from __future__ import annotations

import re
import zlib

from langchain_ttl_history.errors import CorruptRecordError

__all__ = ["full_entry", "full_payload", "short_entry", "short_payload"]

# The lengths from and to which a text is compressed, if that spares a tenth of it.
_LEAST, _MOST = 1_000, 65_536
# The window of zlib, without header and checksum; the fastest level.
_WINDOW, _LEVEL = -15, 1
_TEXT, _RECORD = b"\0", b"\1"

# What is in no text and no type of MessagePack stands before the code of a word, or 0 and an id.
_MARK = b"\xc1"
# What is stored was made with these very words in this very order: more may be added at the end.
_WORDS = (
    b"\xb0channel_versions", b"\xadversions_seen", b"\xb0updated_channels", b"\xa9__start__", b"\xa9__input__\x80",
    b"branch:to:", b"\xa8messages", b"\xa1v\x04\xa2ts\xd9 ", b"+00:00\xa2id", b"\xa6source\xa4loop\xa4step",
    b"\xa6source\xa5input\xa4step", b"\xa7parents\x80", b"\xa7user_id", b"\xaasession_id", b"\xa9thread_id",
    b"\x92\x00\xc4\x01\xc0", b"\xa6run_id", b"\xaccheckpoint_", b"langgraph_", b"\xc0\xc0\xc0\xc0",
)  # fmt: skip
_CODES = [(word, _MARK + bytes((code,))) for code, word in enumerate(_WORDS, 1)]
_ID = re.compile(rb"\xd9\$([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})")
_CODE = re.compile(rb"\xc1(?:\0(.{16})|(.))", re.DOTALL)


def short_payload(payload: bytes, *, record: bool) -> bytes | None:
    """The payload of a blob, shortened and behind its length; None if it is to be stored as it is."""
    size = len(payload)
    if record:
        short = _record(payload)
        if short is None:
            return None
        sort = _RECORD
    else:
        if not _LEAST <= size <= _MOST:
            return None
        deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW)
        short, sort = deflate.compress(payload) + deflate.flush(), _TEXT
    return b"%b%b%b" % (size.to_bytes(4, "big"), sort, short) if 10 * len(short) < 9 * size else None


def full_payload(short: bytes) -> bytes:
    """The payload that was shortened.

    Raises:
        CorruptRecordError: It is damaged.
    """
    if short[4:5] == _RECORD:
        payload = full_entry(short[5:])
    else:
        inflate = zlib.decompressobj(_WINDOW)
        try:
            payload = inflate.decompress(short[5:]) + inflate.flush()
        except zlib.error as error:
            raise CorruptRecordError(f"a payload is damaged: {error}") from error
    if len(payload) != int.from_bytes(short[:4], "big"):
        raise CorruptRecordError("a payload is damaged: it is not as long as it was")
    return payload


def short_entry(payload: bytes) -> tuple[bytes, int]:
    """The payload of an entry as it is stored, and its length if it was shortened, otherwise 0."""
    short = _record(payload) if len(payload) <= 0xFFFF else None
    return (payload, 0) if short is None or len(short) >= len(payload) else (short, len(payload))


def full_entry(short: bytes) -> bytes:
    """The record that was shortened.

    Raises:
        CorruptRecordError: It is damaged.
    """
    try:
        return _CODE.sub(_meaning, short)
    except IndexError as error:
        raise CorruptRecordError("a payload is damaged: it has a code without a meaning") from error


def _record(payload: bytes) -> bytes | None:
    if _MARK in payload:
        return None
    for word, code in _CODES:
        payload = payload.replace(word, code)
    return _ID.sub(_number, payload)


def _number(found: re.Match[bytes]) -> bytes:
    return b"\xc1\0" + bytes.fromhex(b"".join(found.groups()).decode())


def _meaning(found: re.Match[bytes]) -> bytes:
    raw = found[1]
    if raw is None:
        return _WORDS[found[2][0] - 1]
    id = raw.hex()
    return f"\xd9${id[:8]}-{id[8:12]}-{id[12:16]}-{id[16:20]}-{id[20:]}".encode("latin-1")
