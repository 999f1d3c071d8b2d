"""Stored bytes that nobody's writer made: they are refused by a typed error, and run nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_ttl_history import CorruptRecordError, TypeNotAllowedError
from langchain_ttl_history.checkpoints import Record, encode_record, encode_values
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding import nesting
from langchain_ttl_history.encoding.nesting import levels
from langchain_ttl_history.encoding.records import pack, unpack
from langchain_ttl_history.index import every_line, line_payload
from langchain_ttl_history.log_entries import deltas_of
from langchain_ttl_history.pointers import found_record
from langchain_ttl_history.storage.types import Blob, Entry
from langchain_ttl_history.stored.bodies import decode_bodies, encode_new
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import checkpoint_name
from langchain_ttl_history.stored.values import LIST

_TYPED, _TUPLE, _OBJECT = 2, 3, 8
_ITEMS = 3


@dataclass
class Job:
    command: str

    def __post_init__(self) -> None:
        raise AssertionError(f"{self.command} is run")


class Outer:
    @dataclass
    class Job:
        at: int

    class Colour(Enum):
        RED = "outer"


class Colour(Enum):
    RED = "red"


def extension(code: int, *parts: Any) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(list(parts))))


BOMB = """
import ormsgpack
from langchain_ttl_history import CorruptRecordError
from langchain_ttl_history.codec import Codec

bomb = b"\\xc0"
for _ in range({levels}):
    bomb = ormsgpack.packb(ormsgpack.Ext({code}, b"\\x91" * {lists} + bomb))
try:
    Codec().loads(bomb)
except CorruptRecordError as error:
    print(error)
