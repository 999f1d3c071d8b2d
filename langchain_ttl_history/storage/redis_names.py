"""Names as Redis holds them: the ids and digests in them take half as long as they are written.

The first letter stays what it is, since scripts go by it, and what comes of it is text still.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import b2a_base64, unhexlify
from functools import lru_cache

__all__ = ["full_name", "short_name"]

# So many names are remembered of each sort, since most are met several times.
_MOST = 8192
# Before each of them stands which it is; such a sign in a name stands behind a 4.
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
    digits = b64decode(part + "==" * (sort < 3)).hex()
    if sort > 1:
        return digits
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
