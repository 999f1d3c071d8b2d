"""Values and messages that are hard to keep: the types that serializers are known to lose."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import math
import pathlib
import re
import uuid
import zoneinfo
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel, RootModel, SecretStr


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):
    YES = "yes"


class Name(str):
    """A subclass of str."""

    __slots__ = ()


class Markup(str):
    """A str that gives itself where it is asked for its text, like Django's safe strings."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class Heading(str):
    """A str that is written otherwise than it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"# {self!r}"


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.5
    tags: tuple[str, ...] = ()


@dataclass
class Order:
    items: list[Point] = field(default_factory=list)


class Pair(NamedTuple):
    left: int
    right: str


class Settings(BaseModel):
    name: str
    limits: dict[str, int] = {}
    at: dt.datetime | None = None


class Scores(RootModel[list[int]]):
    """A model that is its one value."""


class TicketMessage(HumanMessage):
    """A message class of a program's own."""

    ticket: int = 0
    tags: list[str] = []


class AuditedAnswer(AIMessage):
    """An AI message class of a program's own."""

    auditor: str = ""


NAIVE = dt.datetime(2024, 2, 29, 12, 30, 1)  # noqa: DTZ001 - a time without a zone is one more thing to keep

VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "int": 42,
    "negative int": -(2**63),
    "int of 64 bits": 2**64 - 1,
    "int over 64 bits": 2**70,
    "float": 0.1,
    "minus zero": -0.0,
    "infinity": math.inf,
    "text": "héllo 🙂 \x00 \u2028",
    "lone surrogate": "a\ud800b",
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"ab"),
    "empty list": [],
    "tuple": (1, "two", (3,)),
    "list of tuples": [(1, 2), [3, 4]],
    "set": {1, 2, 3},
    "frozenset": frozenset({"a", "b"}),
    "deque": deque([1, 2], maxlen=5),
    "dict": {"a": {"b": [1, {"c": None}]}},
    "dict with int keys": {1: "a", 2: "b"},
    "dict with tuple keys": {(1, 2): "a"},
    "dict like a constructor": {
        "lc": 2,
        "type": "constructor",
        "id": ["tests", "promises", "no_such_module", "Thing"],
        "kwargs": {"x": 1},
    },
    "dict like a serialized message": {"lc": 1, "type": "constructor", "id": ["x"], "kwargs": {}},
    "dict like an extension": {"__type__": "msgpack", "__ext__": 5, "$type": "x"},
    "decimal": decimal.Decimal("1.50"),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "naive datetime": NAIVE.replace(microsecond=999_999),
    "utc datetime": dt.datetime(2024, 2, 29, tzinfo=dt.timezone.utc),
    "zoned datetime": dt.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich")),
    "an hour that comes twice": dt.datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich")),
    "the same hour again": dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich")),
    "an hour that is left out": dt.datetime(2024, 3, 31, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich")),
    "zoned time": dt.time(2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich")),
    "date": dt.date(2024, 2, 29),
    "time": dt.time(12, 30),
    "timedelta": dt.timedelta(days=1, seconds=5),
    "path": pathlib.Path("/a/b"),
    "pattern": re.compile("a+", re.IGNORECASE),
    "ip address": ipaddress.ip_address("10.0.0.1"),
    "enum": Colour.RED,
    "int enum": Level.LOW,
    "str enum": Word.YES,
    "str subclass": Name("bob"),
    "str subclass that gives itself": Markup("<b>"),
    "str subclass that is written otherwise": Heading("bob"),
    "dataclass": Point(1, 2.5, ("a", "b")),
    "nested dataclass": Order([Point(1)]),
    "named tuple": Pair(1, "r"),
    "pydantic model": Settings(name="n", limits={"a": 1}, at=NAIVE),
    "pydantic root model": Scores([1, 2]),
    "secret": SecretStr("hush"),
    "document": Document("page", metadata={"source": "x"}, id="d1"),
    "message": AIMessage("inside", id="m1", tool_calls=[{"name": "f", "args": {}, "id": "c"}]),
    "list of messages": [HumanMessage("a", id="h"), AIMessage("b", id="i")],
}


def same(left: Any, right: Any) -> bool:
    """Equal in value and in type, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, BaseMessage):
        ours, theirs = left.model_dump(), right.model_dump()
        return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    if isinstance(left, float):
        return math.copysign(1, left) == math.copysign(1, right) and (
            left == right or (math.isnan(left) and math.isnan(right))
        )
    if isinstance(left, dict):
        return list(map(repr, left)) == list(map(repr, right)) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple | deque):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (dt.datetime, dt.time)):
        return repr(left) == repr(right)  # Which tells zone and fold, as `==` does not.
    return bool(left == right)


def messages() -> dict[str, BaseMessage]:
    """Every message type with every field in use; made anew on each call."""
    return {
        "human": HumanMessage("hi", id="1", name="bob", additional_kwargs={"a": [1]}),
        "human with blocks": HumanMessage(
            [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                "and this",
            ],
            id="2",
            response_metadata={"x": {"y": None}},
        ),
        "human with v1 blocks": HumanMessage(
            content_blocks=[
                {"type": "text", "text": "look", "annotations": [{"type": "citation", "url": "u"}]},
                {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
            ],
            id="3",
        ),
        "system": SystemMessage("be brief", id="4", additional_kwargs={"cache": True}),
        "developer": SystemMessage("be brief", id="5", additional_kwargs={"__openai_role__": "developer"}),
        "ai": AIMessage(
            "done",
            id="6",
            name="agent",
            response_metadata={"model_name": "m", "finish_reason": "stop", "logprobs": None},
            usage_metadata={
                "input_tokens": 10,
                "output_tokens": 20,
                "total_tokens": 30,
                "input_token_details": {"cache_read": 5},
                "output_token_details": {"reasoning": 7},
            },
        ),
        "ai with calls": AIMessage(
            "",
            id="7",
            tool_calls=[
                {"name": "f", "args": {"a": 1, "nested": {"b": [None, 1.5]}}, "id": "c1"},
                {"name": "g", "args": {}, "id": "c2"},
            ],
            invalid_tool_calls=[InvalidToolCall(name="h", args="{", id="c3", error="bad", type="invalid_tool_call")],
            additional_kwargs={"tool_calls": [{"id": "c1", "type": "function"}]},
        ),
        "tool": ToolMessage("ok", tool_call_id="c1", id="8", name="f"),
        "tool with an artifact": ToolMessage(
            [{"type": "text", "text": "ok"}],
            tool_call_id="c2",
            id="9",
            status="error",
            artifact={"rows": [(1, 2)], "at": NAIVE, "raw": b"\x00"},
        ),
        "ai with reasoning": AIMessage(
            [
                {"type": "reasoning", "reasoning": "hmm", "id": "r1", "extras": {"signature": "s"}},
                {"type": "text", "text": "so", "annotations": []},
                {"type": "server_tool_call", "id": "s1", "name": "search", "args": {"q": "x"}},
                {"type": "server_tool_result", "tool_call_id": "s1", "status": "success"},
            ],
            id="10",
            response_metadata={"output_version": "v1"},
        ),
        "ai without text": AIMessage([], id="11"),
        "chat": ChatMessage("psst", role="whisperer", id="12"),
        "function": FunctionMessage("42", name="f", id="13"),
        "extra field": HumanMessage("x", id="14", extra_field={"kept": 1}),
        "custom human": TicketMessage("help", id="15", ticket=7, tags=["a"]),
        "custom ai": AuditedAnswer("sure", id="16", auditor="bob"),
        "example": HumanMessage("e.g.", id="17", example=True),
    }