"""


@pytest.mark.parametrize("code", [1, _TUPLE, 7, _OBJECT])
@pytest.mark.parametrize(("levels", "lists"), [(100, 300), (16, 1_000), (2_500, 1)])
def test_values_nested_in_extensions_do_not_fill_the_stack(code: int, levels: int, lists: int) -> None:
    """In a process of its own, which ended with a signal."""
    program = BOMB.format(levels=levels, lists=lists, code=code)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "a value cannot be read" in ended.stdout


def in_tuples(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = (value,)
    return value


def in_extensions(levels: int, wrap: Callable[[bytes], tuple[int, bytes]]) -> bytes:
    packed = ormsgpack.packb(b"x" * 2**21)
    for _ in range(levels):
        packed = ormsgpack.packb(ormsgpack.Ext(*wrap(packed)))
    return packed


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: in_extensions(450, lambda held: (_TUPLE, b"\x91" + held)),
        lambda: in_extensions(130, lambda held: (1, ormsgpack.packb(["id", b"\x92\x63" + held]))),
        lambda: extension(_TYPED, "msgpack", in_extensions(450, lambda held: (0, b"\x91" + held))),
    ],
    ids=["tuples", "messages", "of LangGraph"],
)
def test_values_nested_in_extensions_do_not_fill_the_memory(bomb: Callable[[], bytes]) -> None:
    packed = bomb()
    tracemalloc.start()
    try:
        with pytest.raises(CorruptRecordError, match=r"nested too deeply for its size: .* more than 256 MiB"):
            Codec().loads(packed)
        assert tracemalloc.get_traced_memory()[1] < 450 * 2**20
    finally:
        tracemalloc.stop()


def test_what_is_large_and_nested_comes_back_or_is_refused_when_it_is_written() -> None:
    codec = Codec()
    # Side by side values take no memory at the same time.
    value = [in_tuples(b"x" * 2**20, 200)] * 3
    assert codec.loads(codec.dumps(value, "here")) == value
    with pytest.raises(TypeNotAllowedError, match=r"here: a value .* is nested too deeply to be stored"):
        codec.dumps(in_tuples(b"x" * 2**20, 300), "here")


def test_how_much_nested_values_may_take_grows_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nesting, "_HELD", 2**20)
    codec, large = Codec(), b"x" * 2**20
    assert codec.loads(codec.dumps(in_tuples(large, 32), "here")) == in_tuples(large, 32)
    packed = in_extensions(33, lambda held: (_TUPLE, b"\x91" + held))
    with pytest.raises(CorruptRecordError, match=r"more than 64 MiB"):
        codec.loads(packed)


def test_a_long_chain_of_objects_is_stored_whatever_its_texts_are() -> None:
    chain: Any = None
    for _ in range(60):
        chain = ("文" * 500, chain)
    codec = Codec()
    assert codec.loads(codec.dumps(chain, "here")) == chain


trees = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40) | st.binary(max_size=300),
    lambda each: st.lists(each, max_size=20) | st.dictionaries(st.text(max_size=3), each, max_size=20),
    max_leaves=40,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(value=trees.filter(lambda each: not isinstance(each, int) or -(2**63) <= each < 2**64))
def test_how_deep_a_value_is_nested_is_counted_exactly_where_it_matters(value: Any) -> None:
    try:
        packed = ormsgpack.packb(value)
    except TypeError:
        return  # An integer of more than 64 bits.
    assert levels(packed, -1) == depth(value)
    assert levels(packed, 10**6) >= depth(value)


@given(data=st.binary(max_size=60))
def test_counting_ends_whatever_the_bytes_are(data: bytes) -> None:
    assert levels(data, -1) <= len(data)


@pytest.mark.parametrize(
    ("how", "state"), [(2, ["rm"]), (3, "rm"), (4, ["rm"]), (5, [1]), (6, [[], 1]), (7, [1, 0]), (8, "rm"), (9, {})]
)
def test_an_object_is_made_only_as_objects_of_its_class_are_taken_apart(how: int, state: Any) -> None:
    codec = Codec(allowed=[Job])
    with pytest.raises(CorruptRecordError, match="taken apart"):
        codec.loads(extension(_OBJECT, Job.__module__, "Job", how, state))


@pytest.mark.parametrize("name", ["__class__", "__dict__"])
def test_no_attribute_replaces_what_an_object_is(name: str) -> None:
    with pytest.raises(CorruptRecordError, match="attributes"):
        Codec(allowed=[Job]).loads(extension(_OBJECT, Job.__module__, "Job", 0, {"command": "", name: {}}))


@pytest.mark.parametrize(
    "value",
    [
        {"lc": 2, "type": "constructor", "id": ["uuid", "UUID"], "args": ["damaged"], "kwargs": {}},
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain_core", "prompts", "prompt", "PromptTemplate"],
            "kwargs": {"template": "{x}", "input_variables": ["x"]},
        },
    ],
)
def test_langchains_own_loader_reads_nothing(value: Any) -> None:
    with pytest.raises(CorruptRecordError, match="kind 'json'"):
        Codec().loads(extension(_TYPED, "json", json.dumps(value)))


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_classes_of_one_name_are_told_apart(learning: bool, turned: bool) -> None:
    values: list[Any] = [Outer.Job(1), Colour.RED, Outer.Colour.RED]
    allowed = [*map(type, values), Job]
    codec = Codec(learning=learning, allowed=() if learning else allowed[:: -1 if turned else 1])
    packed = [codec.dumps(value, "here") for value in values[:: -1 if turned else 1]]
    found = [codec.loads(each) for each in packed][:: -1 if turned else 1]
    assert found == values
    assert [*map(type, found)] == [*map(type, values)]


def test_a_message_that_changed_where_it_is_stored_is_not_read() -> None:
    codec, blobs = Codec(), {}
    (name,) = encode_new([HumanMessage("pay 100 dollars", id="h")], codec, "here", blobs)
    changed = blobs[name].payload.replace(b"100", b"900")
    with pytest.raises(CorruptRecordError, match="body of message 'h' is damaged"):
        decode_bodies([name], {name: blobs[name]._replace(payload=changed)}, codec)


def called(times: int, work: Callable[[], Any]) -> Any:
    return work() if not times else called(times - 1, work)


@pytest.mark.parametrize("wrap", [lambda each: (each, "x"), lambda each: frozenset([each]), lambda each: {(1,): each}])
def test_what_could_be_written_can_be_read_by_a_program_whose_stack_is_fuller(wrap: Callable[[Any], Any]) -> None:
    codec, value = Codec(), wrap(None)
    packed = codec.dumps(value, "here")
    for _ in range(400):
        try:
            packed = codec.dumps(wrap(value), "here")
        except TypeNotAllowedError:
            break
        value = wrap(value)
    assert called(100, lambda: codec.loads(packed)) is not None


def test_which_of_two_classes_was_meant_by_a_name_alone_is_not_guessed() -> None:
    """As what LangGraph's own serializer packs names a class."""
    payload = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb([Colour.__module__, "Colour", "red"])))
    packed = extension(_TYPED, "msgpack", payload)
    assert Codec(allowed=[Colour]).loads(packed) is Colour.RED
    with pytest.raises(TypeNotAllowedError, match="several allowed classes"):
        Codec(allowed=[Colour, Outer.Colour]).loads(packed)


