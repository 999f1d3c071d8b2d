"""The window over generated conversations, by the rules of P2 at every cap; and what is a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from langchain_ttl_history.window import (
    Caps,
    answerable,
    callers,
    calls_of,
    ends_open,
    simple_start,
    visible,
    without_open_group,
)
from tests.shared.window_rules import expected_places

often = settings(max_examples=120)


def calls(*ids: str) -> AIMessage:
    return AIMessage("", tool_calls=[ToolCall(name="f", args={}, id=id) for id in ids])


def unparsable(*ids: str) -> AIMessage:
    bad = [InvalidToolCall(type="invalid_tool_call", name="f", args="{", id=id, error="no JSON") for id in ids]
    return AIMessage("", invalid_tool_calls=bad)


def in_content(*ids: str) -> AIMessage:
    """Calls as a provider has them of its own, which are no tool calls to LangChain."""
    return AIMessage([{"type": "computer_call", "id": f"item of {id}", "call_id": id} for id in ids])


def wrapped(*ids: str) -> AIMessage:
    """The same as langchain-core keeps them with `output_version="v1"`."""
    return AIMessage([{"type": "non_standard", "value": block} for block in in_content(*ids).content])


def of_all_kinds(*ids: str) -> AIMessage:
    """A call of each kind in turn, each in the content as well."""
    message = in_content(*ids)
    message.tool_calls = calls(*ids[::2]).tool_calls
    message.invalid_tool_calls = unparsable(*ids[1::2]).invalid_tool_calls
    return message


def result(id: str) -> ToolMessage:
    return ToolMessage("r", tool_call_id=id)


call_ids = st.sampled_from(["c1", "c2", "c3"])
words = st.text("ab", max_size=6)


@st.composite
def conversations(draw: st.DrawFn) -> list[BaseMessage]:
    """Turns with parallel calls whose ids recur, and with missing, second and stray results."""
    said: list[BaseMessage] = [SystemMessage("be kind")] if draw(st.booleans()) else []
    for kind in draw(
        st.lists(st.sampled_from(["human", "human", "ai", "system", "calls", "calls", "tool"]), max_size=40)
    ):
        if kind == "human":
            said.append(HumanMessage(draw(words)))
        elif kind == "ai":
            said.append(AIMessage(draw(words)))
        elif kind == "system":
            said.append(SystemMessage(draw(words)))
        elif kind == "tool":
            said.append(result(draw(call_ids)))
        else:
            made = draw(st.lists(call_ids, min_size=1, max_size=3, unique=True))
            said.append(
                draw(st.sampled_from([calls, calls, calls, unparsable, in_content, wrapped, of_all_kinds]))(*made)
            )
            for id in draw(st.permutations(made))[: draw(st.sampled_from([1, 2, 3, 3, 3]))]:
                said.append(result(id))
                if draw(st.integers(0, 7)) == 0:
                    said.append(draw(st.sampled_from([result(id), HumanMessage("meanwhile"), SystemMessage("e")])))
    return said


@often
@given(said=conversations())
def test_a_window_keeps_the_rules_at_every_cap_on_messages(said: list[BaseMessage]) -> None:
    for cap in range(1, 101):
        assert visible(said, Caps(messages=cap)) == expected_places(said, lambda shown, cap=cap: len(shown) <= cap)
    assert visible(said, Caps()) == expected_places(said, lambda shown: True)


@often
@given(said=conversations(), cap=st.integers(1, 150), messages=st.none() | st.integers(1, 50))
def test_a_window_keeps_the_rules_at_every_cap_on_bytes_and_tokens(
    said: list[BaseMessage], cap: int, messages: int | None
) -> None:
    def count(shown: Sequence[BaseMessage]) -> int:
        return sum(1 + len(str(message.content)) for message in shown)

    sizes = [count([message]) for message in said]
    expected = expected_places(said, lambda shown: count(shown) <= cap and len(shown) <= (messages or len(shown)))
    assert visible(said, Caps(messages=messages, bytes=cap), sizes) == expected
    assert visible(said, Caps(messages=messages, tokens=cap, token_counter=count)) == expected


@often
@given(said=conversations(), cap=st.integers(1, 60))
def test_a_window_of_a_window_is_itself_and_a_larger_cap_shows_no_less(said: list[BaseMessage], cap: int) -> None:
    shown = visible(said, Caps(messages=cap))
    kept = [said[place] for place in shown]
    assert visible(kept, Caps(messages=cap)) == list(range(len(kept)))
    assert set(shown) <= set(visible(said, Caps(messages=cap + 1)))


@often
@given(said=conversations(), cap=st.integers(1, 60))
def test_what_is_known_to_be_sound_need_not_be_looked_at(said: list[BaseMessage], cap: int) -> None:
    caps = Caps(messages=cap)
    for known in range(len(said) + 1):
        if simple_start(said[:known], Caps()) is None:
            break
        start = simple_start(said, caps, known)
        if start is not None:
            assert list(range(start, len(said))) == visible(said, caps)
    assert simple_start(said, Caps(messages=cap, tokens=1, token_counter=len)) is None


@often
@given(said=conversations())
def test_an_open_group_is_the_last_call_with_a_result_missing(said: list[BaseMessage]) -> None:
    left = without_open_group(said)
    assert ends_open(said) == (left < len(said))
    tail = said[left:]
    if tail:
        assert calls_of(tail[0])
        assert all(isinstance(message, ToolMessage) for message in tail[1:])
        answers = [message.tool_call_id for message in tail[1:] if isinstance(message, ToolMessage)]
        assert set(calls_of(tail[0])) - set(answers)
    else:
        asking = [at for at, message in enumerate(said) if not isinstance(message, ToolMessage)]
        last = asking[-1] if asking else len(said)
        answers = [message.tool_call_id for message in said[last + 1 :] if isinstance(message, ToolMessage)]
        assert last == len(said) or set(calls_of(said[last])) <= set(answers)


def test_what_is_over_the_cap_keeps_its_question_and_its_newest_group() -> None:
    said = [SystemMessage("s"), HumanMessage("q"), calls("a", "b"), result("b"), result("a"), calls("a"), result("a")]
    assert visible(said, Caps(messages=7)) == [0, 1, 2, 3, 4, 5, 6]
    assert visible(said, Caps(messages=6)) == [1, 2, 3, 4, 5, 6]
    for cap in (1, 2, 3, 4, 5):
        assert visible(said, Caps(messages=cap)) == [1, 5, 6]
    assert visible(said[2:], Caps(messages=1)) == [3, 4]


def test_a_result_that_comes_after_the_human_spoke_again_is_not_cut_from_its_call() -> None:
    said = [HumanMessage("q"), calls("a"), HumanMessage("still there?"), result("a")]
    for cap in range(1, 4):
        assert visible(said, Caps(messages=cap)) == [0, 1, 2, 3]
    assert visible([*said, HumanMessage("next")], Caps(messages=2)) == [4]


def test_nothing_is_shown_of_nothing() -> None:
    assert visible([], Caps(messages=1)) == []
    assert visible([result("a")], Caps(messages=1)) == []
    assert visible([HumanMessage("x")], Caps(bytes=1), [100]) == [0]


def test_each_of_two_calls_of_one_id_in_a_message_has_a_result() -> None:
    said = [calls("a", "a"), result("a"), result("a"), result("a")]
    assert visible(said, Caps()) == [0, 1, 2]
    assert callers(said) == {1: 0, 2: 0}


def test_a_window_shows_without_pairing_where_every_result_comes_before_the_human_speaks_again() -> None:
    said = [HumanMessage("q"), calls("a"), result("a"), HumanMessage("next")]
    assert simple_start(said, Caps(messages=1)) == 3
    assert simple_start([calls("a"), HumanMessage("still there?"), result("a")], Caps(messages=2)) is None


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_server_side_call_is_ordinary_content(order: tuple[str, str]) -> None:
    content = [{"type": "server_tool_call", "id": "a", "name": "web", "args": {}}]
    message = AIMessage(content)  # type: ignore[arg-type]  # any content is the test
    assert calls_of(message) == answerable(message) == []
    assert not ends_open([message])
    assert visible([message, *map(result, order)], Caps()) == [0]


def test_the_calls_that_may_be_answered() -> None:
    assert answerable(calls("a", "a")) == ["a", "a"]
    assert answerable(unparsable("a", "b")) == answerable(in_content("a", "b")) == ["a", "b"]
    assert answerable(wrapped("a", "b")) == ["a", "b"]
    assert answerable(of_all_kinds("a", "b", "c")) == ["a", "c", "b"]
    outputs = AIMessage("", additional_kwargs={"tool_outputs": [{"type": "computer_call", "call_id": "a"}]})
    assert answerable(outputs) == ["a"]
    used = AIMessage([{"type": "tool_use", "id": "a", "name": "f", "input": {}}, "and a word"])
    assert answerable(used) == ["a"]
    on_its_server = [{"type": "server_tool_use", "id": "s1"}, {"type": "web_search_call", "id": "ws1"}]
    assert answerable(AIMessage(on_its_server)) == answerable(HumanMessage("a")) == []


@pytest.mark.parametrize("odd", [["a"], {"a": 1}, 5, None])
def test_an_id_that_is_no_text_names_no_call(odd: object) -> None:
    blocks: list[str | dict[object, object]] = [{"type": "computer_call", "call_id": odd}, {"type": odd, "id": "a"}]
    blocks += [{"type": "non_standard", "value": block} for block in (*blocks, odd)]
    message = AIMessage(blocks, additional_kwargs={"tool_outputs": [{"type": "tool_use", "id": odd}]})
    assert answerable(message) == []
    assert visible([message, result("a")], Caps()) == [0]


@pytest.mark.parametrize("made", [unparsable, in_content, wrapped])
def test_only_tool_calls_wait_for_their_results(made: Callable[..., AIMessage]) -> None:
    assert not ends_open([HumanMessage("q"), made("a")])
    assert visible([HumanMessage("q"), made("a"), result("a"), HumanMessage("q")], Caps(messages=10)) == [0, 1, 2, 3]
    assert visible([HumanMessage("q"), made("a"), result("a"), result("a")], Caps(messages=10)) == [0, 1, 2]
    assert visible([HumanMessage("q"), made("a"), result("a")], Caps(messages=1)) == [0, 1, 2]
