"""Retention: units and validation."""

from __future__ import annotations

import math
import sys
from dataclasses import FrozenInstanceError
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.utils import count_tokens_approximately

from langchain_ttl_history.errors import ConfigurationError
from langchain_ttl_history.retention import Retention, seconds

DURATIONS = ["idle_ttl", "max_age"]
COUNTS = ["max_messages", "max_tokens", "max_bytes", "max_checkpoints"]


def test_the_defaults_bound_everything_but_age_and_tokens() -> None:
    retention = Retention()
    assert (retention.idle_ttl, retention.max_age) == (1800.0, None)
    assert (retention.max_messages, retention.max_tokens) == (80, None)
    assert (retention.max_bytes, retention.max_checkpoints) == (8 * 1024 * 1024, 100)
    said = [HumanMessage("How are you?"), AIMessage("Fine."), ToolMessage("1", tool_call_id="1")]
    assert retention.token_counter(said) == count_tokens_approximately(said)


class Note(BaseMessage):
    """A message of no kind that LangChain counts."""

    type: str = "note"


@pytest.mark.parametrize(
    "odd", [Note(content="x" * 400), HumanMessage([{"type": "text", "text": None}])], ids=["class", "content"]
)
def test_by_default_whatever_can_be_stored_is_counted(odd: BaseMessage) -> None:
    counter, known = Retention().token_counter, HumanMessage("How are you?")
    assert counter([known, odd]) == counter([known]) + counter([odd])
    assert len(odd.content) / 4 < counter([odd]) < 200


@pytest.mark.parametrize("field", DURATIONS)
@given(value=st.integers(1, 10**9) | st.floats(1e-6, 1e9))
def test_a_duration_is_in_seconds(field: str, value: float) -> None:
    retention = Retention(**{field: value})
    assert getattr(retention, field) == value
    assert type(getattr(retention, field)) is float
    assert {"idle_ttl": retention.idle_seconds, "max_age": retention.age_seconds}[field] == value


@pytest.mark.parametrize("field", DURATIONS)
@given(value=st.timedeltas(timedelta(microseconds=1), timedelta(days=9999)))
def test_a_timedelta_is_the_same_as_its_seconds(field: str, value: timedelta) -> None:
    assert Retention(**{field: value}) == Retention(**{field: value.total_seconds()})
    assert seconds(field, value) == value.total_seconds()


@pytest.mark.parametrize("field", DURATIONS)
@pytest.mark.parametrize(
    "value",
    [0, 0.0, -1, -0.5, True, False, math.nan, math.inf, -math.inf, "60", b"60", Decimal(1), [1], timedelta(0),
     timedelta(seconds=-1), 1j],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_duration_that_is_none_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Retention(**{field: value})
    with pytest.raises(ConfigurationError, match="this one"):
        seconds("this one", value)


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize(
    "value",
    [0, -1, True, False, 1.0, math.nan, math.inf, "3", timedelta(1), [1]],
    ids=lambda value: type(value).__name__,
)
def test_a_count_that_is_none_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Retention(**{field: value})


@pytest.mark.parametrize("field", [*DURATIONS, *COUNTS])
def test_none_means_unbounded_and_one_is_the_least(field: str) -> None:
    assert getattr(Retention(**{field: None}), field) is None
    assert getattr(Retention(**{field: 1}), field) == 1


@pytest.mark.parametrize("field", COUNTS)
def test_a_count_may_be_as_large_as_any_length(field: str) -> None:
    assert getattr(Retention(**{field: sys.maxsize}), field) == sys.maxsize


@pytest.mark.parametrize("value", [None, 3, "approximate"])
def test_a_token_counter_is_callable(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="token_counter"):
        Retention(token_counter=value)


def test_a_retention_is_a_value() -> None:
    assert Retention(idle_ttl=60) == Retention(idle_ttl=timedelta(minutes=1))
    assert len({Retention(), Retention(idle_ttl=1800)}) == 1
    with pytest.raises(FrozenInstanceError):
        Retention().idle_ttl = 5  # type: ignore[misc]  # that it is refused is the test


def test_a_wrong_setting_is_a_value_error_as_well() -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        Retention(max_bytes=0)
