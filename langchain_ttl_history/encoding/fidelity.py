"""Whether a value comes back as it went in, types included, and which part of it does not.

`==` alone would not tell: `[True] == [1]`, and a NaN equals nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import date, time
from decimal import Decimal
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_ttl_history.encoding.objects import beside, taken_apart
from langchain_ttl_history.keys import OwnedThread

__all__ = ["changed", "same"]

_PLAIN_TYPES = (str, int, float, bytes, list, dict, tuple)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal in type as well, all the way down."""
    kind = type(left)
    if left is right:
        return True
    if kind is not type(right):
        # Whose a thread is need not be kept with its id.
        return kind is OwnedThread and type(right) is str and bool(left == right)
    if kind is float:
        return bool(left == right) or (math.isnan(left) and math.isnan(right))
    if kind is Decimal:
        return str(left) == str(right)  # It may be no number, which nothing equals.
    if kind in (list, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if kind is dict:
        return len(left) == len(right) and all(map(same, left, right)) and all(map(same, left.values(), right.values()))
    if isinstance(left, BaseMessage):
        state, other = left.__dict__, right.__dict__
        return (
            state.keys() == other.keys()
            and all(same(value, other[name]) for name, value in state.items())
            and same(left.__pydantic_extra__ or None, right.__pydantic_extra__ or None)
            and same(left.__pydantic_private__ or None, right.__pydantic_private__ or None)
        )
    if isinstance(left, (set, frozenset)):
        alike = left == right and Counter(map(type, left)) == Counter(map(type, right))
        return alike and same(beside(left), beside(right))
    parts = taken_apart(left)
    if parts is not None:
        # What a subclass of a plain type holds besides is not taken apart, but its constructor may have made it anew.
        return same(parts, taken_apart(right)) and (
            not isinstance(left, (*_PLAIN_TYPES, date, time)) or same(beside(left), beside(right))
        )
    if getattr(left, "dtype", None) != getattr(right, "dtype", None):
        return False  # Of an array with named fields LangGraph's serializer keeps the bytes alone.
    by_identity: Any = object.__eq__
    if kind.__eq__ is by_identity:
        return same(getattr(left, "__dict__", None), getattr(right, "__dict__", None))
    try:
        # `==` of datetimes and times ignores `fold`.
        alike = bool(left == right) and getattr(left, "fold", 0) == getattr(right, "fold", 0)
        return alike and (not isinstance(left, (date, time)) or same(beside(left), beside(right)))
    except (TypeError, ValueError):
        return True  # An array compares element by element; its type and bytes are kept whole.


def changed(left: Any, right: Any) -> Any:
    """The innermost part of a value that came back as something else, so that it and not what holds it is named."""
    if type(left) is not type(right):
        return left
    pairs: list[tuple[Any, Any]]
    if type(left) in (list, tuple):
        pairs = [*zip(left, right, strict=False)]
    elif type(left) is dict:
        pairs = [*zip(left, right, strict=False), *zip(left.values(), right.values(), strict=False)]
    elif isinstance(left, BaseMessage):
        pairs = [(each, vars(right).get(name)) for name, each in vars(left).items()]
        pairs.append((left.__pydantic_extra__, right.__pydantic_extra__))
        pairs.append((left.__pydantic_private__, right.__pydantic_private__))
    else:
        pairs = [(taken_apart(left), taken_apart(right))]
    for before, after in pairs:
        if before is not None and not same(before, after):
            return changed(before, after)
    return left