class Pausing(type):
    """Lets another thread do something where a class is asked for its qualified name."""

    meanwhile: ClassVar[Callable[[], Any] | None] = None

    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__" and (meanwhile := Pausing.meanwhile):
            Pausing.meanwhile = None
            other = threading.Thread(target=meanwhile)
            other.start()
            other.join()
        return super().__getattribute__(name)


class Sheet(metaclass=Pausing):
    """Packed by LangGraph's serializer, as a model of pydantic 1 is, which names a class by its last name."""

    def __init__(self, at: int) -> None:
        self.at = at

    def dict(self) -> Any:
        return {"at": self.at}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Book:
    class Sheet(Sheet):
        pass


def test_a_class_that_one_thread_stores_is_not_refused_for_another_thread_storing_one_of_its_name() -> None:
    codec, stored = Codec(learning=True), []
    Pausing.meanwhile = lambda: stored.append(codec.dumps(Book.Sheet(1), "here"))
    with pytest.raises(TypeNotAllowedError, match="would not come back as it is"):
        codec.dumps(Sheet(2), "here")
    assert codec.loads(*stored) == Book.Sheet(1)


def test_a_class_that_langgraph_announces_by_its_last_name_is_allowed_where_it_stands() -> None:
    packed = Codec(allowed=[Outer.Colour]).dumps(Outer.Colour.RED, "here")
    assert Codec(allowed=[(__name__, "Colour")]).loads(packed) is Outer.Colour.RED


class Proxy:
    """As a lazy setting, a remote object or a mock: it makes up what it is asked for."""

    asked: ClassVar[list[str]] = []

    def __getattribute__(self, name: str) -> Any:
        Proxy.asked.append(name)
        return type if name == "__class__" else Outer.Job


proxy = Proxy()


@pytest.mark.parametrize("name", ["proxy.Job", "proxy.proxy.Job", "Outer.proxy.Job"])
def test_no_object_of_a_module_is_asked_for_a_class_that_it_announces(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outer, "proxy", proxy, raising=False)
    Proxy.asked.clear()
    codec = Codec(allowed=[(__name__, "Job")])
    with pytest.raises(TypeNotAllowedError, match="proxy is not a class"):
        codec.loads(extension(_OBJECT, __name__, name, 0, {"at": 1}))
    assert Proxy.asked == []
    assert codec.loads(extension(_OBJECT, __name__, "Outer.Job", 0, {"at": 1})) == Outer.Job(1)


class Asked(type):
    """Makes up attributes, and notes for which names."""

    asked: ClassVar[list[str]] = []

    def __getattr__(cls, name: str) -> Any:
        Asked.asked.append(name)
        return Outer


class MadeUp(metaclass=Asked):
    pass


def test_no_class_and_no_module_makes_up_what_stored_bytes_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = Asked.__getattr__.__get__(MadeUp)
    monkeypatch.setattr(sys.modules[__name__], "__getattr__", made_up, raising=False)
    codec = Codec(allowed=[(__name__, "Job")])
    for name in ("Gone.Job", "MadeUp.Gone.Job"):
        with pytest.raises(TypeNotAllowedError, match="not there"):
            codec.loads(extension(_OBJECT, __name__, name, 0, {"at": 1}))
    assert "Gone" not in Asked.asked


def test_a_class_that_a_program_names_in_full_is_found_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "single", Outer(), raising=False)
    codec = Codec(allowed=[(__name__, "single.Job")])
    assert codec.loads(extension(_OBJECT, __name__, "single.Job", 0, {"at": 1})) == Outer.Job(1)


