"""P2 Tool calls stay whole: examples, sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_ttl_history import ConfigurationError
from tests.shared.chats import assert_valid_chat, dumps, texts
from tests.shared.gates import Gate
from tests.shared.graphs import GRAPH_KINDS, Appending, Tools, build_graph, with_history
from tests.shared.models import ScriptedModel, last_question, lookup_call
from tests.shared.sessions import Session

Opens = Callable[..., Session]


def human(text: str) -> HumanMessage:
    return HumanMessage(text)


def calls(*things: str) -> AIMessage:
    """An AI message that calls `lookup` for each thing, with the thing for a call id."""
    return AIMessage("", tool_calls=[lookup_call(thing, thing) for thing in things])


def result(thing: str) -> ToolMessage:
    return ToolMessage(f"facts about {thing}", tool_call_id=thing)


async def test_what_fits_the_cap_is_returned_unchanged_with_a_leading_system_message(
    session_with: Opens,
) -> None:
    session = session_with(max_messages=6)
    said: list[BaseMessage] = [
        SystemMessage("be brief", id="0"),
        HumanMessage("q", id="1"),
        AIMessage("", id="2", tool_calls=[lookup_call("a", "a"), lookup_call("b", "b")]),
        ToolMessage("A", tool_call_id="a", id="3"),
        ToolMessage("B", tool_call_id="b", id="4"),
        AIMessage("done", id="5"),
    ]
    await session.add(*said)
    assert dumps(await session.messages()) == dumps(said)


async def test_once_over_the_cap_a_leading_system_message_is_cut_like_any_other(
    session_with: Opens,
) -> None:
    session = session_with(max_messages=4)
    await session.add(SystemMessage("be brief"), human("1"), AIMessage("2"), human("3"))
    assert await session.texts() == ["be brief", "1", "2", "3"]
    await session.add(AIMessage("4"))
    assert await session.texts() == ["1", "2", "3", "4"]


async def test_system_messages_count_like_every_message(session_with: Opens) -> None:
    session = session_with(max_messages=4)
    await session.add(human("1"), AIMessage("2"), human("3"), AIMessage("4"))
    await session.event("event")
    assert await session.texts() == ["3", "4", "event"]


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        (8, ["1", "2", "q", "call a, b", "facts about a", "facts about b", "done", "bye"]),
        (7, ["q", "call a, b", "facts about a", "facts about b", "done", "bye"]),
        (6, ["q", "call a, b", "facts about a", "facts about b", "done", "bye"]),
        (5, ["bye"]),
        (1, ["bye"]),
    ],
)
async def test_cutting_never_separates_a_call_from_its_results(
    session_with: Opens, cap: int, expected: list[str]
) -> None:
    session = session_with(max_messages=cap)
    await session.add(
        *(human("1"), AIMessage("2"), human("q"), calls("a", "b"), result("a"), result("b")),
        *(AIMessage("done"), human("bye")),
    )
    assert await session.texts() == expected


async def test_the_cut_is_before_a_human_message_when_such_a_window_fits(
    session_with: Opens,
) -> None:
    session = session_with(max_messages=5)
    await session.add(*(human("1"), AIMessage("2"), AIMessage("3"), AIMessage("4"), human("5"), AIMessage("6")))
    assert await session.texts() == ["5", "6"]


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        (6, ["q", "call a, b", "facts about a", "facts about b", "call c", "facts about c"]),
        (5, ["q", "call c", "facts about c"]),
        (3, ["q", "call c", "facts about c"]),
        (2, ["q", "call c", "facts about c"]),
        (1, ["q", "call c", "facts about c"]),
    ],
)
async def test_of_a_newest_turn_over_the_cap_its_question_and_newest_whole_groups_stay(
    session_with: Opens, cap: int, expected: list[str]
) -> None:
    session = session_with(max_messages=cap)
    await session.add(
        *(human("old"), AIMessage("answer"), human("q")),
        *(calls("a", "b"), result("a"), result("b"), calls("c"), result("c")),
    )
    assert await session.texts() == expected


async def test_at_least_one_group_stays_even_where_it_alone_exceeds_the_cap(
    session_with: Opens,
) -> None:
    session = session_with(max_messages=2)
    await session.add(human("q"), calls("a", "b", "c"), result("a"), result("b"), result("c"))
    assert await session.texts() == [
        "q",
        "call a, b, c",
        "facts about a",
        "facts about b",
        "facts about c",
    ]


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        (1, ["done"]),
        (2, ["done"]),
        (3, ["call b", "facts about b", "done"]),
        (4, ["call b", "facts about b", "done"]),
        (5, ["call a", "facts about a", "call b", "facts about b", "done"]),
    ],
)
async def test_without_a_human_message_the_newest_whole_groups_stay(
    session_with: Opens, cap: int, expected: list[str]
) -> None:
    session = session_with(max_messages=cap)
    await session.add(*(SystemMessage("s"), calls("a"), result("a"), calls("b"), result("b"), AIMessage("done")))
    assert await session.texts() == expected


async def test_a_result_belongs_to_the_nearest_earlier_message_that_made_the_call(
    session_with: Opens,
) -> None:
    session = session_with(max_messages=4)
    await session.add(
        *(human("one"), calls("same"), result("same"), AIMessage("1")),
        *(human("two"), calls("same"), result("same"), AIMessage("2")),
    )
    assert await session.texts() == ["two", "call same", "facts about same", "2"]


async def test_a_result_added_on_its_own_belongs_to_the_newest_call_of_that_id(session: Session) -> None:
    expected: list[str] = []
    for turn in ("one", "two", "three"):
        await session.add(human(turn), calls("same", "other"))
        await session.add(ToolMessage(f"same {turn}", tool_call_id="same"))
        await session.event(f"event {turn}")
        await session.add(ToolMessage(f"other {turn}", tool_call_id="other"))
        await session.add(AIMessage(f"answer {turn}"))
        expected += [turn, "call same, other", f"same {turn}", f"other {turn}", f"event {turn}", f"answer {turn}"]
    assert await session.texts() == expected


async def test_late_results_that_are_added_together_each_go_to_their_own_call(session: Session) -> None:
    for thing in "ab":
        await session.add(human(f"look up {thing}"), calls(thing))
    await session.add(result("a"), result("b"), AIMessage("answer"))
    assert await session.texts() == [
        *("look up a", "call a", "facts about a"),
        *("look up b", "call b", "facts about b", "answer"),
    ]


async def test_late_results_of_parallel_calls_keep_their_order_before_what_answers_them(session: Session) -> None:
    await session.add(human("look up a, b"), calls("a", "b"))
    await session.add(human("look up c"), calls("c"))
    await session.add(result("a"), result("c"), result("b"), AIMessage("answer"))
    assert await session.texts() == [
        *("look up a, b", "call a, b", "facts about a", "facts about b", "answer"),
        *("look up c", "call c", "facts about c"),
    ]


async def test_what_is_asked_after_a_late_result_goes_to_the_end(session: Session) -> None:
    await session.add(human("look up a"), calls("a"))
    await session.add(human("q2"), AIMessage("a2"))
    await session.add(result("a"), AIMessage("a1"), human("q3"), AIMessage("a3"))
    assert await session.texts() == ["look up a", "call a", "facts about a", "a1", "q2", "a2", "q3", "a3"]


async def test_a_result_behind_a_call_that_is_said_again_goes_to_that_call(session: Session) -> None:
    begun = [HumanMessage("look up a", id="q"), calls("a").model_copy(update={"id": "c"})]
    await session.add(*begun)
    await session.event("an event")
    await session.add(*begun, result("a"), AIMessage("answer"))
    assert await session.texts() == ["look up a", "call a", "facts about a", "answer", "an event"]


async def test_results_of_two_turns_that_are_said_again_each_go_to_their_own_call(session: Session) -> None:
    first = [HumanMessage("look up a", id="q1"), calls("a").model_copy(update={"id": "c1"})]
    second = [HumanMessage("look up b", id="q2"), calls("b").model_copy(update={"id": "c2"})]
    await session.add(*first)
    await session.add(*second)
    await session.event("an event")
    await session.add(*first, result("a"), AIMessage("a1"), *second, result("b"), AIMessage("a2"), human("q3"))
    assert await session.texts() == [
        *("look up a", "call a", "facts about a", "a1"),
        *("look up b", "call b", "facts about b", "a2", "an event", "q3"),
    ]


async def test_an_answer_behind_a_question_that_is_said_again_does_not_go_to_a_call_before_it(session: Session) -> None:
    begun = [HumanMessage("look up a", id="q"), calls("a").model_copy(update={"id": "c"})]
    later = HumanMessage("and you?", id="later")
    await session.add(*begun, later)
    await session.add(*begun, result("a"), AIMessage("a1"), later, AIMessage("fine"))
    assert await session.texts() == ["look up a", "call a", "facts about a", "a1", "and you?", "fine"]


async def test_a_result_of_a_call_id_that_is_used_again_goes_to_the_call_it_is_said_with(session: Session) -> None:
    begun = [HumanMessage("look up a", id="q"), calls("a").model_copy(update={"id": "c"})]
    await session.add(*begun)
    await session.add(human("look up a again"), calls("a"), ToolMessage("new facts", tool_call_id="a"))
    await session.add(*begun, result("a"), AIMessage("a1"))
    assert await session.texts() == [
        *("look up a", "call a", "facts about a", "a1"),
        *("look up a again", "call a", "new facts"),
    ]


async def test_a_result_behind_a_removal_goes_to_its_call(session: Session) -> None:
    await session.add(SystemMessage("be brief", id="s"), human("look up a"), calls("a"))
    await session.event("an event")
    await session.add(RemoveMessage("s"), result("a"))
    assert await session.texts() == ["look up a", "call a", "facts about a", "an event"]


async def test_a_turn_that_begins_with_a_late_result_is_the_newest(session_with: Opens) -> None:
    session = session_with(max_messages=4)
    await session.add(human("look up a"), calls("a"))
    for number in (2, 3):
        await session.add(human(f"q{number}"), AIMessage(f"a{number}"))
    chain = with_history(RunnableLambda(lambda _: AIMessage("a4")), session.buffer)
    await session.run(chain, [result("a"), human("q4")])
    assert await session.texts() == ["q3", "a3", "q4", "a4"]


async def test_what_is_asked_after_a_result_is_edited_goes_to_the_end(session: Session) -> None:
    edited = ToolMessage("others", tool_call_id="a", id="1")
    await session.add(human("look up a"), calls("a"), edited.model_copy(update={"content": "facts"}), AIMessage("a1"))
    await session.add(human("q2"), AIMessage("a2"))
    await session.add(edited, human("q3"), AIMessage("a3"))
    assert await session.texts() == ["look up a", "call a", "others", "a1", "q2", "a2", "q3", "a3"]


async def test_a_result_without_a_call_is_left_out_when_read(session: Session) -> None:
    await session.add(human("q"), result("unknown"), AIMessage("a"))
    assert await session.texts() == ["q", "a"]


async def test_a_second_result_of_a_call_is_left_out_when_read(session: Session) -> None:
    again = ToolMessage("a second time", tool_call_id="a")
    await session.add(human("q"), calls("a"), result("a"), again, AIMessage("done"))
    assert await session.texts() == ["q", "call a", "facts about a", "done"]


async def test_a_second_result_does_not_answer_an_older_call_of_the_same_id(
    session: Session,
) -> None:
    again = ToolMessage("a second time", tool_call_id="a")
    await session.add(human("q"), calls("a"), human("r"), calls("a"), result("a"), again)
    assert await session.texts() == ["q", "call a", "r", "call a", "facts about a"]


async def test_a_result_before_its_call_is_left_out_when_read(session: Session) -> None:
    await session.add(human("q"), result("a"), calls("a"))
    assert (await session.texts())[:2] == ["q", "call a"]


async def test_results_whose_call_was_removed_are_left_out(session: Session) -> None:
    call = AIMessage("", id="call", tool_calls=[lookup_call("a", "a")])
    await session.add(human("q"), call, result("a"), AIMessage("done"))
    await session.add(RemoveMessage("call"))
    assert await session.texts() == ["q", "done"]


async def test_results_left_out_do_not_count_towards_the_cap(session_with: Opens) -> None:
    session = session_with(max_messages=2)
    await session.add(human("q"), result("x"), result("y"), AIMessage("a"))
    assert await session.texts() == ["q", "a"]


async def test_server_side_tool_calls_are_ordinary_content(session_with: Opens) -> None:
    session = session_with(max_messages=2)
    searched = AIMessage(
        [
            {"type": "server_tool_call", "id": "srv", "name": "web_search", "args": {"q": "x"}},
            {"type": "server_tool_result", "tool_call_id": "srv", "status": "success"},
            {"type": "text", "text": "found"},
        ],
        id="s",
    )
    await session.add(human("old"), AIMessage("a"), HumanMessage("q", id="q"), searched)
    shown = await session.messages()
    assert [message.id for message in shown] == ["q", "s"]
    assert dumps(shown[1:]) == dumps([searched])


async def test_the_answer_to_a_call_that_could_not_be_parsed_stays_with_it(session_with: Opens) -> None:
    """LangChain's agent answers such a call with an error; its provider would refuse the conversation without it."""
    session = session_with(max_messages=5)
    bad = InvalidToolCall(type="invalid_tool_call", name="lookup", args="{bad", id="c", error="no JSON")

    def answer(messages: Sequence[BaseMessage]) -> AIMessage:
        return AIMessage("", invalid_tool_calls=[bad]) if last_question(messages) == "q1" else AIMessage("a")

    agent = build_graph("agent", session.buffer.checkpointer(), ScriptedModel(answer=answer))
    for question in ("q1", "q2"):
        await session.ask(agent, question)
    kinds = ["human", "ai", "tool", "human", "ai"]
    assert [message.type for message in await session.messages()] == kinds
    repaired = await session.messages()
    await session.add(human("q3"))
    assert [message.type for message in await session.messages()] == ["human", "ai", "human"]
    await session.clear()
    await session.add(*repaired[:3], result("another"))
    assert [message.type for message in await session.messages()] == kinds[:3]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_nothing_is_merged_between_a_call_and_its_results_while_the_tool_runs(
    session: Session, kind: str
) -> None:

    gate = Gate()
    agent = build_graph(kind, session.buffer.checkpointer(), tools=Tools(gates={"whales": gate}).all)
    turn = session.begin(agent, "look up whales")
    await gate.reached()
    await session.event("user opened billing")
    assert "user opened billing" in await session.texts()
    assert_valid_chat(await session.messages())
    gate.release()
    await turn

    conversation = await session.texts()
    assert sorted(conversation) == sorted(
        [
            *("look up whales", "call whales", "facts about whales"),
            *("answer: facts about whales", "user opened billing"),
        ]
    )
    assert_valid_chat(await session.messages())
    await session.ask(agent, "next")
    assert_valid_chat(await session.messages())
    assert (await session.texts()).count("user opened billing") == 1


