"""Messages on their way: bodies that another write counts on, and a list that its run goes on with."""

from __future__ import annotations

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_ttl_history.checkpointing.conversation_changes import Step, step_changes
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.storage.types import Blob
from langchain_ttl_history.stored.bodies import encode_bodies
from langchain_ttl_history.stored.known_bodies import KnownBodies

SAID = [HumanMessage("q", id="1"), AIMessage("a", id="2"), ToolMessage("r", tool_call_id="c", id="3")]


def test_whoever_refers_to_a_body_on_its_way_sends_it_as_well_until_it_is_stored() -> None:
    codec, bodies = Codec(), KnownBodies()
    first: dict[str, Blob] = {}
    names = encode_bodies(SAID, bodies, codec, "here", first)
    second: dict[str, Blob] = {}
    assert encode_bodies(SAID, bodies, codec, "here", second) == names
    assert second == first, "a tool's result with the content it shares"
    bodies.sent(first)
    third: dict[str, Blob] = {}
    assert encode_bodies(SAID, bodies, codec, "here", third) == names
    assert third == {}


def test_a_body_that_is_alike_but_for_its_id_brings_the_content_on_its_way() -> None:
    codec, bodies = Codec(), KnownBodies()
    first: dict[str, Blob] = {}
    (content,) = encode_bodies([ToolMessage("r", tool_call_id="c")], bodies, codec, "here", first)
    second: dict[str, Blob] = {}
    (name,) = encode_bodies([ToolMessage("r", tool_call_id="c", id="3")], bodies, codec, "here", second)
    assert set(second) == {name, content}


def test_a_list_that_its_run_has_changed_since_is_told_by_what_was_stored_of_it() -> None:
    """A put may be planned beside its run, whose reducer changes the list that it handed over."""
    blobs: dict[str, Blob] = {}
    names = tuple(encode_bodies(SAID[:2], KnownBodies(), Codec(), "here", blobs))
    record = Record({"channel_versions": {}}, {}, None, "run", names=names, channel="messages")
    for value, new in ((SAID, ["2"]), (SAID[:1], [])):
        step = Step(record, value, (), names[:1], None, None)
        assert [message.id for message in step.new()] == new
        (change,) = step_changes(step, frozenset())
        assert change.added == names[1:]
