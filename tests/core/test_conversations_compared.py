"""A conversation that is handed over again is compared with the one before, and read back from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.plain import plainly
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.bodies import decode_bodies, encode_bodies, encode_conversation
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.recall import Recall
from tests.core.any_values import TYPES, Remark, alike, exactly, identified, often, values
from tests.core.compared import Compared


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(allowed=[*TYPES, Remark])


class Kept:
    """A session's bodies, and what a process knows of them."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.bodies = KnownBodies()
        self.blobs: dict[str, Blob] = {}

    def put(self, messages: Sequence[BaseMessage]) -> list[str]:
        """Store a conversation; check that it is what comes back, in either way."""
        sent: dict[str, Blob] = {}
        names = encode_conversation(messages, self.bodies, self.codec, "here", sent)
        self.blobs.update(sent)
        self.bodies.sent(sent)
        recall = Recall(self.bodies.conversation, self.codec)
        read = {name: blob for name, blob in self.blobs.items() if name not in recall.known}
        for back in (
            decode_bodies(names, self.blobs, self.codec),
            recall.decode(names, self.blobs),
            recall.decode(names, recall.completed(read)),
            # In another order, so that each is looked up by itself.
            recall.decode(names[::-1], recall.completed(read))[::-1],
        ):
            assert len(back) == len(messages)
            assert all(map(alike, back, messages))
        for end in range(len(messages)):
            # As an older checkpoint shows it.
            beginning = recall.decode(names[:end], recall.completed(read))
            assert len(beginning) == end
            assert all(map(alike, beginning, messages))
        return names


def turns(count: int) -> list[BaseMessage]:
    """Turns of four messages."""
    said: list[BaseMessage] = []
    for turn in range(count):
        call: Any = {"name": "look", "args": {"at": [turn]}, "id": f"c{turn}", "type": "tool_call"}
        said += [
            HumanMessage(f"question {turn}", id=f"h{turn}"),
            AIMessage("", tool_calls=[call], id=f"a{turn}"),
            ToolMessage(f"result {turn}", tool_call_id=f"c{turn}", id=f"t{turn}"),
            AIMessage([{"type": "text", "text": f"answer {turn}"}], id=f"b{turn}"),
        ]
    return said


def _text(message: BaseMessage) -> None:
    message.content = "another"


def _block(message: BaseMessage) -> None:
    if isinstance(message.content, list):
        message.content.append("more")
    else:
        message.content += "more"


def _nested(message: BaseMessage) -> None:
    message.additional_kwargs["seen"] = {"by": 1}


def _kind(message: BaseMessage) -> None:
    # Equal to what it replaces, and of another type.
    message.response_metadata["count"] = True


def _extra(message: BaseMessage) -> None:
    message.mood = "good"  # type: ignore[attr-defined]  # any is allowed


def _name(message: BaseMessage) -> None:
    message.name = "somebody"


@pytest.mark.parametrize("change", [_text, _block, _nested, _kind, _extra, _name])
@pytest.mark.parametrize("place", [0, 1, 2, 3, 5, 11])
def test_a_message_that_was_changed_in_place_is_found_wherever_it_stands(
    codec: Codec, change: Callable[[BaseMessage], None], place: int
) -> None:
    kept, said = Kept(codec), turns(3)
    for message in said:
        message.response_metadata["count"] = 1
    before = kept.put(said)
    change(said[place])
    after = kept.put(said)
    assert [at for at, (one, other) in enumerate(zip(before, after, strict=True)) if one != other] == [place]
    said.append(HumanMessage("next", id="n"))
    assert kept.put(said)[:-1] == after


@pytest.mark.parametrize("cut", [1, 4, 11])
def test_what_is_left_of_a_conversation_after_a_cut_is_not_stored_anew(codec: Codec, cut: int) -> None:
    kept, said = Kept(codec), turns(3)
    names = kept.put(said)
    later = [*said[cut:], HumanMessage("next", id="n")]
    sent: dict[str, Blob] = {}
    assert encode_conversation(later, kept.bodies, codec, "here", sent)[:-1] == names[cut:]
    assert len(sent) == 1


def test_a_message_of_another_class_with_the_same_fields_is_not_taken_for_the_one_before(codec: Codec) -> None:
    kept = Kept(codec)
    for message in (HumanMessage("x", id="1"), Remark("x", id="1"), HumanMessage("x", id="1")):
        kept.put([HumanMessage("first", id="0"), message, HumanMessage("last", id="2")])


def test_what_an_image_would_bring_back_as_something_else_is_read_from_where_it_is_stored(codec: Codec) -> None:
    kept, said = Kept(codec), turns(2)
    said[2] = ToolMessage("r", tool_call_id="c0", id="t0", artifact=bytearray(b"raw"))
    kept.put(said)
    kept.put([*said, HumanMessage("next", id="n")])


def test_messages_read_from_there_are_nobody_elses(codec: Codec) -> None:
    kept, said = Kept(codec), turns(2)
    names = kept.put(said)
    first = Recall(kept.bodies.conversation, codec).decode(names, kept.blobs)
    first[1].additional_kwargs["changed"] = True
    first[1].mood = "good"  # type: ignore[attr-defined]  # any is allowed
    second = Recall(kept.bodies.conversation, codec).decode(names, kept.blobs)
    assert all(map(alike, second, said))


