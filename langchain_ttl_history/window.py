"""The window: the newest part of a conversation that fits the caps and is a valid chat.

Pure functions over messages. Three ideas carry it: a *result* is matched to its call by
position, a *block* is a stretch no cut may enter (a tool call up to its last result), and a
*turn* opens with a human message outside every block.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage

from langchain_ttl_history.errors import ConfigurationError, brief

__all__ = [
    "Caps",
    "answerable",
    "callers",
    "calls_of",
    "calls_with_results",
    "ends_open",
    "results_by_caller",
    "simple_start",
    "visible",
    "without_open_group",
]


# Blocks of content that are a call of one of the program's own tools; most are in `tool_calls` as well.
_CALL_BLOCKS = frozenset({"tool_use", "tool_call"})


@dataclass(frozen=True)
class Caps:
    """The bounds of a window; None means unbounded."""

    messages: int | None = None
    tokens: int | None = None
    token_counter: Callable[[list[BaseMessage]], int] | None = None
    bytes: int | None = None


def calls_of(message: BaseMessage) -> list[str | None]:
    """The ids of the tool calls that wait for a `ToolMessage`; server-side calls are content."""
    if _kind(type(message)) is not AIMessage:
        return []
    return [call.get("id") for call in message.tool_calls]  # type: ignore[attr-defined]  # an AIMessage, by its kind


def answerable(message: BaseMessage) -> list[str | None]:
    """The ids of the calls that a `ToolMessage` may answer: those of `calls_of`, and others that nobody has to answer.

    An agent answers a call that could not be parsed with an error. A call that a provider has of its own, of a computer
    for example, is in the content, where its `call_id` tells it from calls that run on the provider's servers.
    """
    calls = calls_of(message)
    if _kind(type(message)) is not AIMessage:
        return calls
    others = [call.get("id") for call in message.invalid_tool_calls]  # type: ignore[attr-defined]  # as above
    content, outputs = message.content, message.additional_kwargs.get("tool_outputs")
    for blocks in (content, outputs):
        if isinstance(blocks, list):
            others += [_call_id(block) for block in blocks if isinstance(block, dict)]
    named = dict.fromkeys(each for each in others if isinstance(each, str))
    return [*calls, *(each for each in named if each not in calls)]


def _call_id(block: dict[str, Any]) -> Any:
    kind = block.get("type")
    if kind == "non_standard" and isinstance(block.get("value"), dict):
        block = block["value"]  # As langchain-core wraps what it has no block of its own for.
        kind = block.get("type")
    return block.get("id") if isinstance(kind, str) and kind in _CALL_BLOCKS else block.get("call_id")


@lru_cache(maxsize=1024)
def _kind(cls: type[BaseMessage]) -> type[BaseMessage]:
    """The class that decides how a message is treated.

    Cached by class: an isinstance check of a pydantic class costs as much as the rest of a pass.
    """
    for kind in (AIMessage, ToolMessage, HumanMessage):
        if issubclass(cls, kind):
            return kind
    return BaseMessage


def visible(messages: Sequence[BaseMessage], caps: Caps, sizes: Sequence[int] | None = None) -> list[int]:
    """The positions of the messages that the window shows, in order.

    Args:
        messages: The whole conversation, oldest first.
        caps: The bounds.
        sizes: Bytes of each message; needed only for a bound on bytes.

    Returns:
        Positions in `messages`: of all of them if they fit every cap, else of the newest part that does, cut where this
        module says. Never those of results without a call.
    """
    shown, blocks, _ = _paired(messages)
    fits = _fitter(messages, caps, sizes)
    # A program's own counter may fail on an empty list.
    if not shown or fits(shown):
        return shown
    # A cut may stand only where a block begins; `starts` are places in `shown`.
    starts = [place for place, block in enumerate(blocks) if place == block]
    humans = [place for place in starts if _kind(type(messages[shown[place]])) is HumanMessage]
    # A longer suffix never fits where a shorter one does not, so the first that fits is found
    # by bisection.
    first = bisect_left(humans, True, key=lambda place: fits(shown[place:]))
    if first < len(humans):
        return shown[humans[first] :]
    opening = shown[humans[-1] : humans[-1] + 1] if humans else []
    later = [place for place in starts if not humans or place > humans[-1]]
    if not later:
        return opening
    begin = bisect_left(later, True, key=lambda place: fits(opening + shown[place:]))
    return opening + shown[later[min(begin, len(later) - 1)] :]


def simple_start(messages: Sequence[BaseMessage], caps: Caps, sound: int = 0) -> int | None:
    """Where the window begins, if all from there on is `visible` and that shows without pairing calls and results.

    Mostly only the number of messages counts, and every result follows its own call before the human speaks again:
    the conversation is *sound*. The first turn that fits is then the window's.

    Args:
        messages: The whole conversation, oldest first.
        caps: The bounds.
        sound: How many of the first messages are known to be sound.
    """
    if caps.tokens is not None or caps.bytes is not None:
        return None
    count = len(messages)
    start = 0 if caps.messages is None else max(0, count - caps.messages)
    while start and start < count and _kind(type(messages[start])) is not HumanMessage:
        start += 1
    return start if (start < count or not count) and _is_sound(messages, sound) else None


def _is_sound(messages: Sequence[BaseMessage], known: int) -> bool:
    """Whether every result follows its own call before the next human message; the first `known` ones are sound."""
    waiting: set[str | None] = set()
    for message in messages[known:] if known else messages:
        kind = type(message)
        if kind is not HumanMessage and kind is not AIMessage and kind is not ToolMessage:
            kind = _kind(kind)
        # The fields are read past pydantic's attribute look-up, which takes most of such a pass.
        if kind is HumanMessage:
            if waiting:
                return False
        elif kind is AIMessage:
            for call in message.__dict__["tool_calls"]:
                waiting.add(call.get("id"))
        elif kind is ToolMessage:
            answered = message.__dict__["tool_call_id"]
            if answered not in waiting:
                return False
            waiting.discard(answered)
    return True


def ends_open(messages: Sequence[BaseMessage]) -> bool:
    """Whether the conversation ends in a tool call that still waits for a result."""
    return without_open_group(messages) < len(messages)


def without_open_group(messages: Sequence[BaseMessage]) -> int:
    """How many messages are left when a last, unanswered group of calls is left out."""
    position = len(messages) - 1
    answers: list[str] = []
    while position >= 0 and _kind(type(message := messages[position])) is ToolMessage:
        answers.append(message.tool_call_id)  # type: ignore[attr-defined]  # a ToolMessage, by its kind
        position -= 1
    for call in calls_of(messages[position]) if position >= 0 else ():
        if call not in answers:
            return position
        answers.remove(call)
    return len(messages)


def callers(messages: Sequence[BaseMessage]) -> dict[int, int]:
    """For the position of each result that has a call, the position of the message that made it."""
    return _paired(messages)[2]


def results_by_caller(messages: Sequence[BaseMessage]) -> dict[int, list[ToolMessage]]:
    """For the position of each message that made calls, their results in order."""
    found: dict[int, list[ToolMessage]] = {}
    for place, caller in callers(messages).items():
        found.setdefault(caller, []).append(messages[place])  # type: ignore[arg-type]  # results alone have callers
    return found


def calls_with_results(
    message: AIMessage, results: Sequence[ToolMessage]
) -> Iterator[tuple[ToolCall | None, ToolMessage | None]]:
    """Each tool call of a message with its result, if there is one; ids recur, so a result goes with one call only.

    Last come the results of calls that are not among its `tool_calls` (see `answerable`), without a call.

    Args:
        message: The message that made the calls.
        results: The results whose caller it is.
    """
    left = list(results)
    for call in message.tool_calls:
        place = next((place for place, result in enumerate(left) if result.tool_call_id == call["id"]), None)
        yield call, None if place is None else left.pop(place)
    yield from ((None, result) for result in left)


def _paired(messages: Sequence[BaseMessage]) -> tuple[list[int], list[int], dict[int, int]]:
    """The positions kept, for each the place in that list where its block begins, and `callers`.

    A result belongs to the nearest earlier message that made its call and has no result for it
    yet; one that belongs to none is left out.
    """
    shown: list[int] = []
    blocks: list[int] = []
    made_by: dict[int, int] = {}
    # For each call id the place of the newest message that made it, once for each result it
    # still waits for.
    waiting: dict[str | None, list[int]] = {}
    for position, message in enumerate(messages):
        start = place = len(shown)
        kind = _kind(type(message))
        if kind is ToolMessage:
            places = waiting.get(message.tool_call_id)  # type: ignore[attr-defined]  # a ToolMessage, by its kind
            if not places:
                continue
            caller = places.pop()
            made_by[position] = shown[caller]
            start = blocks[caller]
            blocks[start:] = [start] * (place - start)
        elif kind is AIMessage:
            for call in answerable(message):
                places = waiting.get(call)
                if places and places[-1] == place:
                    places.append(place)
                else:
                    waiting[call] = [place]
        shown.append(position)
        blocks.append(start)
    return shown, blocks, made_by


def _fitter(messages: Sequence[BaseMessage], caps: Caps, sizes: Sequence[int] | None) -> Callable[[list[int]], bool]:
    def fits(positions: list[int]) -> bool:
        if caps.messages is not None and len(positions) > caps.messages:
            return False
        if caps.bytes is not None and sizes is not None and sum(sizes[position] for position in positions) > caps.bytes:
            return False
        if caps.tokens is None or caps.token_counter is None:
            return True
        chosen = [messages[position] for position in positions]
        try:
            count = caps.token_counter(chosen)
        except Exception as error:
            raise ConfigurationError(
                f"{_named(caps.token_counter)} raised {type(error).__name__}; "
                "it must count whatever messages are stored"
            ) from error
        try:
            return count <= caps.tokens
        except TypeError as error:
            raise ConfigurationError(f"{_named(caps.token_counter)} must give a number, not {brief(count)}") from error

    return fits


def _named(counter: object) -> str:
    return f"token_counter={brief(getattr(counter, '__qualname__', counter))}"
