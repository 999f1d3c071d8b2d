"""The retention policy: how long and how much of a session is kept."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TypeAlias, cast

from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately

from langchain_ttl_history.errors import ConfigurationError, brief

__all__ = ["Duration", "Retention", "TokenCounter", "check_count", "seconds"]

Duration: TypeAlias = "float | timedelta | None"
"""Seconds or a `timedelta`; None means unbounded."""

TokenCounter: TypeAlias = Callable[[list[BaseMessage]], int]
"""Takes messages, gives their number of tokens."""

# As `count_tokens_approximately` has it.
_CHARACTERS_A_TOKEN = 4
# The field names that hold a time; all others hold a count.
_DURATIONS = frozenset({"idle_ttl", "max_age"})


def _approximate_tokens(messages: list[BaseMessage]) -> int:
    """LangChain's approximation; messages that it cannot count are taken by the length of what they hold."""
    try:
        return count_tokens_approximately(messages)
    except Exception:  # noqa: BLE001  # a message of another class, or odd content, may raise anything there
        if len(messages) == 1:
            return len(repr(messages[0])) // _CHARACTERS_A_TOKEN + 1
        return sum(_approximate_tokens([message]) for message in messages)


@dataclass(frozen=True)
class Retention:
    """How long and how much of each session is kept; None means unbounded.

    Args:
        idle_ttl: Seconds (or a `timedelta`) a session lives after its last use.
        max_age: Seconds (or a `timedelta`) a session lives after its creation, however busy.
        max_messages: Messages a conversation shows.
        max_tokens: Tokens a conversation shows, as counted by `token_counter`.
        max_bytes: Payload bytes a session holds.
        max_checkpoints: Root checkpoints a session lists; those of subgraphs go with the root
            checkpoint they ran under.
        token_counter: Counts the tokens of a list of messages; by default as LangChain's
            `count_tokens_approximately` does.

    Raises:
        ConfigurationError: A bound is zero, negative, a bool, NaN, infinite or not a number, or `token_counter` cannot
            be called.
    """

    idle_ttl: Duration = 1800.0
    max_age: Duration = None
    max_messages: int | None = 80
    max_tokens: int | None = None
    max_bytes: int | None = 8 * 1024 * 1024
    max_checkpoints: int | None = 100
    token_counter: TokenCounter = field(default=_approximate_tokens, repr=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "token_counter":
                if not callable(value):
                    raise ConfigurationError(
                        f"token_counter must be callable, not {brief(value)}; leave it out for "
                        "LangChain's count_tokens_approximately"
                    )
            elif each.name in _DURATIONS:
                object.__setattr__(self, each.name, seconds(each.name, value))
            else:
                check_count(each.name, value)

    @property
    def idle_seconds(self) -> float | None:
        """`idle_ttl` in seconds."""
        return cast("float | None", self.idle_ttl)  # `__post_init__` made it so.

    @property
    def age_seconds(self) -> float | None:
        """`max_age` in seconds."""
        return cast("float | None", self.max_age)


def seconds(name: str, value: object) -> float | None:
    """A duration in seconds, validated.

    Args:
        name: What the duration is called in an error.
        value: Seconds, a `timedelta`, or None for unbounded.

    Raises:
        ConfigurationError: It is zero, negative, a bool, NaN, infinite or not a duration.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{name} must be seconds, a timedelta, or None for unbounded, not {brief(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or found <= 0:
        raise ConfigurationError(
            f"{name} must be more than 0 seconds and finite, not {brief(value)}; use None for unbounded"
        )
    return found


def check_count(name: str, value: object) -> None:
    """Check a bound that is a count.

    Args:
        name: What the bound is called in an error.
        value: A whole number of at least 1, or None for unbounded.

    Raises:
        ConfigurationError: It is neither.
    """
    if value is None:
        return
    # Caps are multiplied by a float, `Storage.slack`, which a much larger int would overflow.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= sys.maxsize:
        raise ConfigurationError(
            f"{name} must be a whole number of at least 1, or None for unbounded, not {brief(value)}"
        )
