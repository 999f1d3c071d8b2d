"""Objects taken apart into plain data and put together again, exactly and without validation.

What LangGraph's serializer would pack whole is packed part by part instead, so that the values in it keep their types
as well, and with the qualified name of its class. There are these ways:

```text
 0 FIELDS    Ticket(id=7), a dataclass                 {"id": 7, "more": None}
               and attributes that are no fields
 1 MODEL     Ask(text="why"), a pydantic model         [{"text": "why", "n": 1}, ["text"], None, None]
               fields, the names of those that were set, extra fields, private attributes; names of any deleted
 2 MADE      Point(x=1, y=2), a named tuple            [1, 2]
 3 ITEMS     {1, 2}; a frozenset, a deque, a tuple     [1, 2]
 4 PLAIN     Name("Ada"), where Name is a str          "Ada"
               int, float, bytes, list and dict likewise
 5 FOLDED    datetime(2026, 10, 25, 2, 30, fold=1)     [2026, 10, 25, 2, 30, 0, 0, None]
 6 BOUNDED   deque([1], maxlen=3)                      [[1], 3]
 7 ZONED     time(9, tzinfo=ZoneInfo("Europe/Rome"))   [9, 0, 0, 0, ZoneInfo("Europe/Rome"), 0]
 8 MEMBER    Colour.RED, of an enum                    "red"
 9 DEFAULTS  defaultdict(int, {"a": 1})                ["int", {"a": 1}]
```

`_WAYS` has for each way how an object is taken apart, of which classes it may be, and how it is put together.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime, time, timezone, tzinfo
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from langchain_ttl_history.encoding.added_fields import absent_from, fill_dataclass, fill_model
from langchain_ttl_history.errors import CorruptRecordError

__all__ = ["beside", "put_together", "taken_apart", "would_lose"]

# Part of the stored format: add at the end, never reorder.
_FIELDS, _MODEL, _MADE, _ITEMS, _PLAIN, _FOLDED, _BOUNDED, _ZONED, _MEMBER, _DEFAULTS = range(10)
# How a value of a subclass is made a plain one. `str(value)` may return that value itself, as Django's safe strings do.
_BASES: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: b"".join([value]),
    list: list,
    dict: dict,
}
# What a mapping with defaults may make them with.
_FACTORIES = {each.__name__: each for each in (bool, bytes, dict, float, frozenset, int, list, set, str, tuple)}
_NO_ATTRIBUTES = frozenset({"__class__", "__dict__"})
# Classes with slots that are neither dataclasses nor models.
_SLOTTED = {("langgraph.types", "Send"): ("node", "arg", "timeout")}


def taken_apart(value: Any) -> list[Any] | None:
    """In which way an object is taken apart, and what it holds; None for one this module does not know."""
    how = _way_of(value)
    return None if how is None else [how, _WAYS[how].apart(value)]


def put_together(cls: Any, how: int, state: Any) -> Any:
    """Rebuild an object of this class from what `taken_apart` gave.

    Raises:
        CorruptRecordError: No object of this class is taken apart in this way, or only a newer version knows it.
    """
    way = _WAYS.get(how) if isinstance(cls, type) else None
    if way is None or not way.suits(cls):
        raise CorruptRecordError(f"an object of {cls!r} cannot have been taken apart in way {how}")
    return way.make(cls, state)


def _way_of(value: Any) -> int | None:
    """In which way an object is taken apart; None for one this module does not know."""
    kind = type(value)
    # In this order: a member of an enum may be a string as well, a dataclass a dict.
    if isinstance(value, Enum):
        return _MEMBER
    if isinstance(value, BaseModel):
        return _MODEL
    if dataclasses.is_dataclass(value):
        return _FIELDS
    if isinstance(value, tuple):
        return _MADE if hasattr(kind, "_make") else _ITEMS
    if isinstance(value, (set, frozenset)):
        return _ITEMS
    if isinstance(value, (datetime, time)):
        # ISO 8601, as LangGraph's serializer writes them, tells of a zone the offset alone.
        if _has_name(value.tzinfo):
            return _ZONED
        # Nor does it tell the second time a clock shows an hour from the first.
        return _FOLDED if isinstance(value, datetime) and value.fold else None
    if kind is deque:
        return _ITEMS if value.maxlen is None else _BOUNDED
    if kind is defaultdict:
        return _DEFAULTS
    for base in _BASES:
        if isinstance(value, base) and kind is not base:
            return _PLAIN
    return _FIELDS if (kind.__module__, kind.__name__) in _SLOTTED else None


def would_lose(value: Any) -> bool:
    """Whether a part of an object would be lost if it was taken apart.

    That is so for a dataclass that is a plain value, a set or an exception as well, and for a mapping whose defaults
    are made by the program.
    """
    if type(value) is defaultdict:
        return value.default_factory is not None and _factory_of(value) is None
    if not dataclasses.is_dataclass(value):
        return False
    if isinstance(value, BaseException):
        return bool(value.args)
    if isinstance(value, (tuple, set, frozenset, deque)):
        return len(value) > 0
    return any(isinstance(value, base) and plain(value) != base() for base, plain in _BASES.items())


def beside(value: Any) -> dict[str, Any]:
    """An object's attributes, except the values of cached properties."""
    held = getattr(value, "__dict__", {})
    if held is value:  # A mapping whose items are its attributes.
        return {}
    kind = type(value)
    return {name: each for name, each in held.items() if not isinstance(getattr(kind, name, None), cached_property)}


