"""Objects taken apart into plain data and put together again, exactly and without calling them.

What LangGraph's serializer would pack whole (a dataclass, a pydantic model, a named tuple, an enum's
member, a set, a subclass of a plain type) is packed part by part instead, so that the values in it
keep their types as well, and with the qualified name of its class.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime, time, timezone, tzinfo
from enum import Enum
from functools import cached_property
from typing import Any
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
    """How an object was made and what it holds; None for one this module does not know."""
    kind = type(value)
    if isinstance(value, Enum):
        return [_MEMBER, value.value]
    slots = _SLOTTED.get((kind.__module__, kind.__name__))
    if slots is not None:
        state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        return [_FIELDS, state]
    if isinstance(value, BaseModel):
        parts = [
            dict(value.__dict__),
            sorted(value.__pydantic_fields_set__),
            value.__pydantic_extra__,
            value.__pydantic_private__,
        ]
        if absent := absent_from(value):
            parts.append(absent)
        return [_MODEL, parts]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        # Attributes that are not fields as well.
        more = [name for name in beside(value) if name not in names]
        return [_FIELDS, {name: getattr(value, name) for name in [*names, *more]}]
    if isinstance(value, tuple):
        return [_MADE, list(value)] if hasattr(kind, "_make") else [_ITEMS, list(value)]
    if isinstance(value, (set, frozenset)):
        return [_ITEMS, list(value)]
    if isinstance(value, (datetime, time)):
        return _time_apart(value)
    if kind is deque:
        return [_ITEMS, list(value)] if value.maxlen is None else [_BOUNDED, [list(value), value.maxlen]]
    if kind is defaultdict:
        return [_DEFAULTS, [_factory_of(value), dict(value)]]
    for base, plain in _BASES.items():
        if isinstance(value, base) and kind is not base:
            return [_PLAIN, plain(value)]
    return None


def _time_apart(value: Any) -> list[Any] | None:
    """What ISO 8601 does not tell of a datetime or a time; None where it tells all."""
    if _has_name(value.tzinfo):
        # It tells the offset alone, and of a zone's offset at another time nothing.
        date = [*value.timetuple()[:3]] if isinstance(value, datetime) else []
        clock = [value.hour, value.minute, value.second, value.microsecond]
        return [_ZONED, [*date, *clock, value.tzinfo, value.fold]]
    if isinstance(value, datetime) and value.fold:
        # The second time a clock shows an hour; ISO 8601 does not tell it from the first.
        return [_FOLDED, [*value.timetuple()[:6], value.microsecond, value.tzinfo]]
    return None


def _has_name(zone: tzinfo | None) -> bool:
    """Whether a time zone has a name of its own, which an offset does not tell."""
    if isinstance(zone, timezone):
        return str(zone) != str(timezone(zone.utcoffset(None)))
    return isinstance(zone, ZoneInfo) and bool(zone.key)


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


def _factory_of(value: defaultdict[Any, Any]) -> str | None:
    """The name of what a mapping makes its defaults with; None if it makes none, or the program does."""
    return next((name for name, each in _FACTORIES.items() if each is value.default_factory), None)


def beside(value: Any) -> dict[str, Any]:
    """An object's attributes, except the values of cached properties."""
    held = getattr(value, "__dict__", {})
    if held is value:  # A mapping whose items are its attributes.
        return {}
    kind = type(value)
    return {name: each for name, each in held.items() if not isinstance(getattr(kind, name, None), cached_property)}


def put_together(cls: Any, how: int, state: Any) -> Any:
    """Rebuild an object of this class from what `taken_apart` gave.

    Raises:
        CorruptRecordError: No object of this class is taken apart in this way, or only a newer version knows it.
    """
    if not _suits(cls, how):
        raise CorruptRecordError(f"an object of {cls!r} cannot have been taken apart in way {how}")
    maker = _MAKERS.get(how)
    if maker is not None:
        return maker(cls, state)
    made = cls.__new__(cls)
    if how == _FIELDS:
        if not _NO_ATTRIBUTES.isdisjoint(state):
            raise CorruptRecordError(f"an object of {cls!r} has attributes that none can have")
        for name, value in state.items():
            object.__setattr__(made, name, value)
        if dataclasses.is_dataclass(cls):
            fill_dataclass(made, state)
        return made
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


def _with_defaults(cls: Any, state: Any) -> Any:
    factory, items = state
    return cls(None if factory is None else _FACTORIES[factory], items)


_MAKERS: dict[int, Callable[[Any, Any], Any]] = {
    _MADE: lambda cls, state: cls._make(state),
    _ITEMS: lambda cls, state: cls(state),
    _PLAIN: lambda cls, state: cls(state),
    _MEMBER: lambda cls, state: cls(state),
    _BOUNDED: lambda cls, state: cls(*state),
    _FOLDED: lambda cls, state: cls(*state, fold=1),
    _ZONED: lambda cls, state: cls(*state[:-1], fold=state[-1]),
    _DEFAULTS: _with_defaults,
}


def _suits(cls: Any, how: int) -> bool:
    """Whether objects of this class are taken apart in this way, and so may be made in it."""
    if not isinstance(cls, type):
        return False
    if how == _FIELDS:
        return dataclasses.is_dataclass(cls) or (cls.__module__, cls.__name__) in _SLOTTED
    if how == _MADE:
        return issubclass(cls, tuple) and hasattr(cls, "_make")
    bases: dict[int, tuple[type, ...]] = {
        _MODEL: (BaseModel,),
        _ITEMS: (tuple, set, frozenset, deque),
        _PLAIN: (*_BASES,),
        _FOLDED: (datetime,),
        _BOUNDED: (deque,),
        _ZONED: (datetime, time),
        _MEMBER: (Enum,),
        _DEFAULTS: (defaultdict,),
    }
    return issubclass(cls, bases.get(how, ()))
