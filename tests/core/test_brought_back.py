"""Messages that a window had cut: when they may have come back, and where they stand then."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.base import empty_checkpoint

from langchain_ttl_history.checkpointing.brought_back import keep_cut_first, may_bring_back
from langchain_ttl_history.checkpointing.put_inputs import Put
from langchain_ttl_history.checkpointing.run_token import Token
from langchain_ttl_history.encoding.langgraph_values import delta_snapshot, is_snapshot, snapshot_value
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.log_entries import Seen
from langchain_ttl_history.stored.names import content_name

KINDS: dict[str, type[BaseMessage]] = {"q": HumanMessage, "a": AIMessage, "s": SystemMessage}


def messages(names: str) -> list[BaseMessage]:
    """Messages of these ids, each of the kind that its letter says."""
    return [KINDS[name[0]](name, id=name) for name in names.split()]


@pytest.mark.parametrize("in_snapshot", [False, True])
@pytest.mark.parametrize(
    ("new", "may"),
    [
        ("q1 a1 q3", True),
        ("a1 q3", True),
        ("q1 a1 s1 q3", True),
        # A turn, and steps of one.
        ("q3", False),
        ("q3 a3", False),
        ("a3 s3 a4", False),
        ("", False),
    ],
)
def test_what_was_cut_may_have_come_back_where_an_answer_precedes_a_question(
    new: str, may: bool, *, in_snapshot: bool
) -> None:
    shown = [content_name(b"") + id for id in ("q2", "a2")]
    token = Token.of(1, "c", Seen(), shown, shown)  # type: ignore[arg-type]  # names of bodies are strings
    value: Any = messages(f"q2 a2 {new}")
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {"messages": delta_snapshot(value) if in_snapshot else value}
    put = Put.of(SessionKey("u", "t"), "", "c", checkpoint, {}, ())
    assert may_bring_back(put, token, "messages") is may


def test_what_was_cut_stands_in_front_in_its_order_and_a_snapshot_stays_one() -> None:
    value = messages("q2 a2 q1 a1 q3")
    ordered = messages("q1 a1 q2 a2 q3")
    assert keep_cut_first(value, {"a1", "q1"}) == ordered  # type: ignore[arg-type]  # keys are strings
    snapshot = keep_cut_first(delta_snapshot(value), {"a1", "q1"})  # type: ignore[arg-type]  # keys are strings
    assert is_snapshot(snapshot)
    assert snapshot_value(snapshot) == ordered
