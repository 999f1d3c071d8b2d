"""Plain data: values that MessagePack gives back exactly, and how to recognise them."""

from __future__ import annotations

from itertools import chain
from typing import Any

import ormsgpack

__all__ = ["OPTIONS", "SCALARS", "plainly"]

OPTIONS = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
"""Types that MessagePack would silently turn into others are passed to a hook instead of being packed natively."""
# Plain data has only strings as keys. With these options, only a bytearray or an extension would still be packed
# natively and come back as something else. Each begins with a byte of _SUSPECT; such bytes may occur elsewhere, too.
_PLAIN = OPTIONS & ~ormsgpack.OPT_NON_STR_KEYS
_SUSPECT = bytes((*range(0xC4, 0xCA), *range(0xD4, 0xD9)))
_TEXT = frozenset({str})
SCALARS = frozenset({type(None), bool, int, float, bytes, str})
"""The types of plain data that hold no other values."""
_PLAIN_KINDS = SCALARS | {list, dict}


def plainly(value: Any) -> bytes | None:
    """A value as bytes that are certain to come back exactly; None where only reading them back could tell."""
    try:
        packed = ormsgpack.packb(value, None, _PLAIN)
    except TypeError:
        return None
    return packed if len(packed.translate(None, _SUSPECT)) == len(packed) or _is_plain(value) else None


def _is_plain(value: Any) -> bool:
    """Whether a value is nothing but plain data."""
    level = [value]
    # Level by level, since a loop over each value in turn takes five times as long.
    while not SCALARS.issuperset(kinds := set(map(type, level))):
        if not _PLAIN_KINDS.issuperset(kinds):
            return False
        lists = [each for each in level if type(each) is list]
        dicts = [each for each in level if type(each) is dict]
        if not _TEXT.issuperset(map(type, chain.from_iterable(dicts))):
            return False
        level = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, dicts))]
    return True
