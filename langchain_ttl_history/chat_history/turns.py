"""What of all that a chain's turn hands over is new.

A turn hands over its input and then its output, and what that is depends on the runnable. To a turn that was shown
`q1 a1` and whose input is `q2`, this is new:

```text
 the output is        new
 a2                   q2 a2      of a model
 q2 a2                q2 a2      of a runnable that hands back its input
 q1 a1 q2' a2         q2' a2     of an agent, which hands back all of its conversation; q2' is its copy, with an id
 q0 q1 a1 q2' a2      q2' a2     of an agent with a memory of its own, which may know more
 a1                   q2 a1'     of a model's cache, which says the same again; a1' is stored as another message
```
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from itertools import takewhile
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.views import Turn

__all__ = ["new_in"]

# The version of the UUIDs that LangGraph gives to messages.
_RANDOM = 4


def new_in(messages: Sequence[BaseMessage], turn: Turn, codec: Codec) -> list[BaseMessage]:
    """The messages that are new to a turn, and not among those it was shown.

    Args:
        messages: The turn's input, then its output.
        turn: What it was shown.
        codec: Tells whether the turn changed in place what it was shown.
    """
    shown = {message.id: message for message in turn.as_shown(codec) if message.id}
    said = _with_cached_as_new(_each_once(messages), turn)
    given_again = _given_again(said, shown)
    said = _without_old(said, shown, given_again)
    return [message for message in said if not message.id or shown.get(message.id) != message]


def _each_once(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """The messages, less those without an id that a runnable hands back itself, in front of its answer."""
    met: set[int] = set()
    said: list[BaseMessage] = []
    for message in messages:
        if message.id or id(message) not in met:
            said.append(message)
        met.add(id(message))
    return said


def _with_cached_as_new(messages: Sequence[BaseMessage], turn: Turn) -> list[BaseMessage]:
    """The messages; without their ids those that a model's cache gave again, so that they are stored anew.

    The cache gives an answer again with the id of the first time. A runnable that hands back what it was shown hands
    back more than answers, as an agent does, or has edited it, or says something new at the end.
    """
    known = {message.id: message for message in (*turn.cut, *turn.messages) if message.id}
    again = [message for message in messages if message.id in known]
    if len(messages) < 2 or not again or again[-1] is not messages[-1]:
        return [*messages]
    if not all(_is_same_answer(message, known[message.id or ""]) for message in again):
        return [*messages]
    return [message.model_copy(update={"id": None}) if message.id in known else message for message in messages]


def _is_same_answer(message: BaseMessage, first: BaseMessage) -> bool:
    # What it cost may be told otherwise.
    return (
        isinstance(message, AIMessage)
        and isinstance(first, AIMessage)
        and (first.content, first.tool_calls) == (message.content, message.tool_calls)
    )


def _given_again(messages: Sequence[BaseMessage], shown: Container[str]) -> list[BaseMessage]:
    """The messages of the input that come again in the output, as from a runnable that is a whole agent.

    They come first as they were given, without an id, and then as the agent returned them, with one.
    """
    again: list[BaseMessage] = []
    first = len(messages)
    for place, message in enumerate(messages):
        if message.id:
            continue
        for at in range(place + 1, len(messages)):
            copy = messages[at]
            if type(copy) is type(message) and copy.id and copy.id not in shown and copy.content == message.content:
                again.append(message)
                first = min(first, at)
                break
    # An agent returns all that it was given. An answer alone shows no agent, since a model may say again what an
    # answer among its input says.
    is_agent = sum(not message.id for message in messages[:first]) == len(again)
    if is_agent and not all(isinstance(message, AIMessage) for message in again):
        return again
    return _edited_again(messages, shown)


def _edited_again(messages: Sequence[BaseMessage], shown: Container[str]) -> list[BaseMessage]:
    """The input, if the output begins with as many messages of the same types, after what was shown, and goes on.

    So an agent returns it that edits what it was given, to redact what must not be kept for example. The ids of the
    copies, which LangGraph gave them, tell them from an input of which only a part has ids.
    """
    given = [*takewhile(lambda message: not message.id, messages)]
    output = messages[len(given) :]
    begin = 1 + max((at for at, message in enumerate(output) if message.id and message.id in shown), default=-1)
    copies = output[begin : begin + len(given)]
    is_agent = (
        len(output) > begin + len(given)
        and any(isinstance(message, HumanMessage) for message in given)
        and all(
            type(copy) is type(message) and _is_random(copy.id) for copy, message in zip(copies, given, strict=True)
        )
    )
    return given if is_agent else []


def _is_random(id: str | None) -> bool:
    try:
        return UUID(id or "").version == _RANDOM
    except ValueError:
        return False


def _without_old(
    messages: Sequence[BaseMessage], shown: Container[str], given_again: Sequence[BaseMessage]
) -> list[BaseMessage]:
    """The messages, without the input that comes again, and without what an agent knows from before what it was shown.

    An agent with a memory of its own returns all of that, and so what this session has freed as well.
    """
    again = {id(message) for message in given_again}
    counts = Counter(message.id for message in messages)
    ids: set[str | None] = set()
    input_ends = 0
    for message in messages:
        if id(message) not in again and (not message.id or counts[message.id] == 1 or message.id in ids):
            break
        ids.add(message.id)
        input_ends += 1
    output = messages[input_ends:]
    if input_ends:
        output = output[next((at for at, message in enumerate(output) if message.id and message.id in shown), 0) :]
    return [message for message in output if id(message) not in again]
