"""Values of channels beside each other, sharing the references of their record."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot
from langchain_ttl_history.encoding.records import pack
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.storage.types import Entry
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.pending import decode_writes, has_open_interrupt
from langchain_ttl_history.stored.values import ValueEncoder, decode_value, shifted

SAID: list[BaseMessage] = [HumanMessage("question", id="h"), AIMessage("answer", id="a")]
LONG = "x" * 500

INPUTS: list[Any] = [
    {"messages": SAID},
    {"messages": SAID[:1], "mood": "good", "notes": LONG, "left": None},
    {"inner": {"messages": SAID}, "messages": [HumanMessage("without an id")]},
]
OTHERS: list[Any] = [None, 1, "short", LONG, SAID, SAID[0], {"a": [1]}, {"messages": []}, {"é": SAID}, {1: SAID}]


@pytest.mark.parametrize("value", [*INPUTS, *OTHERS])
def test_a_value_comes_out_as_it_went_in_wherever_its_references_stand(value: Any) -> None:
    codec = Codec()
    values = ValueEncoder(codec, "here", KnownBodies())
    values.messages([HumanMessage("before", id="b")], "other")
    stored = values.encode(value, "channel")
    assert decode_value(stored, values.refs, values.blobs, codec) == value

    other = ValueEncoder(codec, "there", KnownBodies())
    shared = other.share(stored, values.refs)
    assert decode_value(shared, other.refs, values.blobs, codec) == value

    assert decode_value(shifted(stored, 1), values.refs[1:], values.blobs, codec) == value


def test_a_snapshot_comes_out_as_one() -> None:
    codec = Codec()
    values = ValueEncoder(codec, "here", KnownBodies())
    stored = values.encode(delta_snapshot(SAID), "channel")
    assert decode_value(stored, values.refs, values.blobs, codec) == delta_snapshot(SAID)


@pytest.mark.parametrize("value", INPUTS)
def test_messages_in_what_a_graph_is_given_are_stored_as_those_of_its_conversation(value: Any) -> None:
    codec, bodies = Codec(), KnownBodies()
    values = ValueEncoder(codec, "here", bodies)
    values.encode(value, "__start__")
    bodies.sent(values.blobs)
    later = ValueEncoder(codec, "here", bodies)
    later.messages([message for message in SAID if message in value.get("messages", ())], "messages")
    assert not later.blobs, "they are there already"
    assert all(LONG.encode() not in blob.payload or name[0] == "v" for name, blob in values.blobs.items())


def test_a_pending_write_of_a_newer_format_is_read_by_nobody() -> None:
    entry = Entry(1, pack([2, "task", "path", [[0, "__interrupt__", [0, b"\x01"]]]]))
    with pytest.raises(CorruptRecordError, match="format 2, newer"):
        decode_writes([entry], {}, Codec())
    with pytest.raises(CorruptRecordError, match="format 2, newer"):
        has_open_interrupt([entry], Codec())
