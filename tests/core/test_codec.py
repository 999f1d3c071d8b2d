"""What goes in comes out: values of every kind, nested in any way, with their exact types."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import ormsgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.base import TextAccessor
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel, Field, PrivateAttr

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding import layouts
from langchain_ttl_history.encoding.fidelity import same
from langchain_ttl_history.encoding.messages import pack_plain
from langchain_ttl_history.encoding.records import TYPED, pack, unpack, unread_form
from langchain_ttl_history.errors import CorruptRecordError, TTLHistoryError, TypeNotAllowedError
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.bodies import decode_bodies, encode_bodies, restored
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import content_name, key_of
from tests.core.any_values import (
    TYPES,
    Colour,
    Count,
    Frozen,
    Level,
    Model,
    Name,
    Point,
    Remark,
    Ticket,
    alike,
    exactly,
    identified,
    often,
    values,
)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(allowed=TYPES)


@often
@given(value=values)
def test_a_value_comes_out_as_it_went_in(codec: Codec, value: Any) -> None:
    assert exactly(codec.loads(codec.dumps(value, "here")), value)


@often
@given(value=values)
def test_a_value_of_a_learning_codec_comes_out_as_it_went_in(value: Any) -> None:
    codec = Codec(learning=True)
    assert exactly(codec.loads(codec.dumps(value, "here")), value)


@pytest.mark.parametrize(
    "value",
    [
        (1, (2, [3, (4,)])), bytearray(b"\x00\xff"), 2**64, -(2**63) - 1, "\ud800", {"\ud800": "\udfff"}, math.nan,
        [math.inf, -0.0], Colour.RED, {Colour.BLUE: Level.LOW}, {1: "a", "1": "b"}, {(1, "a"): [b""]}, {None: 1},
        {1, "a", 2.5}, frozenset({(1, 2)}), datetime(2024, 2, 29, 12, 0, 0, 7),  # noqa: DTZ001  # a naive one
        Decimal("1.10"), Decimal("NaN"), Decimal("sNaN"), date(1, 1, 1),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(minutes=-330))), timedelta(microseconds=-1), time(23, 59),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")), time(1, tzinfo=timezone(timedelta(), "Z")),
        Ticket(1, Point(Frozen((1,)), {2**70})), Model(held=(b"x",)), Name("n"), Count(3), UUID(int=7), {},
        [], (), set(), "", b"", 0, False, None, deque([1, (2,)]), deque([1, (2,)], 3),
        TextAccessor("text"), {"a": {2**70: ("\ud800", math.nan)}}, defaultdict(list, a=[(1,)]),
        defaultdict(None, {1: 2}), defaultdict(int), Counter("abca"), OrderedDict(b=1, a=(2,)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_this_value_comes_out_as_it_went_in(codec: Codec, value: Any) -> None:
    assert exactly(codec.loads(codec.dumps(value, "here")), value)


# Python 3.13 alone says that its paths are defined in `pathlib._local`.
@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_every_version_of_python_stores_a_path_alike_and_reads_what_any_stored(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    value = {"at": Path("/a/b"), "ticket": Ticket(Path("c"))}
    packed = codec.dumps(value, "here")
    assert exactly(codec.loads(packed), value)
    monkeypatch.setattr(type(Path()), "__module__", module)
    assert codec.dumps(value, "here") == packed
    dumped = JsonPlusSerializer().dumps_typed(Path("/a/b"))
    as_langgraph_does = ormsgpack.packb(ormsgpack.Ext(TYPED, pack(list(dumped))))
    assert module.encode() + b"\xa9" in as_langgraph_does
    monkeypatch.undo()
    assert exactly(codec.loads(as_langgraph_does), Path("/a/b"))


@pytest.mark.parametrize("held", [bytearray(b"x"), {Level.LOW: 1}, {Colour.RED: 1}], ids=["bytes", "int", "enum"])
@pytest.mark.parametrize("made", [Ticket, Frozen, lambda held: Model(held=held), lambda held: Point(1, held)])
def test_what_an_object_holds_keeps_its_type(codec: Codec, made: Callable[[Any], Any], held: Any) -> None:
    value = made(held)
    assert exactly(codec.loads(codec.dumps(value, "here")), value)


def test_a_bounded_deque_keeps_its_bound(codec: Codec) -> None:
    back = codec.loads(codec.dumps(deque([1, 2], 3), "here"))
    assert (list(back), back.maxlen) == ([1, 2], 3)


def test_what_a_router_of_models_decided_comes_out_as_it_went_in() -> None:
    """LangChain's middleware keeps it in an agent's state."""
    types = pytest.importorskip("langchain_core.decisions.types", reason="comes with langchain-core 1.8")
    codec = Codec()
    for value in (
        types.ChoiceAnswer(type="choice", choice="a", probabilities={"a": 0.9, "b": 0.1}, confidence=0.8),
        types.NoulAnswer(type="noul", noul=0.5),
        types.ScoreAnswer.model_construct(type="score", score=0.5),
        types.BoxAnswer(type="box", box=types.BoxCoordinates(top=0.0, bottom=1.0, left=0.0, right=1.0)),
    ):
        assert exactly(codec.loads(codec.dumps({"model_route": value}, "here")), {"model_route": value})


def test_a_mapping_with_defaults_goes_on_making_them(codec: Codec) -> None:
    back = codec.loads(codec.dumps({"found": defaultdict(list, a=[1])}, "here"))["found"]
    assert (back["a"], back["b"]) == ([1], [])
    assert codec.loads(codec.dumps(defaultdict(None), "here")).default_factory is None


class Buckets(defaultdict[str, list[int]]):
    """It is not made of its items alone."""


class Moment(datetime):
    """A datetime of a library's own, as that of pandas."""


