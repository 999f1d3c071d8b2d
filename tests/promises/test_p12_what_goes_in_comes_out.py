"""P12 What goes in comes out."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_ttl_history import SessionBuffer
from tests.shared.chats import dumps, texts
from tests.shared.graphs import GRAPH_KINDS, build_chain, build_graph
from tests.shared.models import ScriptedModel, lookup_call
from tests.shared.samples import VALUES, AuditedAnswer, TicketMessage, messages, same
from tests.shared.sessions import Session

ALLOWED = [TicketMessage, AuditedAnswer, *{type(value) for value in VALUES.values()}]


@pytest.fixture
def session(session_with: Callable[..., Session]) -> Session:
    return session_with(allow_types=[each for each in ALLOWED if each.__module__ != "builtins"])


def conversation_with(name: str) -> list[BaseMessage]:
    """The message, behind the calls it may answer."""
    calls = AIMessage("", id="calls", tool_calls=[lookup_call("x", "c1"), lookup_call("y", "c2")])
    message = messages()[name]
    return [calls, message] if isinstance(message, ToolMessage) else [message]


@pytest.mark.parametrize("name", list(messages()))
async def test_every_message_comes_out_of_the_history_as_it_went_in(session: Session, name: str) -> None:
    said = conversation_with(name)
    await session.add(*said)
    shown = await session.messages()
    assert dumps(shown) == dumps(said)
    for left, right in zip(shown, said, strict=True):
        assert same(left, right)


@pytest.mark.parametrize("name", list(messages()))
@pytest.mark.parametrize("kind", ["state_graph", "delta"])
async def test_every_message_comes_out_of_the_graph_as_it_went_in(session: Session, name: str, kind: str) -> None:
    graph = build_graph(kind, session.buffer.checkpointer(), ScriptedModel(answer=lambda m: AIMessage("ok")))
    said = conversation_with(name)
    await session.run(graph, {"messages": said})
    for shown in (
        (await session.state(graph)).values["messages"],
        await session.messages(),
        (await session.states(graph))[0].values["messages"],
    ):
        assert dumps(shown[: len(said)]) == dumps(said)


async def test_every_message_reaches_the_graph_through_the_history(session: Session) -> None:
    said = [each for name in messages() for each in conversation_with(name)]
    said = list({message.id: message for message in said}.values())
    said.sort(key=lambda message: (message.id != "calls", not isinstance(message, ToolMessage)))
    await session.add(*said)
    graph = build_graph("state_graph", session.buffer.checkpointer())
    assert dumps((await session.state(graph)).values["messages"]) == dumps(said)


@pytest.mark.parametrize("name", list(VALUES))
async def test_every_value_in_a_message_comes_out_as_it_went_in(session: Session, name: str) -> None:
    value = VALUES[name]
    await session.add(
        AIMessage("", id="m0", tool_calls=[lookup_call("x", "c1")]),
        ToolMessage("ok", tool_call_id="c1", artifact=copy.deepcopy(value), id="m1"),
        HumanMessage("q", id="m2", additional_kwargs={"value": copy.deepcopy(value)}),
        AIMessage("a", id="m3", response_metadata={"value": copy.deepcopy(value)}),
    )
    _, tool, human, ai = await session.messages()
    assert same(tool.artifact, value)  # type: ignore[attr-defined]  # read back as any message
    assert same(human.additional_kwargs["value"], value)
    assert same(ai.response_metadata["value"], value)


class State(TypedDict):
    messages: Annotated[list[Any], lambda old, new: [*old, *new]]
    value: Any


def state_graph(saver: Any, value: Any) -> Any:
    def node(state: State) -> dict[str, Any]:
        return {"value": value}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("name", list(VALUES))
async def test_every_value_in_another_channel_comes_out_as_it_went_in(session: Session, name: str) -> None:
    value = VALUES[name]
    graph = state_graph(session.buffer.checkpointer(), value)
    await session.run(graph, {"messages": [], "value": None})
    assert same((await session.state(graph)).values["value"], value)
    written = [
        write
        for each in await session.colour.collect(session.buffer.checkpointer(), "list", session.config)
        for write in each.pending_writes or []
        if write[1] == "value" and write[2] is not None
    ]
    assert value is None or any(same(write[2], value) for write in written)


@pytest.mark.parametrize("name", ["tuple", "set", "dataclass", "decimal", "text", "pydantic model"])
async def test_every_value_of_an_interrupt_comes_out_as_it_went_in(session: Session, name: str) -> None:
    value = VALUES[name]

    def node(state: MessagesState) -> dict[str, Any]:
        interrupt(value)
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer())
    await session.ask(compiled, "hello")
    (pending,) = (await session.state(compiled)).interrupts
    assert same(pending.value, value)


async def test_the_thread_of_a_returned_config_can_be_said_and_stored(session: Session) -> None:
    graph = build_graph("state_graph", session.buffer.checkpointer())
    await session.ask(graph, "hello")
    thread = (await session.state(graph)).config["configurable"]["thread_id"]
    given = HumanMessage(thread, id=thread, additional_kwargs={"threads": {thread: [thread]}}, name=thread)
    await session.colour.call(graph, "update_state", session.config, {"messages": [given]})
    await session.add(AIMessage(thread, response_metadata={"thread": thread}))
    said, answered = (await session.messages())[-2:]
    assert (said.id, said.name, said.text, said.additional_kwargs) == ("s1", "s1", "s1", {"threads": {"s1": ["s1"]}})
    assert (answered.text, answered.response_metadata) == ("s1", {"thread": "s1"})
    assert {type(each) for each in said.additional_kwargs["threads"]} == {str}


async def test_the_thread_of_a_returned_config_can_be_kept_in_a_state(session: Session) -> None:
    def note(state: State, config: RunnableConfig) -> dict[str, Any]:
        return {"value": [config["configurable"]["thread_id"]]}

    graph = StateGraph(State).add_node(note).add_edge(START, "note").compile(checkpointer=session.buffer.checkpointer())
    await session.ask(graph, "hello")
    found = await session.state(graph)
    await session.colour.call(graph, "invoke", {"messages": [HumanMessage("again")]}, found.config)
    assert (await session.state(graph)).values["value"] == ["s1"]


async def test_a_conversation_may_be_a_plain_list_of_strings(session: Session) -> None:
    graph = state_graph(session.buffer.checkpointer(), "x")
    await session.run(graph, {"messages": ["one", "two"], "value": 0})
    await session.run(graph, {"messages": ["three"], "value": 0})
    assert (await session.state(graph)).values["messages"] == ["one", "two", "three"]


# --- nobody's later mutation ------------------------------------------------------------------


async def test_a_chain_that_changes_what_it_was_shown_beside_a_message_of_the_programs_own_says_its_turn(
    session: Session,
) -> None:
    await session.add(HumanMessage("hello", id="h"), TicketMessage("see", ticket=7, id="t"))
    turn = session.buffer.get_session_history("s1", user_id="alice")
    (await session.read(turn))[0].content = "changed"
    await session.colour.call(turn, "add_messages", [HumanMessage("question"), AIMessage("answer")])
    assert await session.texts() == ["hello", "see", "question", "answer"]


class Uttered(TypedDict):
    messages: Annotated[list[BaseMessage], operator.add]


async def test_messages_that_say_the_same_and_have_no_id_are_read_as_objects_of_their_own(session: Session) -> None:
    graph = StateGraph(Uttered).add_node("model", lambda state: {"messages": [AIMessage("yes")]})
    agent = graph.add_edge(START, "model").compile(checkpointer=session.buffer.checkpointer())
    for _ in range(3):
        await session.run(agent, {"messages": [HumanMessage("sure?")]})
    older = (await session.states(agent))[1]
    for read in ((await session.state(agent)).values["messages"], await session.messages(), older.values["messages"]):
        assert texts(read)[:4] == ["sure?", "yes"] * 2
        assert all(message.id is None for message in read)
        assert len({*map(id, read)}) == len(read)


async def test_changing_a_message_after_it_was_added_changes_nothing_stored(
    session: Session,
) -> None:
    message = AIMessage(
        [{"type": "text", "text": "said"}],
        id="m1",
        additional_kwargs={"list": [1]},
        tool_calls=[lookup_call("x", "c1")],
    )
    artifact = {"rows": [1]}
    result = ToolMessage("ok", tool_call_id="c1", id="m2", artifact=artifact)
    before = dumps([message.model_copy(deep=True), result.model_copy(deep=True)])
    await session.add(message, result)
    message.content[0]["text"] = "other"  # type: ignore[index]  # its content is a list of blocks here
    message.additional_kwargs["list"].append(2)
    message.tool_calls[0]["args"]["thing"] = "y"
    message.id = "other"
    artifact["rows"].append(2)
    assert dumps(await session.messages()) == before


async def test_changing_a_message_that_was_read_changes_nothing_stored(session: Session) -> None:
    await session.add(HumanMessage("said", id="m1", additional_kwargs={"list": [1]}))
    shown = await session.messages()
    shown[0].content = "other"
    shown[0].additional_kwargs["list"].append(2)
    shown.append(HumanMessage("more"))
    (stored,) = await session.messages()
    assert stored.content == "said"
    assert stored.additional_kwargs == {"list": [1]}


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_changing_what_a_graph_returned_changes_nothing_stored(session: Session, kind: str) -> None:
    agent = build_graph(kind, session.buffer.checkpointer())
    result = await session.ask(agent, "hello")
    result["messages"][0].content = "other"
    (await session.state(agent)).values["messages"][1].content = "other"
    assert await session.texts() == ["hello", "re: hello"]
    assert await session.seen_by(agent) == ["hello", "re: hello"]
    states = await session.states(agent)
    states[0].values["messages"].clear()
    assert texts((await session.states(agent))[0].values["messages"]) == ["hello", "re: hello"]


async def test_changing_other_channels_and_metadata_changes_nothing_stored(
    session: Session,
) -> None:
    value = {"list": [1]}
    saver = session.buffer.checkpointer()
    graph = state_graph(saver, value)
    await session.run(graph, {"messages": [], "value": None})
    value["list"].append(2)
    assert (await session.state(graph)).values["value"] == {"list": [1]}
    found = await session.colour.call(saver, "get_tuple", session.config)
    found.checkpoint["channel_values"]["value"]["list"].append(3)
    found.metadata["step"] = 99
    found.config["configurable"]["thread_id"] = "other"
    again = await session.colour.call(saver, "get_tuple", session.config)
    assert again.checkpoint["channel_values"]["value"] == {"list": [1]}
    assert again.metadata["step"] != 99
    assert again.config["configurable"]["thread_id"] == "s1"


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_edit_in_place_by_a_graph_is_stored_like_any_other(session: Session, kind: str) -> None:
    """A node that changes a message of its state means it, as with any saver."""
    model = ScriptedModel()
    agent = build_graph(kind, session.buffer.checkpointer(), model)
    result = await session.ask(agent, "hello")
    edited = result["messages"][1]
    edited.content = "edited"
    await session.run(agent, {"messages": [edited, HumanMessage("next")]})
    assert await session.texts() == ["hello", "edited", "next", "re: next"]


async def test_the_list_given_to_the_history_is_not_kept(session: Session) -> None:
    given: list[BaseMessage] = [HumanMessage("one")]
    await session.add(*given)
    history = session.history
    history.messages = given
    given.append(HumanMessage("two"))
    assert await session.texts() == ["one"]


async def test_ids_stay_as_they_were_through_both_doors(session: Session) -> None:
    await session.say(build_chain(session.buffer), "hello")
    first = [message.id for message in await session.messages()]
    agent = build_graph("agent", session.buffer.checkpointer())
    result = await session.ask(agent, "look up x")
    assert [message.id for message in result["messages"]][:2] == first
    assert [message.id for message in await session.messages()] == [message.id for message in result["messages"]]


async def test_two_buffers_on_one_storage_read_what_either_wrote(
    session: Session, open_buffer: Callable[..., SessionBuffer]
) -> None:
    said = [message for name, message in messages().items() if not name.startswith("tool")]
    said = [m for m in said if type(m) not in (TicketMessage, AuditedAnswer)]
    await session.add(*said)
    assert dumps(await session.through(open_buffer()).messages()) == dumps(said)
