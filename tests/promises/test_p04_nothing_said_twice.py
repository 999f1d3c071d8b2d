"""P4 Nothing is said twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import PIIMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages

from tests.shared.chats import dumps, texts
from tests.shared.graphs import GRAPH_KINDS, build_chain, build_graph, with_history
from tests.shared.models import ScriptedModel, lookup_call
from tests.shared.sessions import Session


async def test_a_message_added_again_under_its_id_replaces_the_first_in_its_place(
    session: Session,
) -> None:
    await session.add(HumanMessage("q", id="m1"), AIMessage("draft", id="m2"))
    await session.add(HumanMessage("next", id="m3"))
    await session.add(AIMessage("final", id="m2"))
    assert await session.texts() == ["q", "final", "next"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_edit_through_the_history_reaches_what_the_graph_stored(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    result = await session.ask(agent, "first")
    answer = result["messages"][-1]

    await session.add(AIMessage("a better answer", id=answer.id))

    assert await session.texts() == ["first", "a better answer"]
    assert await session.seen_by(agent) == ["first", "a better answer"]
    await session.ask(agent, "second")
    assert texts(model.inputs[-1]) == ["first", "a better answer", "second"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_edit_by_the_graph_replaces_what_a_chain_said(session: Session, kind: str) -> None:
    await session.add(HumanMessage("q", id="m1"), AIMessage("draft", id="m2"))
    agent = build_graph(kind, session.buffer.checkpointer())

    await session.colour.call(
        agent,
        "update_state",
        session.config,
        {"messages": [AIMessage("final", id="m2")]},
        as_node="model",
    )

    assert await session.texts() == ["q", "final"]
    assert await session.seen_by(agent) == ["q", "final"]
    await session.event("later")
    assert await session.seen_by(agent) == ["q", "final", "later"]


async def test_a_removal_through_the_history_is_honoured(session: Session) -> None:
    await session.add(HumanMessage("q", id="m1"), AIMessage("a", id="m2"), SystemMessage("e", id="m3"))
    await session.add(RemoveMessage("m2"))
    assert await session.texts() == ["q", "e"]
    await session.add(HumanMessage("more"))
    assert await session.texts() == ["q", "e", "more"]


async def test_a_removal_of_all_through_the_history_is_honoured(session: Session) -> None:
    await session.add(HumanMessage("q", id="m1"), AIMessage("a", id="m2"))
    await session.add(RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("anew"))
    assert await session.texts() == ["anew"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_removal_through_the_history_reaches_the_graph(session: Session, kind: str) -> None:
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    result = await session.ask(agent, "first")
    await session.ask(agent, "second")

    await session.add(*(RemoveMessage(str(message.id)) for message in result["messages"]))

    assert await session.texts() == ["second", "re: second"]
    assert await session.seen_by(agent) == ["second", "re: second"]
    await session.ask(agent, "third")
    assert texts(model.inputs[-1]) == ["second", "re: second", "third"]
    assert await session.texts() == ["second", "re: second", "third", "re: third"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_removal_by_the_graph_is_honoured_in_what_a_chain_said(session: Session, kind: str) -> None:
    await session.add(HumanMessage("secret", id="m1"), AIMessage("a", id="m2"))
    await session.event("an event")
    agent = build_graph(kind, session.buffer.checkpointer())

    await session.colour.call(
        agent,
        "update_state",
        session.config,
        {"messages": [RemoveMessage("m1")]},
        as_node="model",
    )
    await session.say(build_chain(session.buffer), "later")

    expected = ["a", "an event", "later", "re: later"]
    assert await session.texts() == expected
    assert await session.seen_by(agent) == expected


async def test_a_graph_that_removes_all_and_summarises_leaves_the_summary(
    session: Session,
) -> None:
    def summarise(state: MessagesState) -> dict[str, Any]:
        return {
            "messages": [
                RemoveMessage(REMOVE_ALL_MESSAGES),
                AIMessage(f"summary of {len(state['messages'])}"),
            ]
        }

    graph = StateGraph(MessagesState)
    graph.add_node("summarise", summarise)
    graph.add_edge(START, "summarise")
    graph.add_edge("summarise", END)
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    await session.say(build_chain(session.buffer), "one")
    await session.event("an event")

    await session.ask(compiled, "now")

    assert await session.texts() == ["summary of 4"]
    await session.event("later")
    assert await session.texts() == ["summary of 4", "later"]
    assert await session.seen_by(compiled) == ["summary of 4", "later"]


async def test_a_message_removed_and_added_at_once_is_an_edit_in_its_place_as_in_a_graph(session: Session) -> None:
    said = [
        HumanMessage("q1", id="q1"),
        AIMessage("a1", id="a1"),
        HumanMessage("q2", id="q2"),
        AIMessage("a2", id="a2"),
    ]
    change = [HumanMessage("q3", id="q3"), RemoveMessage("a1"), AIMessage("redacted", id="a1")]
    await session.add(*said)
    await session.add(*change)
    assert await session.texts() == ["q1", "redacted", "q2", "a2", "q3"]
    assert [each.text for each in add_messages(said, change)] == await session.texts()  # type: ignore[union-attr, arg-type]  # a list of messages


@pytest.mark.parametrize("given", [[HumanMessage("one")], "one"], ids=["message", "text"])
async def test_a_question_that_a_runnable_hands_back_in_front_of_its_answer_is_stored_once(
    session: Session, given: Any
) -> None:
    agent = RunnableLambda(lambda messages: [*messages, AIMessage(f"answer {len(messages)}")])
    chain = RunnableWithMessageHistory(
        agent,
        session.buffer.get_session_history,
        history_factory_config=session.buffer.history_factory_config,
    )
    for _ in range(2):
        await session.colour.call(chain, "invoke", given, session.config)
    assert await session.texts() == ["one", "answer 1", "one", "answer 3"]


async def test_a_retried_append_stores_each_message_once(session: Session) -> None:
    batch = [HumanMessage("q", id="m1"), AIMessage("a", id="m2")]
    await session.add(*batch)
    await session.add(*batch)
    await session.add(*batch)
    assert await session.texts() == ["q", "a"]


async def test_a_retried_append_after_others_have_written_moves_nothing(
    session: Session,
) -> None:
    batch = [HumanMessage("q", id="m1"), AIMessage("a", id="m2")]
    await session.add(*batch)
    await session.event("between")
    await session.add(*batch)
    assert await session.texts() == ["q", "a", "between"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_what_an_agent_was_given_again_under_its_id_is_stored_once(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    question = HumanMessage("first", id="m1")
    await session.run(agent, {"messages": [question]})
    await session.run(agent, {"messages": [question]})
    assert (await session.texts()).count("first") == 1
    assert await session.seen_by(agent) == await session.texts()


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "stateless"])
async def test_a_history_around_a_whole_agent_stores_each_message_exactly_once(
    session: Session, kind: str, checkpointed: bool
) -> None:
    saver = session.buffer.checkpointer() if checkpointed else None
    agent = build_graph(kind, saver)
    wrapped = with_history(agent, session.buffer, input_messages_key="messages", output_messages_key="messages")
    expected: list[str] = []
    for turn in range(3):
        await session.run(wrapped, {"messages": [HumanMessage(f"look up x{turn}")]})
        expected += [
            f"look up x{turn}",
            f"call x{turn}",
            f"facts about x{turn}",
            f"answer: facts about x{turn}",
        ]
        assert await session.texts() == expected
    if checkpointed:
        assert await session.seen_by(agent) == expected


@pytest.mark.parametrize("kind", GRAPH_KINDS)
@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "stateless"])
@pytest.mark.parametrize(
    "question",
    [("human", "hello"), {"role": "user", "content": "hello"}, {"type": "human", "content": "hello", "id": "1"}],
    ids=["pair", "role", "type"],
)
async def test_a_history_around_an_agent_stores_a_question_that_is_a_message_to_langchain_only(
    session: Session, kind: str, question: object, *, checkpointed: bool
) -> None:
    agent = build_graph(kind, session.buffer.checkpointer() if checkpointed else None)
    wrapped = with_history(agent, session.buffer, input_messages_key="messages", output_messages_key="messages")
    await session.run(wrapped, {"messages": [question]})
    assert await session.texts() == ["hello", "re: hello"]


@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "stateless"])
@pytest.mark.parametrize(
    "form", [HumanMessage, lambda text: ("human", text), lambda text: {"role": "user", "content": text}]
)
async def test_a_question_that_an_agent_redacts_is_stored_once_and_redacted(
    session: Session, form: Callable[[str], Any], *, checkpointed: bool
) -> None:
    saver = session.buffer.checkpointer() if checkpointed else None
    agent: Any = create_agent(ScriptedModel(), [], middleware=[PIIMiddleware("email")], checkpointer=saver)
    wrapped = with_history(agent, session.buffer, input_messages_key="messages", output_messages_key="messages")
    expected: list[str] = []
    for name in ("bob", "eve"):
        await session.run(wrapped, {"messages": [form(f"I am {name}@example.com")]})
        expected += ["I am [REDACTED_EMAIL]", "re: I am [REDACTED_EMAIL]"]
        assert await session.texts() == expected


@pytest.mark.parametrize("id", ["u2", "20061126-0000-0000-0000-000000000000"])
async def test_an_input_of_which_a_part_has_ids_is_stored_whole(session: Session, id: str) -> None:
    chain = with_history(RunnableLambda(lambda _: AIMessage("fine")), session.buffer)
    await session.run(chain, [HumanMessage("one"), HumanMessage("two", id=id)])
    assert await session.texts() == ["one", "two", "fine"]


async def test_an_input_with_an_id_such_as_langgraph_gives_in_the_middle_is_stored_whole(session: Session) -> None:
    chain = with_history(RunnableLambda(lambda _: AIMessage("fine")), session.buffer)
    given = [HumanMessage(text) for text in ("one", "two", "three", "four")]
    given[2].id = "20061126-0000-4000-8000-000000000000"
    await session.run(chain, given)
    assert await session.texts() == ["one", "two", "three", "four", "fine"]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_history_around_a_streamed_agent_stores_each_message_exactly_once(session: Session, kind: str) -> None:
    # A streamed runnable passes the agent a dictionary of a class of LangChain's as its input.
    agent = build_graph(kind, session.buffer.checkpointer())
    wrapped = with_history(agent, session.buffer, input_messages_key="messages", output_messages_key="messages")
    expected: list[str] = []
    for turn in range(2):
        given = {"messages": [HumanMessage(f"hello {turn}")]}
        assert await session.colour.collect(wrapped, "stream", given, session.config)
        expected += [f"hello {turn}", f"re: hello {turn}"]
        assert await session.texts() == await session.seen_by(agent) == expected


@pytest.mark.parametrize(
    "example",
    [
        [AIMessage("answer: facts")],
        [AIMessage("", tool_calls=[lookup_call("a", "1")]), ToolMessage("facts about a", tool_call_id="1")],
    ],
    ids=["answer", "call"],
)
async def test_an_answer_among_the_input_of_a_chain_is_kept_though_the_model_says_the_same_again(
    session: Session, example: list[BaseMessage]
) -> None:
    again = example[0].model_copy(update={"id": "again"})
    wrapped = with_history(RunnableLambda(lambda _: again), session.buffer)
    given = [HumanMessage("look up a"), *example, HumanMessage("look up a")]
    await session.run(wrapped, given)
    assert await session.texts() == texts([*given, again])


@pytest.mark.parametrize("max_messages", [80, 3], ids=["shown", "cut"])
async def test_an_answer_that_a_models_cache_gives_again_is_stored_again(
    session_with: object, max_messages: int
) -> None:
    session: Session = session_with(max_messages=max_messages)  # type: ignore[operator]  # a fixture has no type here
    # It has the id of the first time, and its usage says that it cost nothing.
    cached = AIMessage("On page 1.", id="1")
    again = cached.model_copy(update={"usage_metadata": {"total_cost": 0}})
    answers = [cached, AIMessage("On page 2.", id="2"), again, again]
    chain = with_history(RunnableLambda(lambda _: answers.pop(0)), session.buffer)
    expected: list[str] = []
    for turn in range(4):
        expected += [f"turn {turn}", answers[0].text]
        await session.run(chain, [HumanMessage(f"turn {turn}")])
        assert await session.texts() == (expected if max_messages == 80 else expected[-2:])
    assert await session.seen_by(build_graph("agent", session.buffer.checkpointer())) == await session.texts()


async def test_a_call_that_a_models_cache_gives_again_gets_results_of_its_own(session: Session) -> None:
    cached = AIMessage("", tool_calls=[lookup_call("a", "1")], id="1")
    chain = with_history(RunnableLambda(lambda _: cached), session.buffer)
    expected: list[str] = []
    for turn in range(3):
        await session.run(chain, [HumanMessage(f"turn {turn}")])
        await session.add(ToolMessage(f"facts {turn}", tool_call_id="1"))
        expected += [f"turn {turn}", "call a", f"facts {turn}"]
    assert await session.texts() == expected


async def test_a_whole_turn_that_a_models_cache_gives_again_is_stored_again(session: Session) -> None:
    call = AIMessage("", tool_calls=[lookup_call("a", "1")], id="1")
    answer = AIMessage("answer: facts about a", id="2")
    chain = with_history(
        RunnableLambda(lambda _: [call, ToolMessage("facts about a", tool_call_id="1"), answer]), session.buffer
    )
    for turn in range(1, 4):
        await session.run(chain, [HumanMessage("look up a")])
        assert await session.texts() == ["look up a", "call a", "facts about a", "answer: facts about a"] * turn


async def test_what_an_agent_remembers_of_its_own_is_no_news_though_the_history_has_freed_it(
    session_with: Callable[..., Session],
) -> None:
    session = session_with(max_messages=4)
    agent = build_graph("agent", InMemorySaver())
    wrapped = with_history(agent, session.buffer, input_messages_key="messages", output_messages_key="messages")
    expected: list[str] = []
    for turn in range(12):
        await session.run(wrapped, {"messages": [HumanMessage(f"hello {turn}")]})
        expected += [f"hello {turn}", f"re: hello {turn}"]
        assert await session.texts() == expected[-4:]


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_history_with_its_own_key_around_an_agent_stores_each_message_once(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())

    def to_state(given: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [*given["history"], HumanMessage(given["question"])]}

    wrapped = with_history(
        RunnableLambda(to_state) | agent,
        session.buffer,
        input_messages_key="question",
        history_messages_key="history",
        output_messages_key="messages",
    )
    await session.event("user opened billing")
    await session.run(wrapped, {"question": "look up x"})

    conversation = await session.texts()
    for text in (
        "user opened billing",
        "call x",
        "facts about x",
        "answer: facts about x",
    ):
        assert conversation.count(text) == 1, conversation
    assert await session.seen_by(agent) == conversation


async def test_an_input_that_says_the_same_twice_is_stored_whole(session: Session) -> None:
    chain = with_history(RunnableLambda(lambda _: AIMessage("fine")), session.buffer)
    await session.run(chain, [HumanMessage("ok"), AIMessage("Really?"), HumanMessage("ok", id="u2")])
    assert await session.texts() == ["ok", "Really?", "ok", "fine"]


async def test_a_message_without_an_id_is_new_each_time_it_is_added(session: Session) -> None:
    message = HumanMessage("hello?")
    await session.add(message)
    await session.add(message)
    await session.add(message, message)
    stored = await session.messages()
    assert texts(stored) == ["hello?"] * 4
    assert len({each.id for each in stored}) == 4
    assert all(each.id for each in stored)


async def test_the_id_of_a_message_without_one_goes_on_the_copy_only(session: Session) -> None:
    messages = [HumanMessage("q"), AIMessage("a"), SystemMessage("s")]
    await session.add(*messages)
    await session.replace(messages)
    assert [message.id for message in messages] == [None, None, None]
    assert all(message.id for message in await session.messages())


async def test_a_new_id_stays_the_same_on_every_read(session: Session) -> None:
    await session.add(HumanMessage("q"))
    first, second = await session.messages(), await session.messages()
    assert [each.id for each in first] == [each.id for each in second]
    agent = build_graph("agent", session.buffer.checkpointer())
    assert dumps((await session.state(agent)).values["messages"]) == dumps(first)


async def test_one_append_that_names_an_id_twice_keeps_the_last_word(session: Session) -> None:
    await session.add(HumanMessage("q", id="m1"), AIMessage("draft", id="m2"), AIMessage("final", id="m2"))
    assert await session.texts() == ["q", "final"]


async def test_a_retried_turn_of_an_agent_that_failed_says_nothing_twice(
    session: Session,
) -> None:
    class UnluckyError(RuntimeError):
        pass

    failures = [UnluckyError("first try")]
    model = ScriptedModel()

    def answer(state: MessagesState) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    with pytest.raises(UnluckyError):
        await session.ask(compiled, "question")
    await session.event("while it was down")
    await session.ask(compiled, None)
    conversation = await session.texts()
    assert sorted(conversation) == sorted(["question", "while it was down", "re: question"])
    assert await session.seen_by(compiled) == conversation


async def test_a_seen_append_is_not_applied_again_after_an_edit_or_a_removal(
    session: Session,
) -> None:
    agent = build_graph("agent", session.buffer.checkpointer())
    await session.add(HumanMessage("q", id="m1"), AIMessage("old text", id="m2"))
    await session.ask(agent, "first")
    await session.colour.call(
        agent,
        "update_state",
        session.config,
        {"messages": [AIMessage("new text", id="m2"), RemoveMessage("m1")]},
        as_node="model",
    )
    for turn in range(3):
        await session.event(f"event {turn}")
        await session.ask(agent, f"turn {turn}")
    conversation = await session.texts()
    assert "old text" not in conversation
    assert "q" not in conversation
    assert conversation.count("new text") == 1


async def test_appends_retried_at_the_same_time_store_each_message_once(
    session: Session,
) -> None:
    batch = [HumanMessage("q", id="m1"), AIMessage("a", id="m2")]
    await asyncio.gather(*(session.add(*batch) for _ in range(6)))
    assert await session.texts() == ["q", "a"]


async def test_a_message_that_a_chain_edits_in_place_and_hands_back_replaces_the_one_before(session: Session) -> None:
    def redacted(messages: list[BaseMessage]) -> list[BaseMessage]:
        messages[0].content = "my card is ****"
        return [messages[0], AIMessage("noted")]

    await session.add(HumanMessage("my card is 1234", id="1"))
    await session.run(with_history(RunnableLambda(redacted), session.buffer), [HumanMessage("thanks")])
    assert await session.texts() == ["my card is ****", "thanks", "noted"]


async def test_a_message_of_the_history_that_a_chain_hands_back_edited_replaces_the_one_before(
    session: Session,
) -> None:
    await session.add(HumanMessage("my number is 1234", id="1"))

    def redact(given: list[Any]) -> list[Any]:
        return [given[0].model_copy(update={"content": "my number is ****"}), AIMessage("redacted", id="2")]

    await session.run(with_history(RunnableLambda(redact), session.buffer), [HumanMessage("hide it", id="3")])
    assert await session.texts() == ["my number is ****", "hide it", "redacted"]


@pytest.mark.parametrize("answer", [AIMessage("a"), AIMessage("a", id="a")], ids=["no id", "an id"])
async def test_an_agent_that_gives_ids_of_its_own_to_what_it_was_given_says_it_once(
    session: Session, answer: AIMessage
) -> None:
    turn = session.buffer.get_session_history(session.session_id, user_id=session.user_id)
    assert await session.read(turn) == []
    said = [HumanMessage("q"), HumanMessage("q", id="own"), answer]
    await session.colour.call(turn, "add_messages", said)
    assert await session.texts() == ["q", "a"]


@pytest.mark.parametrize(
    ("returned", "stored"),
    [
        (["hello"], ["hi", "hello", "q", "hello"]),  # As from a model's cache.
        (["hello, edited"], ["hi", "hello, edited", "q"]),
        (["hi", "hello, edited"], ["hi", "hello, edited", "q"]),
    ],
)
async def test_an_answer_that_comes_again_is_new_if_it_is_the_same_and_an_edit_if_it_is_not(
    session: Session, returned: list[str], stored: list[str]
) -> None:
    await session.add(AIMessage("hi", id="hi"), AIMessage("hello", id="hello"))
    turn = session.buffer.get_session_history(session.session_id, user_id=session.user_id)
    assert len(await session.read(turn)) == 2
    again = [AIMessage(text, id=text.split(",")[0]) for text in returned]
    await session.colour.call(turn, "add_messages", [HumanMessage("q"), *again])
    assert await session.texts() == stored