def test_a_datetime_of_a_librarys_own_comes_back_where_its_class_is_allowed() -> None:
    codec = Codec(allowed=[Moment])
    zone = ZoneInfo("Europe/Berlin")
    value = [Moment(2026, 1, 2, 3, tzinfo=zone), Moment(2026, 10, 25, 2, 30, fold=1), {"at": Moment(2026, 1, 2)}]
    assert exactly(codec.loads(codec.dumps(value, "here")), value)
    with pytest.raises(TypeNotAllowedError, match=r"allow_types=\[Moment\]"):
        Codec().loads(codec.dumps(value, "here"))


def test_a_datetime_that_holds_something_beside_the_time_is_refused() -> None:
    value = Moment(2026, 1, 2)
    value.__dict__["note"] = "x"
    with pytest.raises(TypeNotAllowedError, match="Moment"):
        Codec(allowed=[Moment]).dumps(value, "here")


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (defaultdict(lambda: [1]), "collections.defaultdict"),
        (defaultdict(partial(list, "a")), "collections.defaultdict"),
        (Buckets(list, a=[1]), "Buckets"),
    ],
    ids=["function", "partial", "subclass"],
)
def test_a_mapping_whose_defaults_cannot_be_kept_is_refused_by_its_own_name(held: Any, named: str) -> None:
    codec = Codec(allowed=[Buckets])
    for value in (held, {"a": (held,)}, [Point(1, held)]):
        with pytest.raises(TypeNotAllowedError, match=rf"here: a value of type \S*{named} cannot be stored"):
            Codec(learning=True).dumps(value, "here")
    message = ToolMessage("result", tool_call_id="c", artifact={"counts": held})
    with pytest.raises(TypeNotAllowedError, match=rf"here: a value of type \S*{named} cannot be stored"):
        codec.verified_message(message, "here")


def test_what_an_object_holds_beside_its_fields_comes_back_as_well(codec: Codec) -> None:
    value = Ticket(1)
    value.__dict__["beside"] = (2,)
    assert vars(codec.loads(codec.dumps(value, "here"))) == {**vars(Ticket(1)), "beside": (2,)}


def test_an_unknown_type_is_refused_by_name_and_place() -> None:
    with pytest.raises(TypeNotAllowedError, match=r"at this place.*Ticket"):
        Codec().dumps([Ticket(1)], "at this place")
    stored = Codec(allowed=TYPES).dumps({"a": Ticket(1)}, "here")
    with pytest.raises(TypeNotAllowedError, match="Ticket"):
        Codec().loads(stored)


@dataclasses.dataclass
class Basketful(list[str]):
    """What it holds as a list is no field of it."""

    held: list[str]