class Flags(frozenset[str]):
    """A class that quotes what it cannot be made of."""

    def __new__(cls, names: list[str]) -> Flags:
        raise ValueError(f"{names[0]} is no flag")


ODD = "X\x1b]0;title\x07\n2024-01-01 INFO all is well"


@pytest.mark.parametrize(
    "packed",
    [
        extension(_OBJECT, "evil", ODD, 0, {}),
        extension(_OBJECT, ODD, "Job", 0, {}),
        extension(_OBJECT, __name__, f"{ODD}.Job", 0, {}),
        extension(_OBJECT, __name__, "Flags", _ITEMS, [ODD]),
        extension(_TYPED, "msgpack", ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(["evil", ODD, 1])))),
        extension(_TYPED, "msgpack", ormsgpack.packb(ormsgpack.Ext(2, ormsgpack.packb([__name__, "Job", {ODD: 1}])))),
        extension(_TYPED, "msgpack", ormsgpack.packb(ormsgpack.Ext(3, ormsgpack.packb([__name__, "Job", 1, ODD])))),
        extension(1, "id", ormsgpack.packb([None, -1, ["evil", ODD], {}, None, None])),
        extension(1, "id", ormsgpack.packb([None, -1, [ODD, "Job"], {}, None, None])),
    ],
    ids=repr,
)
def test_what_an_error_quotes_of_stored_bytes_is_no_control_code_and_no_line_of_its_own(packed: bytes) -> None:
    codec = Codec(allowed=[(__name__, "Job"), (__name__, "Flags"), (ODD, "Job")])
    with pytest.raises((TypeNotAllowedError, CorruptRecordError)) as refused:
        codec.loads(packed)
    assert str(refused.value).isprintable()
    assert r"\x1b" in str(refused.value)


def test_a_type_that_is_no_class_of_messages_any_more_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], ODD, Job, raising=False)
    packed = extension(1, "id", ormsgpack.packb([None, -1, [__name__, ODD], {}, None, None]))
    with pytest.raises(TypeNotAllowedError, match="not a message class any more") as refused:
        Codec(allowed=[(__name__, ODD)]).loads(packed)
    assert str(refused.value).isprintable()


class Popen(Enum):
    """As the class of this name in a module that is imported here."""

    ONE = 1


@pytest.mark.parametrize(
    ("name", "why"),
    [("Outer.Popen", r"imported into .*, and not defined there"), ("subprocess.Popen", "subprocess is not a class")],
)
def test_a_class_that_a_module_only_imports_is_not_the_one_it_announces(
    name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outer, "Popen", subprocess.Popen, raising=False)
    codec = Codec(allowed=[(__name__, "Popen")])
    payload = ormsgpack.packb(ormsgpack.Ext(2, ormsgpack.packb([__name__, name, {"args": ["true"]}])))
    for packed in (extension(_TYPED, "msgpack", payload), extension(_OBJECT, __name__, name, 0, {})):
        with pytest.raises(TypeNotAllowedError, match=why):
            codec.loads(packed)


def test_a_class_that_is_not_allowed_stays_so_under_another_name() -> None:
    packed = Codec(allowed=[Outer.Colour]).dumps(Outer.Colour.RED, "here")
    with pytest.raises(TypeNotAllowedError, match=r"Outer\.Colour is not allow-listed"):
        Codec(allowed=[Colour]).loads(packed)


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("named", [{}, [], 5])
def test_an_index_line_that_names_something_by_no_text_is_damaged(at: int, named: Any) -> None:
    line: list[Any] = [1, "", "id", None, None, None, None, None]
    line[at] = named
    with pytest.raises(CorruptRecordError, match="damaged"):
        every_line([Entry(1, pack(line))])


@pytest.mark.parametrize(
    "record",
    [[1, 5, [], None], [1, {}, [], None], [1, "run", [{}], None], [1, "run", [5], None], [1, "run", [], None, 0, [{}]]],
    ids=repr,
)
def test_a_log_entry_that_names_something_by_no_text_is_damaged(record: Any) -> None:
    with pytest.raises(CorruptRecordError, match="damaged"):
        deltas_of([Entry(1, pack(record))])


