"""Names as Redis holds them: the ids and digests in them are shortened, mostly to half their length.

The first letter stays as it is, since scripts depend on it, and a shortened name is still text.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64, unhexlify
from functools import lru_cache

__all__ = ["full_name", "short_name"]

# How many results are cached of each function, since most names occur several times.
_MOST = 8192
# A UUID, a digest of 16 bytes and one of 12 are replaced by \1, \2 or \3 and their base64. A character from \1 to \4
# in the name itself is preceded by \4.
_PARTS = re.compile(
    "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})|([0-9a-f]{32})(?![0-9a-f-])|([0-9a-f]{24})|[\1-\4]"
)
_SHORT = re.compile("\1(.{22})|\2(.{22})|\3(.{16})|\4(.)", re.DOTALL)


@lru_cache(maxsize=_MOST)
def short_name(name: str) -> str:
    """The name as it is stored."""
    return name[:1] + _PARTS.sub(_shortened, name[1:])


@lru_cache(maxsize=_MOST)
def full_name(short: bytes) -> str:
    """The name that is stored as these bytes."""
    name = short.decode("utf-8", "surrogatepass")
    return name[:1] + _SHORT.sub(_restored, name[1:])


def _shortened(found: re.Match[str]) -> str:
    part = found[0]
    if not found.lastindex:
        return f"\4{part}"
    return chr(found.lastindex) + b2a_base64(unhexlify(part.replace("-", "")), newline=False).decode().rstrip("=")


def _restored(found: re.Match[str]) -> str:
    sort = found.lastindex or 0
    part: str = found[sort]
    if sort == 4:
        return part
    padding = "==" if sort < 3 else ""  # Of 16 bytes; 12 need none.
    digits = a2b_base64(part + padding).hex()
    if sort > 1:
        return digits
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
