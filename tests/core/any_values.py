"""Values and messages of every kind for hypothesis, classes that are nobody's, and how two of them are compared."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from hypothesis import settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

often = settings(max_examples=60)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


class Count(int):
    pass


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Ticket:
    id: Any
    more: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    held: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    held: Any


class Model(BaseModel):
    held: Any = None


TYPES = [Colour, Level, Name, Count, Point, Ticket, Frozen, Slotted, Model]

texts = st.text(max_size=8) | st.text(st.characters(), max_size=4) | st.sampled_from(["\ud800", "a\udfffb", "\0", "🙂"])
integers = st.integers(-(2**80), 2**80) | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64])
zones = st.sampled_from(
    [
        None,
        timezone.utc,
        timezone(timedelta(hours=-5, minutes=-30)),
        timezone(timedelta(hours=1), "CET"),
        ZoneInfo("Europe/Rome"),
    ]
)
hashable = (
    st.none()
    | st.booleans()
    | integers
    | st.floats()
    | texts
    | st.binary(max_size=8)
    | st.uuids()
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times(timezones=zones)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.sampled_from([*Colour, *Level])
    | texts.map(Name)
    | st.integers(0, 99).map(Count)
)
simple_keys = texts | integers | st.booleans()
keys = simple_keys | st.tuples(st.integers(), texts) | st.sampled_from([*Colour, *Level])
steady = hashable.filter(lambda value: value == value)  # noqa: PLR0124  # NaN is not


def plain(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(steady, max_size=4)
        | st.frozensets(steady, max_size=4)
    )


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(deque)
        | st.dictionaries(simple_keys, inner, max_size=3)
        | st.dictionaries(simple_keys, inner, max_size=3).map(lambda held: defaultdict(list, held))
        | st.builds(Point, inner, inner)
        | st.builds(Ticket, inner, inner)
        | st.builds(Slotted, inner)
        | st.builds(Frozen, inner)
        | st.builds(lambda held: Model(held=held), inner)
    )


values = st.recursive(hashable | st.binary(max_size=8).map(bytearray), plain, max_leaves=8) | st.recursive(
    hashable | st.sets(steady, max_size=3), objects, max_leaves=8
)


def exactly(left: Any, right: Any) -> bool:
    """Equal in type and content, all the way down; told apart from `fidelity.same` on purpose."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, dict):
        pairs = zip(left.items(), right.items(), strict=True) if len(left) == len(right) else [((0, 0), (1, 1))]
        return all(exactly(a, c) and exactly(b, d) for (a, b), (c, d) in pairs)
    if isinstance(left, (list, tuple, deque)):
        return len(left) == len(right) and all(map(exactly, left, right))
    if isinstance(left, (set, frozenset)):
        return left == right and {(type(each), each) for each in left} == {(type(each), each) for each in right}
    if isinstance(left, BaseModel):
        return exactly(left.__dict__, right.__dict__)
    if dataclasses.is_dataclass(left):
        return all(exactly(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    if isinstance(left, (datetime, time)):
        return repr(left) == repr(right)  # Which tells zone and fold, as `==` does not.
    if isinstance(left, Decimal):
        return str(left) == str(right)  # It may be no number, which nothing equals.
    return bool(left == right)


kwargs = st.dictionaries(st.text(max_size=4), values, max_size=2)
names = st.none() | st.text(min_size=1, max_size=4)
tool_calls = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.just("f"),
            "args": st.dictionaries(st.text(max_size=3), st.integers() | texts, max_size=2),
            "id": st.text(max_size=3),
            "type": st.just("tool_call"),
        }
    ),
    max_size=3,
)
messages = st.one_of(
    st.builds(HumanMessage, content=texts, additional_kwargs=kwargs, name=names),
    st.builds(AIMessage, content=texts, tool_calls=tool_calls, response_metadata=kwargs),
    st.builds(ToolMessage, content=texts, tool_call_id=st.text(max_size=3), artifact=values),
)
message_ids = st.none() | st.sampled_from(["a", "b", "\0"])
identified = st.builds(lambda message, named: message.model_copy(update={"id": named}), messages, message_ids)


def alike(left: BaseMessage, right: BaseMessage) -> bool:
    extras = exactly(left.__pydantic_extra__ or None, right.__pydantic_extra__ or None)
    fields = [dict(sorted(each.__dict__.items())) for each in (left, right)]
    return type(left) is type(right) and extras and exactly(*fields)


class Remark(HumanMessage):
    """Its fields are those of a `HumanMessage`."""
