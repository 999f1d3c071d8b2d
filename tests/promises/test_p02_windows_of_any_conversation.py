"""P2 Tool calls stay whole: over generated conversations, at every cap from 1 to 100."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_ttl_history import Retention, SessionBuffer, TTLChatMessageHistory
from langchain_ttl_history.testing import Clock
from tests.shared.fixtures import STORAGES
from tests.shared.models import lookup_call
from tests.shared.window_rules import expected_window, owners

CALL_IDS = ("c1", "c2", "c3")
"""So few that they recur all the time."""


# --- conversations ----------------------------------------------------------------------------


@st.composite
def exchanges(draw: st.DrawFn) -> list[BaseMessage]:
    """One append: a message, or a call with what came of it."""
    kind = draw(st.sampled_from(["human", "human", "ai", "system", "calls", "calls", "stray"]))
    size = draw(st.integers(0, 12))
    if kind == "human":
        return [HumanMessage("h" * size)]
    if kind == "ai":
        return [AIMessage("a" * size)]
    if kind == "system":
        return [SystemMessage("s" * size)]
    if kind == "stray":
        # Behind another message: a result that is appended by itself goes to its call.
        return [AIMessage("a"), ToolMessage("x" * size, tool_call_id=draw(st.sampled_from(CALL_IDS)))]
    made = draw(st.lists(st.sampled_from(CALL_IDS), min_size=1, max_size=3, unique=True))
    call = AIMessage("", tool_calls=[lookup_call("x", call_id) for call_id in made])
    answered = draw(st.permutations(made))[: draw(st.integers(0, len(made)))]
    if draw(st.integers(0, 3)):
        answered = draw(st.permutations(made))
    messages: list[BaseMessage] = [call]
    for call_id in answered:
        if not draw(st.integers(0, 9)):
            messages.append(draw(st.sampled_from([SystemMessage("e"), HumanMessage("hm")])))
        messages.append(ToolMessage("t" * size, tool_call_id=call_id))
        if not draw(st.integers(0, 9)):
            messages.append(ToolMessage("again", tool_call_id=call_id))
    return messages


@st.composite
def changes(draw: st.DrawFn) -> list[list[BaseMessage]]:
    """Appends to a history, some of which remove or edit what was said before."""
    numbers = count()
    appends: list[list[BaseMessage]] = []
    said: list[str] = []
    for exchange in draw(st.lists(exchanges(), min_size=1, max_size=45)):
        batch: list[BaseMessage] = []
        for message in exchange:
            named = message.model_copy(update={"id": f"m{next(numbers)}"})
            said.append(str(named.id))
            batch.append(named)
        appends.append(batch)
        if not draw(st.integers(0, 7)):
            target = draw(st.sampled_from(said))
            edit: Any = draw(
                st.sampled_from([RemoveMessage(target), AIMessage("edit", id=target), HumanMessage("e", id=target)])
            )
            if isinstance(edit, RemoveMessage):
                said.remove(target)
            appends.append([edit])
        if not said:
            break
    return appends


def folded(appends: Sequence[Sequence[BaseMessage]]) -> list[BaseMessage]:
    """The whole conversation: upserted by id, less what was removed."""
    conversation: dict[str, BaseMessage] = {}
    for message in (message for batch in appends for message in batch):
        if isinstance(message, RemoveMessage):
            conversation.pop(str(message.id))
        else:
            conversation[str(message.id)] = message
    return list(conversation.values())


def ids(messages: Sequence[BaseMessage]) -> list[str | None]:
    return [message.id for message in messages]


def written(appends: Sequence[Sequence[BaseMessage]], storage: Any) -> None:
    history = SessionBuffer(storage, retention=Retention(max_messages=None)).history("u", "s")
    for batch in appends:
        history.add_messages(list(batch))


def freed_as_it_goes(cap: int) -> Iterator[tuple[SessionBuffer, TTLChatMessageHistory]]:
    """For each storage a buffer with a cap on messages, and a history of it."""
    for case in STORAGES.values():
        storage = case.open(Clock())
        buffer = SessionBuffer(storage, retention=Retention(max_messages=cap))
        yield buffer, buffer.history("u", "s")
        case.close(storage)


generously = settings(max_examples=150)


# --- the properties ---------------------------------------------------------------------------


@generously
@given(appends=changes())
def test_a_history_shows_what_the_rules_say_at_every_cap(
    appends: list[list[BaseMessage]],
) -> None:
    conversation = folded(appends)
    for case in STORAGES.values():
        storage = case.open(Clock())
        written(appends, storage)
        # All larger caps show what one above the length shows.
        for cap in [None, *range(1, min(100, len(conversation) + 1) + 1)]:
            buffer = SessionBuffer(storage, retention=Retention(max_messages=cap))
            shown = buffer.history("u", "s").messages
            expected = expected_window(conversation, lambda messages, cap=cap: cap is None or len(messages) <= cap)
            assert ids(shown) == ids(expected), f"at cap {cap}"
            assert [m.content for m in shown] == [m.content for m in expected]
        case.close(storage)


@generously
@given(appends=changes(), caps=st.lists(st.integers(1, 200), min_size=5, max_size=5))
def test_a_history_shows_what_the_rules_say_at_a_cap_on_tokens(
    appends: list[list[BaseMessage]], caps: list[int]
) -> None:
    def tokens(messages: Sequence[BaseMessage]) -> int:
        return sum(1 + len(str(message.content)) for message in messages)

    conversation = folded(appends)
    for case in STORAGES.values():
        storage = case.open(Clock())
        written(appends, storage)
        for cap in caps:
            retention = Retention(max_messages=None, max_tokens=cap, token_counter=tokens)
            shown = SessionBuffer(storage, retention=retention).history("u", "s").messages
            expected = expected_window(conversation, lambda messages, cap=cap: tokens(messages) <= cap)
            assert ids(shown) == ids(expected), f"at cap {cap}"
        case.close(storage)


@generously
@given(appends=changes(), cap=st.integers(1, 100))
def test_a_history_that_frees_as_it_goes_shows_only_whole_groups_of_what_was_said(
    appends: list[list[BaseMessage]], cap: int
) -> None:
    for _, history in freed_as_it_goes(cap):
        for done, batch in enumerate(appends, 1):
            present = set(ids(history.messages))
            before = set(ids(folded(appends[: done - 1])))
            if any(m.id in before and m.id not in present for m in batch):
                return  # it was freed before it was to be removed or edited
            history.add_messages(list(batch))
            shown = history.messages
            conversation = folded(appends[:done])
            whole = expected_window(conversation, lambda messages: True)
            places = {message.id: place for place, message in enumerate(whole)}
            assert [places[i] for i in ids(shown)] == sorted(places[i] for i in ids(shown))
            assert not shown or not isinstance(shown[0], ToolMessage)
            visible = {places[i] for i in ids(shown)}
            for result, call in owners(whole).items():
                assert (result in visible) == (call in visible)
            if whole:
                assert shown[-1].id == whole[-1].id
            smallest = expected_window(conversation, lambda messages: False)
            assert len(shown) <= max(cap, len(smallest))


@st.composite
def talks(draw: st.DrawFn) -> list[list[BaseMessage]]:
    """Appends that only go on: turns of a few kinds again and again, in parts."""
    kinds = draw(st.lists(st.sampled_from("haac"), min_size=1, max_size=4))
    size = draw(st.integers(1, 3))
    said: list[BaseMessage] = []
    while len(said) < 60:
        for kind in kinds:
            number = len(said)
            if kind == "h":
                said.append(HumanMessage("h", id=f"m{number}"))
            elif kind == "a":
                said.append(AIMessage("a", id=f"m{number}"))
            else:
                said.append(AIMessage("", id=f"m{number}", tool_calls=[lookup_call("x", f"c{number}")]))
                said.append(ToolMessage("t", id=f"m{number + 1}", tool_call_id=f"c{number}"))
    return [said[at : at + size] for at in range(0, len(said), size)]


@settings(generously, max_examples=40)
@given(appends=talks(), cap=st.integers(1, 12))
def test_a_history_that_frees_as_it_goes_shows_what_the_rules_say_of_all_that_was_said(
    appends: list[list[BaseMessage]], cap: int
) -> None:
    for buffer, history in freed_as_it_goes(cap):
        for done, batch in enumerate(appends, 1):
            history.add_messages(batch)
            expected = expected_window(folded(appends[:done]), lambda messages: len(messages) <= cap)
            info = buffer.info("u", "s")
            assert info is not None
            assert info.messages == len(expected)
            if done % 3 == 0:
                assert ids(history.messages) == ids(expected)


@generously
@given(appends=changes())
def test_every_window_of_a_window_is_the_window_itself(
    appends: list[list[BaseMessage]],
) -> None:
    conversation = folded(appends)
    for cap in (1, 3, 10, 40):
        for _, history in freed_as_it_goes(cap):
            history.messages = conversation
            once = history.messages
            history.messages = once
            assert ids(history.messages) == ids(once)
