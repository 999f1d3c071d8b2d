"""What an object holds, to look for what must not be in it."""

from __future__ import annotations

from typing import Any


def everything_in(root: Any) -> list[bytes]:
    """Every string and byte string reachable from an object's data, as bytes."""
    found: list[bytes] = []
    seen: set[int] = set()
    todo: list[Any] = [root]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type) or callable(each):
            continue
        seen.add(id(each))
        if isinstance(each, str):
            found.append(each.encode("utf-8", "surrogatepass"))
        elif isinstance(each, bytes | bytearray | memoryview):
            found.append(bytes(each))
        elif isinstance(each, dict):
            todo += list(each.keys()) + list(each.values())
        elif hasattr(each, "__iter__") and hasattr(each, "__len__"):
            todo += list(each)
        if hasattr(each, "__dict__"):
            todo += list(vars(each).values())
        for slots in (getattr(cls, "__slots__", ()) for cls in type(each).__mro__):
            for name in (slots,) if isinstance(slots, str) else slots:
                todo.append(getattr(each, name, None))
    return found