@pytest.mark.parametrize(
    "value",
    [lambda: 1, object, open, iter([]), (each for each in ()), Codec(), ValueError("x")],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_come_back_is_refused(value: Any) -> None:
    with pytest.raises(TypeNotAllowedError, match="here"):
        Codec().dumps(value, "here")


class Label(str):  # noqa: SLOT000  # its attributes are the test
    language = "en"

    @cached_property
    def initial(self) -> str:
        return self[:1]


class Basket(list[Any]):
    def __init__(self, held: Any = ()) -> None:
        super().__init__(held)
        self.owner: Any = "nobody"


class Open(dict[str, Any]):
    def __init__(self, held: Any = ()) -> None:
        super().__init__(held)
        self.__dict__ = self


class Flock(set[Any]):
    pass


@pytest.mark.parametrize(("cls", "name"), [(Label, "language"), (Basket, "owner"), (Flock, "owner")])
def test_an_attribute_of_a_plain_value_is_not_lost_without_a_word(cls: type, name: str) -> None:
    value = cls(["a"]) if cls is not Label else cls("a")
    codec = Codec(learning=True)
    assert same(codec.loads(codec.dumps(value, "here")), value)
    setattr(value, name, "fr")
    with pytest.raises(TypeNotAllowedError, match=rf"here: .*{cls.__name__}"):
        codec.dumps([value], "here")


def test_what_a_plain_value_makes_by_itself_may_be_beside_it() -> None:
    codec = Codec(learning=True)
    label = Label("word")
    assert label.initial == "w"
    for value in (label, Basket([1]), Open({"a": 1})):
        assert exactly(codec.loads(codec.dumps(value, "here")), value)


def held_by_itself() -> Ticket:
    ticket = Ticket(1)
    ticket.more = [ticket]
    return ticket


def nested_deeply() -> Ticket:
    ticket = Ticket(0)
    for number in range(2_000):
        ticket = Ticket(number, ticket)
    return ticket


@pytest.mark.parametrize("made", [held_by_itself, nested_deeply])
def test_a_value_that_has_no_bottom_is_refused(codec: Codec, made: Callable[[], Any]) -> None:
    message = HumanMessage("x", additional_kwargs={"held": made()})
    for attempt in (lambda: codec.dumps(made(), "here"), lambda: codec.verified_message(message, "here")):
        with pytest.raises(TypeNotAllowedError, match="here: a value holds itself, or is nested too deeply"):
            attempt()


def test_what_cannot_be_stored_is_not_tried_anew_at_each_level_of_what_holds_it(codec: Codec) -> None:
    tried = 0

    class Stubborn(tuple[Any, ...]):
        __slots__ = ()

        def __iter__(self) -> Any:
            nonlocal tried
            tried += 1
            return iter([threading.Lock()])

    value: Any = Stubborn()
    for _ in range(10):
        value = Ticket(value)
    with pytest.raises(TypeNotAllowedError, match="lock"):
        codec.dumps(value, "here")
    assert tried <= 4


# --- damage -----------------------------------------------------------------------------------


# A value takes one byte at least, and that of True is the mark that is put behind each record.
tails = st.binary(min_size=1, max_size=3).filter(lambda tail: tail[0] != 0xC3)


@often
@given(value=values, cut=st.integers(0, 10**6), tail=tails)
def test_a_value_that_is_cut_or_grew_is_never_read(codec: Codec, value: Any, cut: int, tail: bytes) -> None:
    packed = codec.dumps(value, "here")
    for damaged in (packed[: cut % len(packed)], packed + tail, b""):
        with pytest.raises(TTLHistoryError):
            codec.loads(damaged)


@often
@given(value=values, at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_value_with_a_flipped_bit_is_read_or_refused_but_nothing_else(
    codec: Codec, value: Any, at: int, bit: int
) -> None:
    packed = bytearray(codec.dumps(value, "here"))
    packed[at % len(packed)] ^= 1 << bit
    only_our_errors(lambda: codec.loads(bytes(packed)))


@given(noise=st.binary(max_size=40))
def test_noise_is_read_or_refused_but_nothing_else(codec: Codec, noise: bytes) -> None:
    only_our_errors(lambda: codec.loads(noise))
    only_our_errors(lambda: codec.message(noise, "m1"))
    only_our_errors(lambda: unpack(noise))


CLAIMS = r"""
import resource
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.errors import CorruptRecordError

resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))  # The list claims to be half as large again.
try:
    Codec().loads(b"\xdd\x5e\xe5\x2a\x8e\xf8")
except CorruptRecordError:
    print("refused")
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="MessagePack for Python 3.10 reserves what a length claims")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process so")
def test_a_list_that_claims_more_elements_than_there_is_memory_for_is_refused() -> None:
    # In a process of its own, which it could end.
    assert subprocess.run([sys.executable, "-c", CLAIMS], check=True, capture_output=True).stdout == b"refused\n"


def only_our_errors(read: Callable[[], Any]) -> None:
    """What cannot be read says so, with an error of this package."""
    with suppress(TTLHistoryError):
        read()


@given(value=st.recursive(st.none() | st.integers(0, 9) | st.text(max_size=3), st.lists, max_leaves=5))
def test_a_record_that_is_cut_or_grew_is_never_read(value: Any) -> None:
    packed = pack(value)
    assert unpack(packed) == value
    for damaged in (packed[:-1], packed + b"\x00", packed + packed):
        with pytest.raises(CorruptRecordError):
            unpack(damaged)


@pytest.mark.parametrize(("form", "says"), [(13, "newer than 12"), (-1, "is damaged"), (None, "is damaged")])
def test_only_a_greater_number_is_taken_for_a_newer_format(form: Any, says: str) -> None:
    assert says in str(unread_form("a message", form, 12))


# --- messages ---------------------------------------------------------------------------------


@often
@given(message=identified)
@example(message=ToolMessage("", tool_call_id="", artifact=bytearray(b"x")))
def test_a_message_comes_out_as_it_went_in(codec: Codec, message: BaseMessage) -> None:
    packed = codec.verified_message(message, "here")
    assert alike(codec.message(packed, message.id), message)
    assert codec.verified_message(message, "here") == packed
    assert pack_plain(message) in (None, packed)
    nested = codec.loads(codec.dumps({"m": (message,)}, "here"))
    assert alike(nested["m"][0], message)


@often
@given(message=identified, cut=st.integers(0, 10**6), tail=tails)
def test_a_message_that_is_cut_or_grew_is_never_read(codec: Codec, message: BaseMessage, cut: int, tail: bytes) -> None:
    packed = codec.verified_message(message, "here")
    for damaged in (packed[: cut % len(packed)], packed + tail):
        with pytest.raises(TTLHistoryError):
            codec.message(damaged, message.id)


@often
@given(said=st.lists(identified, max_size=5), more=st.lists(identified, max_size=3))
def test_bodies_come_out_as_they_went_in_and_are_sent_once(
    codec: Codec, said: list[BaseMessage], more: list[BaseMessage]
) -> None:
    known, blobs = KnownBodies(), {}  # type: ignore[var-annotated]  # blobs, filled below
    for conversation in (said, said + more, said):
        named = encode_bodies(conversation, known, codec, "here", blobs)
        back = decode_bodies(named, blobs, codec)
        assert all(map(alike, back, conversation))
        assert len(back) == len(conversation)
        assert [key_of(each) for each in named] == [m.id or each for m, each in zip(conversation, named, strict=True)]
    again: dict[str, Any] = {}
    last = {message.id: message for message in said if message.id}
    encode_bodies(list(last.values()), known, codec, "here", again)
    assert not set(again) - set(blobs)


def test_a_body_that_is_gone_is_named(codec: Codec) -> None:
    name = content_name(codec.verified_message(HumanMessage("x"), "here")) + "m1"
    with pytest.raises(CorruptRecordError, match="m1"):
        decode_bodies([name], {}, codec)


@often
@given(message=identified, at=st.integers(0, 10_000), by=st.integers(1, 255))
def test_a_body_with_a_changed_byte_is_never_read(codec: Codec, message: BaseMessage, at: int, by: int) -> None:
    blobs: dict[str, Blob] = {}
    names = encode_bodies([message], KnownBodies(), codec, "here", blobs)
    held = next(name for name, blob in blobs.items() if blob.payload)
    payload = bytearray(blobs[held].payload)
    payload[at % len(payload)] ^= by
    with pytest.raises(TTLHistoryError):
        decode_bodies(names, {**blobs, held: Blob(bytes(payload))}, codec)


def test_a_body_is_stored_again_as_it_was_whatever_order_its_sets_are_read_in(codec: Codec) -> None:
    thinned = set(range(100))
    thinned.difference_update({*thinned} - {3, 8})
    message = AIMessage("hello", id="1", additional_kwargs={"found": thinned})
    blobs: dict[str, Blob] = {}
    names = encode_bodies([message], KnownBodies(), codec, "here", blobs)
    read = decode_bodies(names, blobs, codec)
    assert [*read[0].additional_kwargs["found"]] != [*thinned], "or this test shows nothing"
    known = KnownBodies()
    known.learn_read(names, read, blobs, codec)
    again = restored(names, known, codec)
    assert again == blobs
    assert known.size > 2 * len(blobs[names[0]].payload), "both forms count"


# --- same -------------------------------------------------------------------------------------


@often
@given(left=values, right=values)
def test_same_agrees_with_an_exact_comparison(codec: Codec, left: Any, right: Any) -> None:
    assert same(left, codec.loads(codec.dumps(left, "here")))
    if same(left, right):
        assert type(left) is type(right)
    elif exactly(left, right):
        raise AssertionError("equal values are told apart")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0), (1, True), ((1,), [1]), (b"", bytearray()), ("red", Colour.RED), (Name("a"), "a"), ([1], [1, 2]),
        ({1: 1}, {1.0: 1}), ({"a": 1}, {"a": 1.0}), (Point(1, 2), (1, 2)), (0, None), ({1}, frozenset({1})),
        (Ticket(1), Frozen(1)), ([Level.LOW], [1]),
    ],
)  # fmt: skip
def test_what_differs_in_type_or_content_is_not_the_same(left: Any, right: Any) -> None:
    assert not same(left, right)
    assert not same(right, left)


def test_a_message_that_became_one_of_another_class_is_not_taken_for_the_one_before() -> None:
    codec = Codec(allowed=[Remark])
    known, blobs = KnownBodies(), {}  # type: ignore[var-annotated]  # blobs, filled below
    for message in (HumanMessage("x", id="1"), Remark("x", id="1"), HumanMessage("x", id="1")):
        (name,) = encode_bodies([message], known, codec, "here", blobs)
        assert type(decode_bodies([name], blobs, codec)[0]) is type(message)


def test_a_message_that_got_a_field_of_no_class_is_not_taken_for_the_one_before(codec: Codec) -> None:
    known, blobs = KnownBodies(), {}  # type: ignore[var-annotated]  # blobs, filled below
    message = HumanMessage("x", id="1")
    encode_bodies([message], known, codec, "here", blobs)
    message.mood = "good"  # type: ignore[attr-defined]  # any is allowed
    (name,) = encode_bodies([message], known, codec, "here", blobs)
    assert decode_bodies([name], blobs, codec)[0].__pydantic_extra__ == {"mood": "good"}


class Whispered(HumanMessage):
    _aside: Any = PrivateAttr(None)


@pytest.mark.parametrize(
    "held", [{UUID(int=1): 1}, {Colour.RED: 1}, bytearray(b"a"), (1,), {date(2026, 1, 1): Point(1, 2)}]
)
def test_a_private_attribute_of_a_message_comes_out_as_it_went_in(held: Any) -> None:
    codec = Codec(allowed=[*TYPES, Whispered])
    message = Whispered("hello")
    message._aside = held
    assert exactly(codec.message(codec.verified_message(message, "here"), None)._aside, held)  # type: ignore[attr-defined]  # it is one


def test_an_array_is_read_whole_or_not_at_all(codec: Codec) -> None:
    numpy = pytest.importorskip("numpy")
    packed = codec.dumps(numpy.array([1, 2]), "here")
    assert codec.loads(packed).tolist() == [1, 2]
    with pytest.raises(CorruptRecordError, match="array"):
        codec.loads(packed.replace(b"<i8", b"<i7"))
    with pytest.raises(TypeNotAllowedError, match="ndarray"):
        codec.dumps(numpy.zeros(2, dtype=[("a", "i4"), ("b", "f8")]), "here")


def test_what_has_no_image_is_no_error_of_what_is_read_next(codec: Codec) -> None:
    odd = HumanMessage("hello", additional_kwargs={"odd": object()})
    for look in (lambda: codec.images([odd]), lambda: codec.image_of(odd)):
        look()
        with pytest.raises(CorruptRecordError):
            codec.loads(b"\xc7\x01\x01\xc1")


# --- classes that have grown since -------------------------------------------------------------


class Noted(HumanMessage):
    """As a program had it when it stored one."""

    note: str = ""


class NotedSince(Noted):
    """As the program has it when it reads that."""

    __qualname__ = "Noted"
    score: float = 0.5
    tags: list[str] = Field(default_factory=list)
    needed: int
    _seen: list[str] = PrivateAttr(default_factory=list)


class Told(BaseModel):
    """A model as it was, and below as it is."""

    note: str = ""


class ToldSince(Told):
    __qualname__ = "Told"
    tags: list[str] = Field(default_factory=list)
    _seen: list[str] = PrivateAttr(default_factory=list)


@pytest.mark.parametrize(
    ("old", "grown"), [(Noted("hello", note="a"), NotedSince), (Told(note="a"), ToldSince)], ids=["message", "model"]
)
def test_what_was_stored_before_its_class_grew_gets_the_defaults(
    monkeypatch: pytest.MonkeyPatch, old: Any, grown: type[Any]
) -> None:
    was = type(old)
    stored = Codec(allowed=[was]).dumps(old, "here")
    monkeypatch.setattr(sys.modules[__name__], was.__name__, grown)
    codec = Codec(allowed=[grown])
    found, other = codec.loads(stored), codec.loads(stored)
    assert type(found) is grown
    assert found.note == "a"
    assert (found.tags, found._seen) == ([], [])
    found.tags.append("mine")
    found._seen.append("mine")
    assert (other.tags, other._seen) == ([], []), "each has its own"
    assert found.model_fields_set.isdisjoint({"score", "tags"}), "nobody set them"
    assert not hasattr(found, "needed"), "there is no default"


def test_a_message_of_langchains_own_is_complete_under_a_release_that_added_a_field() -> None:
    class Newer(HumanMessage):
        mood: str = "calm"

    tag, older = 0, layouts.BY_CLASS[HumanMessage]
    newer = layouts.layout(tag, Newer, ("content", "additional_kwargs", "response_metadata", "name"))
    record = [tag, "hello", {}, {}, None]
    assert newer.state(record, "human", "1") == {**older.state(record, "human", "1"), "mood": "calm"}


class Scored(HumanMessage):
    """Stored with a score that its class did not have."""


class ScoredSince(Scored):
    __qualname__ = "Scored"
    score: float = 0.5
    needed: int
    twice: int = Field(default_factory=lambda before: before["needed"] * 2)


def test_what_a_message_held_under_the_name_of_a_new_field_is_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Codec(allowed=[Scored]).dumps(Scored("hello", score=0.9), "here")
    monkeypatch.setattr(sys.modules[__name__], "Scored", ScoredSince)
    found = Codec(allowed=[ScoredSince]).loads(stored)
    assert (found.score, found.model_extra) == (0.9, {})
    assert not hasattr(found, "twice"), "its factory needs what is not there"


@pytest.mark.parametrize(("name", "made"), [("note", Noted("a")), ("note", Told()), ("name", HumanMessage("a"))])
def test_what_was_deleted_from_an_object_stays_so(name: str, made: Any) -> None:
    codec = Codec(allowed=[Noted, Told])
    value = made.model_copy()
    delattr(value, name)
    found = codec.loads(codec.dumps(value, "here"))
    assert vars(found).keys() == vars(value).keys()


def test_a_dataclass_that_is_a_list_or_exception_as_well_is_kept_if_that_is_empty() -> None:
    codec = Codec(allowed=[Basketful, Failed])
    for value in (Basketful(["apple"]), Failed(code=1)):
        found = codec.loads(codec.dumps(value, "here"))
        assert (type(found), vars(found)) == (type(value), vars(value))
    full = Basketful(["apple"])
    full.append("pear")
    for lossy in (full, Failed(1)):
        with pytest.raises(TypeNotAllowedError, match=type(lossy).__name__):
            codec.dumps(lossy, "here")


@dataclasses.dataclass
class Failed(Exception):  # noqa: N818  # it is no error of this package's
    code: int