def test_the_beginning_of_a_conversation_is_read_from_there_at_once(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, said = Kept(codec), turns(3)
    names = kept.put(said)
    recall = Recall(kept.bodies.conversation, codec)

    def one_by_one(*_: object) -> bytes:
        pytest.fail("each image is unpacked and packed again by itself")

    monkeypatch.setattr(Codec, "packed_image", one_by_one)
    assert all(map(alike, recall.decode(names[:5], recall.completed({})), said[:5]))


def test_a_message_is_found_there_without_a_search(codec: Codec) -> None:
    def comparisons(count: int) -> int:
        kept = Kept(codec)
        kept.put(turns(count))
        conversation = kept.bodies.conversation
        names = [Compared(name) for name in conversation.names]
        found = Recall(conversation._replace(names=names), codec).completed({})  # type: ignore[arg-type]  # are names
        before = Compared.count
        assert all(found[name].payload == kept.blobs[name].payload for name in names if not kept.blobs[name].refs)
        return Compared.count - before

    assert comparisons(40) <= 5 * comparisons(10)


def test_what_was_read_is_compared_with_as_well(codec: Codec) -> None:
    kept, said = Kept(codec), turns(3)
    names = kept.put(said)
    other = KnownBodies()
    messages = decode_bodies(names, kept.blobs, codec)
    other.learn_read(names, messages, kept.blobs, codec)
    sent: dict[str, Blob] = {}
    assert encode_conversation(messages, other, codec, "there", sent) == names
    assert not sent
    assert all(map(alike, Recall(other.conversation, codec).decode(names, {}), said)), "nothing but what it learnt"


edits = st.lists(
    st.tuples(st.sampled_from(["cut", "append", "edit", "drop", "swap", "repeat"]), st.integers(0, 20)), max_size=8
)


@often
@given(
    said=st.lists(identified, min_size=1, max_size=6), more=st.lists(identified, min_size=1, max_size=4), edits=edits
)
def test_any_conversation_after_any_other_comes_out_as_it_went_in(
    codec: Codec, said: list[BaseMessage], more: list[BaseMessage], edits: list[tuple[str, int]]
) -> None:
    kept = Kept(codec)
    kept.put(said)
    for edit, at in edits:
        place = at % len(said) if said else 0
        if edit == "cut":
            said = said[place:]
        elif edit == "append":
            said = [*said, more[at % len(more)]]
        elif edit == "edit" and said:
            said[place].name = f"n{at}"
        elif edit == "drop":
            said = said[:place] + said[place + 1 :]
        elif edit == "swap":
            said = said[place:] + said[:place]
        elif edit == "repeat":
            said = [*said, *said[place : place + 1]]
        kept.put(said)


@often
@given(value=values)
def test_what_is_packed_without_trying_comes_back(value: Any) -> None:
    packed = plainly(value)
    if packed is not None:
        assert exactly(value, ormsgpack.unpackb(packed))


@pytest.mark.parametrize(
    "value", [bytearray(b"x"), [memoryview(b"x")], ormsgpack.Ext(1, b"x"), {"a": ormsgpack.Ext(9, b"")}, {1: 2}, (1,)]
)
def test_what_comes_back_as_something_else_is_not_packed_without_trying(value: Any) -> None:
    assert plainly(value) is None
    assert plainly({"beside": ["Łódź", value]}) is None


@pytest.mark.parametrize("value", ["Łódź", "שלום", b"\xc4\xd4", {"a": [1, None, 2.5, "Ł"]}])
def test_plain_data_with_suspect_bytes_is_plain_all_the_same(value: Any) -> None:
    packed = plainly(value)
    assert packed is not None
    assert ormsgpack.unpackb(packed) == value


@pytest.mark.parametrize("place", range(4))
def test_a_message_of_a_class_without_images_may_stand_anywhere(codec: Codec, place: int) -> None:
    kept, said = Kept(codec), turns(1)
    said.insert(place, Remark("a remark that is longer than others", id="r"))
    kept.put(said[:-1])
    kept.put(said)
    kept.put([*said, HumanMessage("more", id="m")])


class Meanwhile(Codec):
    """A codec during whose work the run gives a message its id, as it does while what a task wrote is stored."""

    def image_of(self, message: BaseMessage) -> bytes | None:
        image = super().image_of(message)
        message.id = message.id or "given"
        return image


def test_a_message_that_gets_its_id_while_it_is_stored_comes_back_with_it() -> None:
    codec, bodies = Meanwhile(), KnownBodies()
    message = AIMessage("answer")
    sent: dict[str, Blob] = {}
    names = encode_bodies([message], bodies, codec, "here", sent)
    bodies.learn_read(names, [message], sent, codec)
    assert Recall(bodies.conversation, codec).decode(names, sent) == [AIMessage("answer", id="given")]


class Changing(Codec):
    """A codec that takes the images of a conversation just before a step changes a message in place."""

    def __init__(self, change: Callable[[], None]) -> None:
        super().__init__()
        self.change = change

    def images(self, messages: Sequence[BaseMessage]) -> tuple[int, bytes]:
        images = super().images(messages)
        self.change()
        return images


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("field", ["id", "content"])
def test_a_message_that_is_changed_while_its_conversation_is_stored_comes_back_as_it_is_stored(
    field: str, place: int
) -> None:
    said = [HumanMessage("question", id="1"), AIMessage("answer", id="2"), AIMessage("more", id="3")]
    message = said[place]
    codec, bodies = Changing(lambda: setattr(message, field, "another, which is longer")), KnownBodies()
    sent: dict[str, Blob] = {}
    names = encode_conversation(said, bodies, codec, "here", sent)
    assert Recall(bodies.conversation, codec).decode(names, sent) == decode_bodies(names, sent, codec) == said
    assert Recall(bodies.conversation, codec).decode(names[:1], sent) == decode_bodies(names[:1], sent, codec)