@tool
def lookup(thing: str) -> str:
    """Look a thing up when a human allows it."""
    return f"{interrupt('may I?')} facts about {thing}"


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_while_a_call_waits_for_a_human_the_history_leaves_it_out_and_shows_events(
    session: Session, kind: str
) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model, [lookup])
    await session.ask(agent, "first")
    await session.ask(agent, "look up whales")

    await session.event("user opened billing")

    assert await session.texts() == [
        *("first", "re: first", "look up whales", "user opened billing"),
    ]
    assert (await session.seen_by(agent))[-1] == "call whales"


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_what_came_in_while_a_call_waited_comes_after_its_results(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model, [lookup])
    await session.ask(agent, "look up whales")
    await session.event("user opened billing")

    await session.run(agent, Command(resume="good"))

    assert texts(model.inputs[-1])[:3] == ["look up whales", "call whales", "good facts about whales"]
    expected = [
        *("look up whales", "call whales", "good facts about whales"),
        *("answer: good facts about whales", "user opened billing"),
    ]
    assert await session.texts() == expected
    assert await session.seen_by(agent) == expected
    await session.ask(agent, "next")
    assert await session.texts() == [*expected, "next", "re: next"]


@pytest.mark.parametrize("state", [MessagesState, Appending])
async def test_a_result_that_the_app_has_found_itself_stands_behind_its_call(session: Session, state: Any) -> None:
    graph = StateGraph(state).add_node("model", lambda _: {"messages": [calls("whales")]}).add_edge(START, "model")
    graph.add_node("tools", lambda _: interrupt("may I?")).add_edge("model", "tools")
    agent = graph.compile(checkpointer=session.buffer.checkpointer())
    await session.ask(agent, "look up whales")
    await session.event("user opened billing")
    result = {"messages": [ToolMessage("found", tool_call_id="whales")]}
    await session.colour.call(agent, "update_state", session.config, result, "tools")
    assert await session.texts() == ["look up whales", "call whales", "found", "user opened billing"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("cap", [1, 2, 3, 5, 8, 13])
async def test_every_input_of_an_agents_model_is_a_valid_chat_at_a_small_cap(
    session_with: Opens, kind: str, cap: int
) -> None:
    session = session_with(max_messages=cap)
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    for turn in range(6):
        question = ("look up a{0}, b{0}", "research c{0}, d{0}, e{0}", "just {0}")[turn % 3]
        await session.ask(agent, question.format(turn))
        if turn % 2:
            await session.event(f"event {turn}")
        shown = await session.messages()
        assert_valid_chat(shown)
        assert dumps((await session.state(agent)).values["messages"]) == dumps(shown)
        whole = [m for m in shown if not isinstance(m, SystemMessage)]
        assert len(whole) <= max(cap, 4)
    for given in model.inputs:
        assert_valid_chat(given)


async def test_the_history_and_the_graph_see_the_same_window_at_every_cap(
    open_buffer: Callable[..., object], session: Session
) -> None:
    agent = build_graph("agent", session.buffer.checkpointer())
    for question in ("research a, b, c", "look up d, e", "hello", "look up f"):
        await session.ask(agent, question)
    full = await session.messages()
    for cap in range(1, len(full) + 2):
        worker = session.through(open_buffer(max_messages=cap))  # type: ignore[arg-type]  # a fixture has no type here
        shown = await worker.messages()
        state = await worker.state(build_graph("agent", worker.buffer.checkpointer()))
        assert dumps(state.values["messages"]) == dumps(shown)
        assert_valid_chat(shown)


async def test_a_cap_on_tokens_uses_the_counter_it_was_given(session_with: Opens) -> None:
    session = session_with(max_tokens=10, token_counter=lambda messages: sum(len(str(m.content)) for m in messages))
    await session.add(human("11111"), AIMessage("22222"))
    assert await session.texts() == ["11111", "22222"]
    await session.add(human("3333"), AIMessage("444444"))
    assert await session.texts() == ["3333", "444444"]
    await session.add(AIMessage("5"))
    assert await session.texts() == ["3333", "5"]


async def test_a_counter_of_tokens_that_fails_is_named_when_it_is_asked(session_with: Opens) -> None:
    def one_word_each(messages: Sequence[BaseMessage]) -> int:
        return sum(1 for message in messages if message.content.isalpha())  # type: ignore[union-attr]  # a block fails

    session = session_with(max_tokens=10, token_counter=one_word_each)
    await session.add(human("hello"))
    assert await session.texts() == ["hello"]
    await session.add(HumanMessage([{"type": "text", "text": "hello"}]))
    with pytest.raises(ConfigurationError, match=r"one_word_each.*raised AttributeError"):
        await session.messages()


async def test_a_counter_that_fails_brings_nothing_that_was_said_into_a_log(
    session_with: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    def count(messages: Sequence[BaseMessage]) -> int:
        raise ValueError(f"cannot count {messages[0].text}")

    session = session_with(max_tokens=10, max_messages=1, token_counter=count)
    for _ in range(10):
        await session.add(human("the secret"))
    with pytest.raises(ConfigurationError, match="raised ValueError; it must count") as refused:
        await session.messages()
    assert "the secret" not in str(refused.value)
    assert "freeing it failed" in caplog.text
    assert "the secret" not in caplog.text


async def test_a_counter_of_tokens_is_not_asked_about_nothing(session_with: Opens) -> None:
    # As models that are asked over their provider's API, and LangChain's `trim_messages`, have it.
    session = session_with(max_tokens=10, token_counter=lambda messages: len(str(messages[0].content)))
    agent = build_graph("agent", session.buffer.checkpointer())
    assert await session.texts() == []
    await session.ask(agent, "hello")
    await session.add(RemoveMessage("__remove_all__"))
    assert await session.texts() == []
    info = await session.info()
    assert info.messages == 0


async def test_a_cap_on_tokens_counts_as_langchain_does_without_a_counter(
    session_with: Opens,
) -> None:
    session = session_with(max_tokens=100)
    await session.add(human("x" * 400), AIMessage("y" * 400), human("z" * 40), AIMessage("done"))
    assert await session.texts() == ["z" * 40, "done"]
