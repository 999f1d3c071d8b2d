r"""Plain data that MessagePack would refuse or change, spelled out as extensions.

```text
 {"a": (1, 2)}      {"a": (1, 2)}                          as it is: a tuple becomes an extension anyway
 "\ud800"           Ext(TEXT, ed a0 80)                    half of a surrogate pair, which UTF-8 refuses
 {"\ud800": 1}      Pairs([[Ext(TEXT, ed a0 80), 1]])      such a key makes the whole mapping a list of pairs
 {1: 2}             Pairs([[1, 2]])                        so does any that is not text
```

Packing a value as it is comes first, and is enough for nearly all. It is spelled out, at the cost of a copy, only where
that failed or did not come back the same (`Codec.dumps`), and where nobody would look again (the parts of an object).
"""

from __future__ import annotations

from typing import Any

import ormsgpack

from langchain_ttl_history.encoding.records import BYTEARRAY, INTEGER, spelled_text

__all__ = ["Pairs", "spelled"]


class Pairs(list[Any]):
    """A mapping as a list of pairs, to be packed as an extension."""


def spelled(value: Any) -> Any:
    """The value, with everything that MessagePack would refuse or change written as an extension."""
    kind = type(value)
    if kind is str:
        return spelled_text(value)
    if kind is int and not -(2**63) <= value < 2**64:
        return ormsgpack.Ext(INTEGER, str(value).encode())
    if kind is bytearray:
        return ormsgpack.Ext(BYTEARRAY, bytes(value))
    if kind is list:
        return [spelled(each) for each in value]
    if kind is dict:
        pairs = [[spelled(key), spelled(each)] for key, each in value.items()]
        if all(type(key) is str for key, _ in pairs):
            return dict(pairs)
        # A key that MessagePack cannot hold makes the whole mapping a list of pairs.
        return Pairs(pairs)
    if kind is tuple:
        return tuple(map(spelled, value))
    return value