def _stored(place: int, value: Any) -> dict[str, Blob]:
    """A checkpoint of two messages, one field of its record changed."""
    codec = Codec()
    record = Record(
        {"id": "1", "channel_versions": {}, "versions_seen": {}}, {}, None, "1",
        names=("ma", "mb"), channel="messages", values={"messages": [LIST, 0, 2]}, refs=("ma", "mb"),
    )  # fmt: skip
    blob = encode_record(record, codec, "here")
    fields = unpack(blob.payload)
    fields[place] = value
    return {checkpoint_name("", "1"): blob._replace(payload=pack(fields))}


@pytest.mark.parametrize("conversation", [[0, 1], [1, 2], [0, 3], [0, 2, 2], []], ids=repr)
def test_a_conversation_is_never_shown_in_part(conversation: list[int]) -> None:
    codec = Codec()
    found = found_record("", "1", _stored(7, [0, 2]), codec)
    assert found is not None
    assert found.names == ("ma", "mb")
    with pytest.raises(CorruptRecordError, match="damaged"):
        found_record("", "1", _stored(7, conversation), codec)


@pytest.mark.parametrize("id", ["2", 1, None])
def test_a_checkpoint_with_the_id_of_another_is_damaged(id: Any) -> None:
    with pytest.raises(CorruptRecordError, match="damaged"):
        found_record("", "1", _stored(1, {"id": id, "channel_versions": {}, "versions_seen": {}}), Codec())


@pytest.mark.parametrize(
    ("tag", "name"), [(-1, ["a module", 5]), (-1, [5, "A"]), (-2, None), (-13, None), (99, None)], ids=repr
)
def test_a_message_of_no_class_is_refused(tag: int, name: Any) -> None:
    with pytest.raises((CorruptRecordError, TypeNotAllowedError)):
        Codec().message(pack([None, tag, name, {"content": "hello"}, None, None]), "1")


class Turned:
    """A cipher that turns bytes round."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "turned", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


def test_what_is_sealed_is_read_by_no_loader_that_its_kind_names() -> None:
    codec = Codec(cipher=EncryptedSerializer(Turned()))
    kind, data = unpack(codec.seal(b"text"))
    assert codec.unseal(pack([kind, data])) == b"text"
    for other in ("msgpack+turned", "pickle+turned", "json+turned", "msgpack"):
        with pytest.raises(CorruptRecordError, match=r"not as bytes|not encrypted"):
            codec.unseal(pack([other, data]))


class Zipped(JsonPlusSerializer):
    """Packs what is long, and says so in the kind."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return (f"{kind}-zlib", zlib.compress(data)) if len(data) > 100 else (kind, data)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        kind, packed = data
        return super().loads_typed((kind.removesuffix("-zlib"), zlib.decompress(packed) if "-" in kind else packed))


@pytest.mark.parametrize("cipher", [Zipped(), EncryptedSerializer(Turned(), Zipped())], ids=["alone", "encrypted"])
@pytest.mark.parametrize("size", [1, 1_000])
def test_the_kinds_of_a_programs_own_serializer_are_its_own(cipher: Any, size: int) -> None:
    codec = Codec(cipher=cipher)
    assert codec.unseal(codec.seal(b"a" * size)) == b"a" * size


def test_a_channel_without_a_name_is_no_conversation() -> None:
    codec = Codec()
    record = Record({"id": "1", "channel_versions": {"": 1}, "versions_seen": {}}, {}, None, "1")
    encode_values(record, {"": 5}, KnownBodies(), codec, "here")
    found = found_record("", "1", {checkpoint_name("", "1"): encode_record(record, codec, "here")}, codec)
    assert found is not None
    assert found.decode_values({}, codec) == {"": 5}


def test_a_line_names_the_root_by_text_whatever_the_metadata_has() -> None:
    record = Record({"id": "1", "channel_versions": {}, "versions_seen": {}}, {"parents": {"": 5}}, None, "1")
    (line,) = every_line([Entry(1, line_payload("sub", "1", record))])
    assert line.root == "5"