def _fields_apart(value: Any) -> dict[str, Any]:
    kind = type(value)
    slots = _SLOTTED.get((kind.__module__, kind.__name__))
    if slots is not None:
        return {name: getattr(value, name) for name in slots if hasattr(value, name)}
    names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    # Attributes that are not fields as well.
    names += [name for name in beside(value) if name not in names]
    return {name: getattr(value, name) for name in names}


def _with_fields(cls: Any, state: Any) -> Any:
    made = cls.__new__(cls)
    if not _NO_ATTRIBUTES.isdisjoint(state):
        raise CorruptRecordError(f"an object of {cls!r} has attributes that none can have")
    for name, value in state.items():
        object.__setattr__(made, name, value)
    if dataclasses.is_dataclass(cls):
        fill_dataclass(made, state)
    return made


def _model_apart(value: BaseModel) -> list[Any]:
    parts = [
        dict(value.__dict__),
        sorted(value.__pydantic_fields_set__),
        value.__pydantic_extra__,
        value.__pydantic_private__,
    ]
    if absent := absent_from(value):
        parts.append(absent)
    return parts


def _model(cls: Any, state: Any) -> Any:
    made = cls.__new__(cls)
    fields, present, extra, private, *absent = state
    present = set(present)
    private = fill_model(cls, fields, extra, private, *absent)
    for name, value in (
        ("__dict__", fields),
        ("__pydantic_fields_set__", present),
        ("__pydantic_extra__", extra),
        ("__pydantic_private__", private),
    ):
        if value is None and getattr(cls, name, made) is None:
            continue  # A root model has no place for it.
        object.__setattr__(made, name, value)
    return made


def _made_plain(value: Any) -> Any:
    to_plain = next(to_plain for base, to_plain in _BASES.items() if isinstance(value, base))
    return to_plain(value)


def _zoned_apart(value: Any) -> list[Any]:
    date = [*value.timetuple()[:3]] if isinstance(value, datetime) else []
    return [*date, value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold]


def _has_name(zone: tzinfo | None) -> bool:
    """Whether a time zone has a name of its own, which an offset does not tell."""
    if isinstance(zone, timezone):
        return str(zone) != str(timezone(zone.utcoffset(None)))
    return isinstance(zone, ZoneInfo) and bool(zone.key)


def _with_defaults(cls: Any, state: Any) -> Any:
    factory, items = state
    return cls(None if factory is None else _FACTORIES[factory], items)


def _factory_of(value: defaultdict[Any, Any]) -> str | None:
    """The name of what a mapping makes its defaults with; None if it makes none, or the program does."""
    return next((name for name, each in _FACTORIES.items() if each is value.default_factory), None)


class _Way(NamedTuple):
    apart: Callable[[Any], Any]
    """What an object holds."""
    suits: Callable[[type], bool]
    """Whether objects of a class may be taken apart so. Of others none is made: stored bytes could name any two."""
    make: Callable[[Any, Any], Any]
    """The object of a class that holds this."""


def _derives(*bases: type) -> Callable[[type], bool]:
    return lambda cls: issubclass(cls, bases)


def _called(cls: Any, state: Any) -> Any:
    return cls(state)


_WAYS = {
    _FIELDS: _Way(
        _fields_apart,
        lambda cls: dataclasses.is_dataclass(cls) or (cls.__module__, cls.__name__) in _SLOTTED,
        _with_fields,
    ),
    _MODEL: _Way(_model_apart, _derives(BaseModel), _model),
    _MADE: _Way(
        list, lambda cls: issubclass(cls, tuple) and hasattr(cls, "_make"), lambda cls, items: cls._make(items)
    ),
    _ITEMS: _Way(list, _derives(tuple, set, frozenset, deque), _called),
    _PLAIN: _Way(_made_plain, _derives(*_BASES), _called),
    _FOLDED: _Way(
        lambda value: [*value.timetuple()[:6], value.microsecond, value.tzinfo],
        _derives(datetime),
        lambda cls, state: cls(*state, fold=1),
    ),
    _BOUNDED: _Way(lambda value: [list(value), value.maxlen], _derives(deque), lambda cls, state: cls(*state)),
    _ZONED: _Way(_zoned_apart, _derives(datetime, time), lambda cls, state: cls(*state[:-1], fold=state[-1])),
    _MEMBER: _Way(lambda value: value.value, _derives(Enum), _called),
    _DEFAULTS: _Way(lambda value: [_factory_of(value), dict(value)], _derives(defaultdict), _with_defaults),
}
