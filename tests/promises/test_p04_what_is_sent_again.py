"""P4 Nothing is said twice: what a client or a subgraph says again that the window had cut moves nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from tests.shared.graphs import GRAPH_KINDS, build_graph
from tests.shared.models import ScriptedModel, last_question, lookup_call
from tests.shared.sessions import Session

Opens = Callable[..., Session]
CAP = 6
# A `DeltaChannel` is not handed over as a whole, so what is sent again cannot be moved in it.
KINDS = [kind for kind in GRAPH_KINDS if kind != "delta"]


def answering(messages: Sequence[BaseMessage]) -> AIMessage:
    return AIMessage(f"to {last_question(messages)}")


def asking_at(asks: str) -> Any:
    """A node that answers each question, and one of them only once a person has said that it may."""

    def answer(state: MessagesState) -> Any:
        question = last_question(state["messages"])
        return {"messages": [AIMessage(f"to {question}: {interrupt('sure?') if question == asks else ''}")]}

    return answer


def agent_of(session: Session, kind: str) -> Any:
    return build_graph(kind, session.buffer.checkpointer(), ScriptedModel(answer=answering), [])


class Client:
    """One that gives a graph, with each question, every message of the conversation that the state does not show."""

    def __init__(self, session: Session, graph: Any) -> None:
        self._session = session
        self._graph = graph
        self.said: list[BaseMessage] = []

    async def ask(self, text: str, **options: Any) -> None:
        await self.send(HumanMessage(text, id=text), **options)

    async def send(self, message: BaseMessage, **options: Any) -> None:
        self.said.append(message)
        shown = {message.id for message in (await self._session.state(self._graph)).values.get("messages", [])}
        given = [message for message in self.said if message.id not in shown]
        result = await self._session.run(self._graph, {"messages": given}, **options)
        if "__interrupt__" in result:
            result = await self._session.run(self._graph, Command(resume="yes"), **options)
        self.said.append(result["messages"][-1])

    @property
    def newest(self) -> list[str | None]:
        """The ids of what the window has room for."""
        return [message.id for message in self.said[-CAP:]]


async def ask_each(session: Session, graph: Any, count: int, **options: Any) -> None:
    """Ask this many questions, the first with the id u0."""
    for number in range(count):
        await session.run(graph, {"messages": [HumanMessage(f"q{number}", id=f"u{number}")]}, **options)


async def shown(session: Session, graph: Any) -> list[str | None]:
    """The ids that both doors show."""
    ids = [message.id for message in await session.messages()]
    assert [message.id for message in (await session.state(graph)).values["messages"]] == ids
    return ids


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_sends_all_it_knows_moves_nothing(session_with: Opens, kind: str, durability: str) -> None:
    session = session_with(max_messages=CAP)
    graph = agent_of(session, kind)
    client = Client(session, graph)
    for number in range(8):
        await client.ask(f"q{number}", durability=durability)
        assert await shown(session, graph) == client.newest


@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_what_a_person_was_asked_meanwhile_makes_nothing_sent_again_the_newest(
    session_with: Opens, durability: str
) -> None:
    session = session_with(max_messages=CAP)
    graph = StateGraph(MessagesState).add_node("model", asking_at("q5")).add_edge(START, "model")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    client = Client(session, compiled)
    for number in range(9):
        await client.ask(f"q{number}", durability=durability)
        assert await shown(session, compiled) == client.newest


@pytest.mark.parametrize("others", ["one agent", "agents", "a chain"])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_others_said_meanwhile_makes_nothing_sent_again_the_newest(
    session_with: Opens, kind: str, others: str
) -> None:
    session = session_with(max_messages=CAP)
    graph = agent_of(session, kind)
    client = Client(session, graph)
    for number in range(6):
        await client.ask(f"q{number}")
    if others == "a chain":
        await session.add(HumanMessage("event", id="e"), AIMessage("noted", id="n"))
        client.said += [HumanMessage("event", id="e"), AIMessage("noted", id="n")]
    else:
        for number in range(1 if others == "one agent" else 4):
            client.said += (await session.ask(graph, f"other {number}"))["messages"][-2:]
    for number in range(6, 9):
        await client.ask(f"q{number}")
        assert await shown(session, graph) == client.newest


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("last", ["a result", "an event"])
async def test_what_is_sent_again_in_front_of_something_new_that_is_no_question_moves_nothing(
    session_with: Opens, last: str, durability: str
) -> None:
    session = session_with(max_messages=CAP)

    def model(state: MessagesState) -> Any:
        newest = state["messages"][-1]
        calls = [lookup_call("whales", "c")] if newest.text == "look" else []
        return {"messages": [AIMessage(f"to {newest.text}", tool_calls=calls)]}

    graph = StateGraph(MessagesState).add_node(model).add_edge(START, "model")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    client = Client(session, compiled)
    for number in range(6):
        await client.ask(f"q{number}", durability=durability)
    if last == "a result":
        await client.ask("look", durability=durability)
        await client.send(ToolMessage("facts", tool_call_id="c", id="r"), durability=durability)
    else:
        await client.send(SystemMessage("event", id="e"), durability=durability)
    assert (await shown(session, compiled))[-4:] == client.newest[-4:]
    await client.ask("next", durability=durability)
    assert await shown(session, compiled) == client.newest


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_removed_is_new_when_it_is_sent_again(session_with: Opens, kind: str) -> None:
    session = session_with(max_messages=CAP)
    graph = agent_of(session, kind)
    client = Client(session, graph)
    for number in range(3):
        await client.ask(f"q{number}")
    question, answer = client.said[2:4]
    await session.add(RemoveMessage(id=str(question.id)), RemoveMessage(id=str(answer.id)))
    await session.run(graph, {"messages": [question, answer, HumanMessage("q3", id="q3")]})
    assert (await shown(session, graph))[:-1] == ["q2", client.said[-1].id, "q1", answer.id, "q3"]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_replacement_removed_is_new_when_it_is_sent_again(session_with: Opens, kind: str) -> None:
    """What the window had cut of it as well."""
    session = session_with(max_messages=CAP)
    graph = agent_of(session, kind)
    first = (await session.ask(graph, "q0"))["messages"]
    for number in range(1, 6):
        await session.ask(graph, f"q{number}")
    await session.replace([SystemMessage("fresh")])
    await session.run(graph, {"messages": [*first, HumanMessage("new")]})
    assert await session.texts() == ["fresh", "q0", "to q0", "new", "to new"]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_removed_and_said_again_before_it_was_cut_moves_nothing(session_with: Opens, kind: str) -> None:
    session = session_with(max_messages=CAP)
    graph = agent_of(session, kind)
    client = Client(session, graph)
    await client.ask("q0")
    await session.add(RemoveMessage(id="q0"))
    await session.ask(graph, "other")
    await session.add(client.said[0], AIMessage("here", id="here"))
    for number in range(4):
        await session.ask(graph, f"other {number}")
    await session.run(graph, {"messages": [*client.said, HumanMessage("q1", id="q1")]})
    assert await session.texts() == ["other 2", "to other 2", "other 3", "to other 3", "q1", "to q1"]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_fork_left_behind_is_new_when_it_is_sent_again(session_with: Opens, kind: str) -> None:
    session = session_with(max_messages=CAP)
    graph = agent_of(session, kind)
    client = Client(session, graph)
    await client.ask("q0")
    before = (await session.state(graph)).config
    await client.ask("left")
    left = client.said[-2:]
    await session.colour.call(graph, "invoke", {"messages": [HumanMessage("q1", id="q1")]}, before)
    await session.run(graph, {"messages": [*left, HumanMessage("q2", id="q2")]})
    assert (await session.texts())[-4:] == ["left", "to left", "q2", "to q2"]


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_a_question_that_was_cut_and_is_asked_again_stays_with_its_answer(
    session_with: Opens, kind: str, durability: str
) -> None:
    session = session_with(max_messages=CAP)
    graph = agent_of(session, kind)
    await ask_each(session, graph, 6, durability=durability)
    await session.run(graph, {"messages": [HumanMessage("again", id="u2")]}, durability=durability)
    assert (await session.texts())[-4:] == ["q5", "to q5", "again", "to again"]
    assert await session.seen_by(graph) == await session.texts()
    await session.ask(graph, "next", durability=durability)
    assert await session.texts() == ["q5", "to q5", "again", "to again", "next", "to next"]


@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_what_is_said_behind_a_question_that_is_asked_again_stays_there(
    session_with: Opens, durability: str
) -> None:
    """Its run goes on to change what it was shown."""
    session = session_with(max_messages=CAP)

    def model(state: MessagesState) -> Any:
        return {"messages": [answering(state["messages"])]}

    def redact(state: MessagesState) -> Any:
        return {"messages": [HumanMessage("redacted", id=state["messages"][0].id)]}

    graph = StateGraph(MessagesState).add_node(model).add_node(redact)
    compiled = (
        graph.add_edge(START, "model").add_edge("model", "redact").compile(checkpointer=session.buffer.checkpointer())
    )
    await ask_each(session, compiled, 6, durability=durability)
    given = [HumanMessage("again", id="u2"), AIMessage("hint", id="hint")]
    await session.run(compiled, {"messages": given}, durability=durability)
    assert (await session.texts())[-3:] == ["again", "hint", "to again"]
    assert await session.seen_by(compiled) == await session.texts()


@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_a_question_that_is_asked_again_stays_though_its_run_asks_one_too(
    session_with: Opens, durability: str
) -> None:
    session = session_with(max_messages=CAP)

    def model(state: MessagesState) -> Any:
        return {"messages": [answering(state["messages"]), HumanMessage("critic"), AIMessage("done")]}

    graph = StateGraph(MessagesState).add_node(model).add_edge(START, "model")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    await ask_each(session, compiled, 4, durability=durability)
    await session.run(compiled, {"messages": [HumanMessage("again", id="u1")]}, durability=durability)
    assert (await session.texts())[-4:] == ["again", "to again", "critic", "done"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_question_that_was_cut_and_is_put_in_by_an_update_is_answered(session_with: Opens, kind: str) -> None:
    session = session_with(max_messages=CAP)
    graph = agent_of(session, kind)
    await ask_each(session, graph, 6)
    again = {"messages": [HumanMessage("again", id="u2")]}
    await session.colour.call(graph, "update_state", session.config, again, as_node="__start__")
    await session.ask(graph, None)
    assert (await session.texts())[-4:] == ["q5", "to q5", "again", "to again"]


async def test_what_a_subgraph_returns_of_what_was_cut_is_no_question(session_with: Opens) -> None:
    session = session_with(max_messages=CAP)
    held: list[BaseMessage] = []

    def inner(state: MessagesState) -> Any:
        held.extend(message for message in state["messages"] if message not in held)
        return {"messages": [*held, answering(state["messages"])]}

    graph = StateGraph(MessagesState).add_node(inner).add_edge(START, "inner")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    for number in range(8):
        given = {"messages": [HumanMessage(f"q{number}", id=f"q{number}")]}
        await session.run(compiled, given, durability="exit")
        newest = [text for each in range(max(0, number - 2), number + 1) for text in (f"q{each}", f"to q{each}")]
        assert await session.texts() == newest


@pytest.mark.parametrize("what", ["an interrupt", "a turn without it", "an update"])
async def test_what_a_subgraph_with_a_state_of_its_own_returns_keeps_its_old_place(
    session_with: Opens, what: str
) -> None:
    session = session_with(max_messages=CAP)

    def other(state: MessagesState) -> Any:
        return {"messages": [AIMessage("skipped")]}

    def first(state: MessagesState) -> str:
        return "other" if last_question(state["messages"]) == "skips" else "subgraph"

    inner = StateGraph(MessagesState).add_node("inner", asking_at("asks"))
    subgraph = inner.add_edge(START, "inner").compile(checkpointer=True)
    graph = StateGraph(MessagesState).add_node("subgraph", subgraph).add_node(other)
    graph.add_conditional_edges(START, first, ["other", "subgraph"])
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    for number in range(5):
        await session.ask(compiled, f"q{number}")
    said = await session.texts()
    if what == "an update":
        values = {"messages": [HumanMessage("told"), AIMessage("noted")]}
        await session.colour.call(compiled, "update_state", session.config, values, as_node="other")
        said += ["told", "noted"]
    else:
        question = "asks" if what == "an interrupt" else "skips"
        await session.ask(compiled, question)
        if what == "an interrupt":
            await session.run(compiled, Command(resume="yes"))
        said += [question, "to asks: yes" if what == "an interrupt" else "skipped"]
    assert await session.texts() == said[-CAP:]
    await session.ask(compiled, "next")
    assert await session.texts() == [*said, "next", "to next: "][-CAP:]


@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_an_old_question_that_a_node_says_again_is_not_asked(session_with: Opens, durability: str) -> None:
    session = session_with(max_messages=CAP)
    held: list[BaseMessage] = []

    def model(state: MessagesState) -> Any:
        held.extend(state["messages"][: 1 - len(held)])
        return {"messages": [*held, answering(state["messages"])]}

    graph = StateGraph(MessagesState).add_node(model).add_edge(START, "model")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    await ask_each(session, compiled, 6, durability=durability)
    assert await session.texts() == ["q3", "to q3", "q4", "to q4", "q5", "to q5"]
