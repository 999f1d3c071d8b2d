"""What once went wrong where the window cuts, or something is freed, that somebody still holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, _messages_delta_reducer
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langchain_ttl_history import CorruptRecordError, Retention, SessionBuffer, StorageError, TTLHistoryError
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.records import pack
from langchain_ttl_history.freeing.compaction import hard_limits
from langchain_ttl_history.pointers import hidden_places
from langchain_ttl_history.storage import MemoryStorage, SQLiteStorage
from langchain_ttl_history.storage.types import Change, Lease, Query
from langchain_ttl_history.stored.names import LOG, pointer_name
from tests.regressions.cases import (
    CALL,
    CONFIG,
    DELTAS,
    KEY,
    LOOP,
    Hooked,
    Veil,
    ask,
    asking,
    calls_while,
    chained,
    echoing,
    graph_of,
    ids,
    plain_texts,
    says,
)
from tests.shared.checkpoints import checkpoint
from tests.shared.gates import PATIENCE
from tests.shared.graphs import DeltaState, Desk
from tests.shared.sessions import Colour


@pytest.mark.parametrize("together", [False, True], ids=["two calls", "one call"])
@pytest.mark.parametrize("what", ["edited", "as it was"])
def test_what_the_window_cuts_while_a_graph_waits_does_not_come_back_as_the_newest(what: str, together: bool) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=3))
    agent = asking(buffer)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("answer", id="answer")])
    agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG)
    # The history has room for it, without the call that waits; the graph has not.
    assert ids(history.messages) == ["old", "answer", "h"]
    edit = HumanMessage("edited" if what == "edited" else "old", id="old")
    meanwhile = HumanMessage("meanwhile", id="meanwhile")
    for messages in [[edit, meanwhile]] if together else [[edit], [meanwhile]]:
        history.add_messages(messages)
    agent.invoke(Command(resume="yes"), CONFIG)
    assert "old" not in ids(history.messages)
    assert ids(agent.get_state(CONFIG).values["messages"])[-1] == "meanwhile"


def test_what_is_put_down_anew_while_a_graph_waits_is_kept_though_the_window_cut_what_it_was() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=3))
    agent = asking(buffer)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("answer", id="answer")])
    agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG)
    history.add_messages([RemoveMessage(id="old")])
    history.add_messages([HumanMessage("anew", id="old")])
    agent.invoke(Command(resume="yes"), CONFIG)
    assert plain_texts(history.messages)[-1] == "anew"


@pytest.mark.parametrize("cap", [4, 5, 6, 7])
@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("asks", [True, False], ids=["interrupted", "remembers itself"])
def test_what_a_subgraph_holds_beyond_the_window_stays_where_it_stood(asks: bool, goes_on: bool, cap: int) -> None:
    def answers(state: MessagesState) -> Any:
        if asks:
            interrupt("go on?")
        asked = state["messages"][-1]
        return {"messages": [AIMessage("answer", id=f"{asked.id}+")]}

    inner: Any = StateGraph(MessagesState).add_node("answers", answers).add_edge(START, "answers")
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=cap))
    nodes: dict[str, Any] = {"inner": inner.compile(checkpointer=None if asks else True)}
    if goes_on:
        nodes["after"] = lambda state: {"messages": [AIMessage("more", id=f"{state['messages'][-1].id}+")]}
    graph = chained(buffer, **nodes)
    said: list[str] = []
    for turn in range(6):
        graph.invoke({"messages": [HumanMessage("question", id=f"{turn}")]}, CONFIG)
        if asks:
            graph.invoke(Command(resume="yes"), CONFIG)
        said += [f"{turn}", f"{turn}+", *([f"{turn}++"] if goes_on else [])]
        expected = said[-(cap - cap % (3 if goes_on else 2)) :]
        assert ids(graph.get_state(CONFIG).values["messages"]) == expected
        assert ids(buffer.history(session_id="t").messages) == expected


@pytest.mark.parametrize("size", [1, 500, 1_000, 2_000])
def test_what_was_removed_meanwhile_does_not_come_back_where_bytes_are_short(size: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=size))
    history = buffer.history(session_id="t")

    def removes(state: MessagesState) -> Any:
        history.add_messages([RemoveMessage(id=str(state["messages"][0].id))])
        return {"messages": [AIMessage("removed")]}

    graph = chained(
        buffer,
        thinks=lambda _: {"messages": [AIMessage("thinking " + "x" * 300)]},
        removes=removes,
        ends=lambda _: {"messages": [AIMessage("last")]},
    )
    ask(graph, "question")
    assert "question" not in plain_texts(history.messages)
    assert plain_texts(history.messages)[-1] == "last"


@pytest.mark.parametrize("who", ["the others", "a chain"])
@pytest.mark.parametrize(("state", "size"), [(MessagesState, 1_800), (DELTAS, 2_700), (DELTAS, 3_500)])
def test_what_was_removed_under_a_run_whose_checkpoint_was_freed_does_not_come_back(
    state: Any, who: str, size: int
) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=size))
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("older")])

    removed: list[str] = []

    def removes(state: Any) -> Any:
        if who == "a chain" or "old" not in ids(state["messages"]):
            return {"messages": [AIMessage("other")]}
        removed.append("old")
        return {"messages": [RemoveMessage(id="old")]}

    other = chained(buffer, state, removes=removes)

    def others() -> None:
        for number in range(8):
            ask(other, f"question {number}")
            if number == 0 and who == "a chain":
                history.add_messages([RemoveMessage(id="old")])

    agent = calls_while(buffer, others, state)
    held = ask(agent, "question")
    assert removed == ["old"] * (who == "the others")
    assert held == ["old", "older", "question", "call", "result", "answer"]
    shown = plain_texts(history.messages)
    assert "old" not in shown
    # By its place in the conversation this turn is the oldest; whether the bytes last for it depends on how many of the
    # steps LangGraph's threads have stored when the others' are freed.
    assert {*held[2:]} <= {*shown} or {*held[2:]}.isdisjoint(shown)
    assert plain_texts(agent.get_state(CONFIG).values["messages"]) == shown


def test_a_question_is_not_freed_while_a_turn_beside_it_keeps_its_answer() -> None:
    steps = range(4)
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=6))
    history = buffer.history(session_id="t")

    def turn(name: str, meanwhile: Callable[[], object] = lambda: None) -> Any:
        def answers(state: MessagesState) -> Any:
            meanwhile()
            return {"messages": [AIMessage(f"{name} answer")]}

        def says(at: int) -> Any:
            return lambda _: {"messages": [AIMessage(f"{name} {at}")]}

        return chained(buffer, **{f"says{at}": says(at) for at in steps}, answers=answers)

    newest = turn("third")
    older = turn("second", lambda: ask(newest, "third question"))
    ask(turn("first", lambda: ask(older, "second question")), "first question")
    said = ["third question", *(f"third {at}" for at in steps), "third answer"]
    assert plain_texts(history.messages) == said
    for event in range(3):
        history.add_system_message(f"event {event}")
        said.append(f"event {event}")
        assert plain_texts(history.messages) == ["third question", *said[-5:]]


@pytest.mark.parametrize("begins", ["a chain", "a graph", "a graph that waits"])
@pytest.mark.parametrize("change", ["removal", "replacement", "edits", "notices"])
def test_the_log_is_freed_whatever_was_changed_before_what_is_shown(begins: str, change: str) -> None:
    retention = Retention(max_messages=4)
    buffer = SessionBuffer(default_user="u", retention=retention)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("older", id="older")])
    if begins == "a graph":
        ask(chained(buffer, answers=lambda _: {"messages": [AIMessage("answer")]}), "question")
    elif begins == "a graph that waits":
        asking(buffer).invoke({"messages": [HumanMessage("question")]}, CONFIG)
    edited = history.messages[0]
    if change == "removal":
        history.add_messages([RemoveMessage(id="older")])
    elif change == "replacement":
        history.messages = [HumanMessage("new"), edited]
    kept = plain_texts(history.messages)
    for number in range(100):
        text = f"said {number}"
        if change == "edits":
            history.add_messages([edited.model_copy(update={"content": text})])
            assert plain_texts(history.messages) == [text, *kept[1:]]
        elif change == "notices":
            history.add_messages([AIMessage(text, id="notice")])
            history.add_messages([RemoveMessage(id="notice")])
            assert plain_texts(history.messages) == kept
        else:
            history.add_messages([HumanMessage(text)])
            assert plain_texts(history.messages)[-1] == text
    entries = MemoryStorage.read(history._storage, KEY, Query(outline=True)).lists[LOG]  # type: ignore[arg-type]  # it is a MemoryStorage
    weight = sum(1 + len(entry.refs) for entry in entries)
    assert weight <= hard_limits(retention, MemoryStorage.slack)[LOG]


@pytest.mark.parametrize("edit", ["in place", "after a move", "with a move"])
def test_an_edit_is_kept_though_the_window_cuts_it_and_shows_it_again(edit: str) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=3))
    history = buffer.history(session_id="t")
    ask(chained(buffer, answers=lambda _: {"messages": [AIMessage("answer", id="answer")]}), "question")
    question, answer = history.messages
    edited = question.model_copy(update={"content": "edited"})
    if edit == "after a move":
        history.messages = [answer, question]
    if edit == "with a move":
        history.messages = [answer, edited]
    else:
        history.add_messages([edited])
    for number in range(40):
        # The log is freed of what these were, again and again.
        history.add_messages([HumanMessage(f"said {number}", id=f"said {number % 3}")])
    for number in range(3):
        history.add_messages([RemoveMessage(id=f"said {number}")])
    assert plain_texts(history.messages) == (["edited", "answer"] if edit == "in place" else ["answer", "edited"])


@pytest.mark.parametrize("cap", [8, 80])
@pytest.mark.parametrize("how", ["others are removed", "the cap grows"])
def test_what_is_older_than_what_is_freed_is_never_shown_again(how: str, cap: int) -> None:
    """An agent's turn from long ago would be shown in front of the newest, without all that was said in between."""
    storage = MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_messages=cap))
    agent = chained(buffer, answers=lambda _: {"messages": [AIMessage("a0", id="a0")]})
    agent.invoke({"messages": [HumanMessage("q0", id="q0")]}, CONFIG)
    history = buffer.history(session_id="t")
    said = ["q0", "a0"]
    for turn in range(1, 2 * cap):
        said += [f"q{turn}", f"a{turn}"]
        history.add_messages([HumanMessage(said[-2], id=said[-2]), AIMessage(said[-1], id=said[-1])])
        shown = ids(history.messages)
        assert shown == said[-len(shown) :]
    if how == "others are removed":
        for _ in range(3):
            history.add_messages([RemoveMessage(id=said.pop()), RemoveMessage(id=said.pop())])
    if how == "the cap grows":
        history = SessionBuffer(storage, default_user="u", retention=Retention(max_messages=9 * cap)).history(
            session_id="t"
        )
    shown = ids(history.messages)
    assert len(shown) > 1
    assert shown == said[-len(shown) :]
    assert ids(agent.get_state(CONFIG).values["messages"])[-1] == said[-1]


def test_what_is_older_than_what_is_freed_for_bytes_is_not_shown_in_its_place() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=8, max_bytes=3_800))
    agent = chained(buffer, answers=lambda _: {"messages": [AIMessage("a0", id="a0")]})
    agent.invoke({"messages": [HumanMessage("q0", id="q0")]}, CONFIG)
    history = buffer.history(session_id="t")
    said = ["q0", "a0"]
    for turn in range(1, 14):
        question = HumanMessage("x" * 300, id=f"q{turn}")
        answers = [AIMessage("y" * 300, id=f"a{turn}.{number}") for number in range(2)]
        history.add_messages([question, *answers])
        said += ids([question, *answers])
        shown = ids(history.messages)
        assert shown == ids(agent.get_state(CONFIG).values["messages"]) == said[-len(shown) :]


@pytest.mark.parametrize("size", range(1_500, 4_500, 150))
def test_what_was_said_last_is_not_freed_for_bytes_while_a_turn_beside_it_goes_on(size: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=size))
    history = buffer.history(session_id="t")
    for turn in range(5):
        history.add_messages([HumanMessage(f"old {turn} {'x' * 100}"), AIMessage(f"answer {turn} {'x' * 100}")])
    other = chained(buffer, answers=lambda _: {"messages": [AIMessage("other answer")]})

    def model(_: MessagesState) -> Any:
        ask(other, "other question")
        return {"messages": [AIMessage("answer")]}

    ask(chained(buffer, model=model), "question")
    shown = plain_texts(history.messages)
    assert {"question", "answer", "other question", "other answer"} <= {*shown}
    assert all(text.startswith(("old", "answer ")) for text in shown[:-4])


@pytest.mark.parametrize("in_a_tool", [False, True])
def test_turns_that_begin_in_each_other_stay_in_order_though_each_is_longer_than_the_window(in_a_tool: bool) -> None:
    """Of a turn that is freed nothing is left that its next step could follow, nor of a question what it asked."""
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=4))

    def turn(name: str, meanwhile: Callable[[], object] = lambda: None) -> Any:
        def says(message: BaseMessage) -> Any:
            return lambda _: {"messages": [message]}

        def tool(_: Any) -> Any:
            meanwhile()
            return {"messages": [ToolMessage("result", tool_call_id="c")] if in_a_tool else []}

        steps = {f"says{at}": says(AIMessage(f"{name} {at}")) for at in range(20)}
        call = says(AIMessage("call", tool_calls=[CALL] if in_a_tool else []))
        return chained(buffer, **steps, calls=call, tool=tool, ends=says(AIMessage(f"{name} answer")))

    newest = turn("third")
    older = turn("second", lambda: ask(newest, "third question"))
    ask(turn("first", lambda: ask(older, "second question")), "first question")
    said = ["call", "result", "third answer"] if in_a_tool else ["third 19", "call", "third answer"]
    assert plain_texts(buffer.history(session_id="t").messages) == ["third question", *said]


@pytest.mark.parametrize("in_a_tool", [False, True])
@pytest.mark.parametrize("edited", ["inner question", "inner 0"])
def test_an_edit_of_what_is_freed_is_not_shown_as_the_newest_once_the_turn_around_it_ends(
    edited: str, in_a_tool: bool
) -> None:
    """The turn around it was never shown what is edited, and so cannot put it where it stands."""
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=4))
    history = buffer.history(session_id="t")

    def says(text: str, meanwhile: Callable[[], object] = lambda: None) -> Any:
        def node(_: Any) -> Any:
            meanwhile()
            return {"messages": [AIMessage(text, id=text)]}

        return node

    def edit() -> None:
        found = next(message for message in history.messages if message.text == edited)
        history.add_messages([found.model_copy(update={"content": "edited"})])

    steps = {f"says{at}": says(f"inner {at}", edit if at == 1 else lambda: None) for at in range(20)}
    inner = chained(buffer, **steps)
    if in_a_tool:
        ask(calls_while(buffer, lambda: ask(inner, "inner question")), "outer question")
    else:
        ask(chained(buffer, says=says("outer answer", lambda: ask(inner, "inner question"))), "outer question")
    question = "edited" if edited == "inner question" else "inner question"
    assert plain_texts(history.messages) == [question, "inner 17", "inner 18", "inner 19"]


async def test_what_a_delta_channel_needs_over_the_caps_is_not_looked_through_at_every_step() -> None:
    storage, outlines = Hooked(), list[Query]()
    storage.after_read = lambda query: outlines.append(query) if query.outline else None
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_bytes=20_000))
    graph = StateGraph(Desk).add_node("model", lambda _: {"messages": [AIMessage("a" * 500)]})
    agent = graph.add_edge(START, "model").compile(checkpointer=buffer.checkpointer())
    # Without threads, so that writes and checkpoints come in the same order each time.
    await agent.ainvoke({"messages": [HumanMessage("q")], "files": ["report"]}, CONFIG)
    sizes = []
    for _ in range(40):
        await agent.ainvoke({"messages": [HumanMessage("q")]}, CONFIG)
        sizes.append(found.bytes if (found := buffer.info("u", "t")) else 0)
    assert sizes[-1] > 80_000, "nothing is kept for the channel"
    # One more for each tenth that the session has grown, and a few before the first checkpoint is kept so.
    assert len(outlines) < 30
    assert agent.get_state(CONFIG).values["files"] == ["report"]


@pytest.mark.parametrize("failure", [StorageError, CorruptRecordError])
@pytest.mark.parametrize("door", ["history", "graph"])
async def test_a_write_that_is_stored_raises_nothing_though_freeing_fails(
    door: str, failure: type[TTLHistoryError], colour: Colour, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(query: Query) -> None:
        if query.outline:
            raise failure("it cannot be read")

    storage = Hooked()
    storage.after_read = fail
    retention = Retention(max_messages=None, max_checkpoints=None, max_bytes=1_000)
    buffer = SessionBuffer(storage, default_user="u", retention=retention)
    agent, history = calls_while(buffer, lambda: None), buffer.history(session_id="t")
    for number in range(20):
        said = [HumanMessage(f"q{number}" + "." * 100)]
        if door == "history":
            await colour.call(history, "add_messages", said)
        else:
            await colour.call(agent, "invoke", {"messages": said}, CONFIG)
    assert [text[:3] for text in plain_texts(history.messages) if text.startswith("q")][-1] == "q19"
    assert "keeps more than its caps allow" in caplog.messages[-1]


def test_a_write_that_is_stored_raises_nothing_though_its_window_cannot_be_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = MemoryStorage()
    retention = Retention(max_messages=2, max_tokens=10, token_counter=lambda _: "many")  # type: ignore[arg-type, return-value]  # a wrong counter is the test
    history = SessionBuffer(storage, default_user="u", retention=retention).history(session_id="t")
    for number in range(20):
        history.add_messages([HumanMessage(f"q{number}")])
    whole = SessionBuffer(storage, default_user="u", retention=Retention(max_messages=None)).history(session_id="t")
    assert plain_texts(whole.messages) == [f"q{number}" for number in range(20)]
    assert "must give a number" in caplog.messages[-1]


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_session_that_is_deleted_before_it_is_freed_is_left_alone(
    caplog: pytest.LogCaptureFixture, goes_on: bool
) -> None:
    storage = Hooked()
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_messages=4))
    history = buffer.history(session_id="t")

    def delete(_: Change) -> None:
        storage.after_write = None
        buffer.delete(session_id="t")
        if goes_on:
            history.add_messages([HumanMessage("new")])

    storage.after_write = delete
    history.add_messages([HumanMessage(f"old {number}") for number in range(30)])
    assert plain_texts(history.messages) == ["new"] * goes_on
    assert storage.usage().sessions == goes_on
    assert not caplog.messages


def with_its_head_hidden(buffer: SessionBuffer, agent: Any) -> None:
    """A session in which an agent's turn is the head, and stands before what was freed."""
    agent.invoke({"messages": [HumanMessage("q0", id="q0")]}, CONFIG)
    history = buffer.history(session_id="t")
    for turn in range(1, 20):
        history.add_messages([HumanMessage(f"q{turn}", id=f"q{turn}"), AIMessage(f"a{turn}", id=f"a{turn}")])


@pytest.mark.parametrize("state", [MessagesState, DELTAS], ids=["plain", "delta"])
def test_what_is_hidden_of_the_head_is_there_in_its_checkpoint_once_that_is_an_older_one(state: Any) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=4))
    agent = chained(buffer, state, answers=lambda _: {"messages": [AIMessage("answer")]})
    with_its_head_hidden(buffer, agent)
    head = agent.get_state(CONFIG).config
    assert plain_texts(agent.get_state(CONFIG).values["messages"]) == ["q18", "a18", "q19", "a19"]
    agent.invoke({"messages": [HumanMessage("q20")]}, CONFIG)
    shown = ["q19", "a19", "q20", "answer"]
    assert (
        plain_texts(agent.get_state(CONFIG).values["messages"])
        == plain_texts(buffer.history(session_id="t").messages)
        == shown
    )
    assert plain_texts(agent.get_state(head).values["messages"]) == ["q0", "answer"]
    assert plain_texts(agent.invoke({"messages": [HumanMessage("again")]}, head)["messages"]) == [
        "q0",
        "answer",
        "again",
        "answer",
    ]


def test_a_graph_that_waits_is_shown_all_of_its_head_though_the_history_hides_it() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=6))
    agent = asking(buffer)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old"), AIMessage("answer", id="answer")])
    with_its_head_hidden(buffer, agent)
    assert ids(history.messages)[0] == "q17"
    assert ids(agent.get_state(CONFIG).values["messages"])[:3] == ["old", "answer", "q0"]
    agent.invoke(Command(resume="yes"), CONFIG)
    assert ids(history.messages)[-1] == "a19"


def test_what_hides_messages_is_sealed_and_checked_like_any_record() -> None:
    key = EncryptedSerializer(Veil(), JsonPlusSerializer())
    storage = MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_messages=4), serde=key)
    agent = chained(buffer, answers=lambda _: {"messages": [AIMessage("answer")]})
    with_its_head_hidden(buffer, agent)
    pointer = storage.read(KEY, Query((pointer_name(""),))).blobs[pointer_name("")]
    assert hidden_places(pointer, Codec(cipher=key)) == {0, 1}
    assert plain_texts(buffer.history(session_id="t").messages) == ["q18", "a18", "q19", "a19"]
    for payload in (b"damaged", Codec(cipher=key).seal(pack([2, []])), Codec(cipher=key).seal(pack(5))):
        storage.write(KEY, Change(Lease(None, None), blobs={pointer_name(""): pointer._replace(payload=payload)}))
        with pytest.raises(CorruptRecordError, match=r"session \('u', 't'\)"):
            _ = buffer.history(session_id="t").messages


def test_a_first_checkpoint_that_was_freed_does_not_come_back_as_one_of_the_newest() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=3))
    buffer.history(session_id="t").add_messages([HumanMessage("first", id="first")])
    slow = chained(buffer, answers=lambda _: {"messages": [AIMessage("answer")]})
    running = slow.stream({"messages": [HumanMessage("q")]}, CONFIG, stream_mode="values", durability="exit")
    next(running)
    other = chained(buffer, **{f"step {number}": lambda _: {"messages": [AIMessage("x")]} for number in range(6)})
    other.invoke({"messages": [HumanMessage("other")]}, CONFIG, durability="sync")
    list(running)
    assert [found.metadata["step"] for found in slow.get_state_history(CONFIG)] == [2, 7, 6]


@pytest.mark.parametrize("in_files", [False, True], ids=["memory", "sqlite"])
def test_an_interrupt_stays_though_its_checkpoint_was_freed_before_it_came(tmp_path: Path, in_files: bool) -> None:
    """A run that began before goes on while a node works that will interrupt; nothing builds on its checkpoint."""
    storage = SQLiteStorage(tmp_path / "s.db") if in_files else MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_checkpoints=1))
    steps = {f"step {number}": lambda _: {"messages": [AIMessage("x")]} for number in range(4)}
    question = {"messages": [HumanMessage("other")]}
    under_way = chained(buffer, **steps).stream(question, CONFIG, stream_mode="values", durability="sync")
    next(under_way)

    def asks(_: MessagesState) -> Any:
        list(under_way)
        return {"messages": [AIMessage(f"you said {interrupt('sure?')}")]}

    agent = chained(buffer, drafts=lambda _: {"messages": [AIMessage("draft")]}, asks=asks)
    agent.invoke({"messages": [HumanMessage("question")]}, CONFIG, durability="sync")
    listed = [*agent.get_state_history(CONFIG)]
    (waiting,) = [found for found in listed if found.interrupts]
    assert listed[0].config == agent.get_state(CONFIG).config
    assert plain_texts(agent.invoke(Command(resume="yes"), waiting.config)["messages"])[-3:] == [
        "question",
        "draft",
        "you said yes",
    ]
    # Going on from there is a fork.
    assert plain_texts(buffer.history(session_id="t").messages) == ["other", "question", "draft", "you said yes"]
    storage.close()


class NeverFreed(MemoryStorage):
    slack = 1e6


def spoken(history: Any, first: int, end: int) -> None:
    """A chain's turns of these numbers."""
    for turn in range(first, end):
        history.add_messages([HumanMessage(f"q{turn}", id=f"q{turn}"), AIMessage(f"a{turn}", id=f"a{turn}")])


def test_a_turn_that_is_over_does_not_wait_for_a_result_that_is_hidden() -> None:
    """Its call was removed, and its result is hidden with the rest of the turn."""
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=8))
    history = buffer.history(session_id="t")
    agent = calls_while(buffer, lambda: None)
    call = ids(agent.invoke({"messages": [HumanMessage("question", id="question")]}, CONFIG)["messages"])[1]
    history.add_messages([RemoveMessage(id=str(call)), RemoveMessage(id="question")])
    spoken(history, 0, 20)
    shown = ids(history.messages)
    assert shown[-1] == "a19"
    assert ids(agent.get_state(CONFIG).values["messages"]) == shown
    ask(chained(buffer, answers=lambda _: {"messages": [AIMessage("answer")]}), "and now")
    assert plain_texts(history.messages)[-2:] == ["and now", "answer"]


@pytest.mark.parametrize("how", ["set", "all removed", "set where nothing is shown"])
@pytest.mark.parametrize("waits", [True, False], ids=["waits", "runs"])
def test_what_is_hidden_is_cleared_with_what_is_shown(how: str, waits: bool) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=8))
    history = buffer.history(session_id="t")
    for _ in range(3):
        ask(chained(buffer, answers=lambda _: {"messages": [AIMessage("old")]}), "old")

    def clear() -> None:
        spoken(history, 0, 20)
        while how == "set where nothing is shown" and (shown := history.messages):
            history.add_messages([RemoveMessage(id=str(message.id)) for message in shown])
        if how == "all removed":
            history.add_messages([RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("anew", id="anew")])
        else:
            history.messages = []
        # The removal is kept for as long as somebody may have what it removed.
        spoken(history, 20, 40)

    agent = asking(buffer) if waits else calls_while(buffer, clear)
    ask(agent, "question")
    if waits:
        clear()
        agent.invoke(Command(resume="yes"), CONFIG)
    later = SessionBuffer(buffer._storage, default_user="u", retention=Retention(max_messages=80))
    assert "old" not in plain_texts(later.history(session_id="t").messages)
    assert "old" not in plain_texts(agent.get_state(CONFIG).values["messages"])


@pytest.mark.parametrize("cap", [6, 8])
@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_freed_does_not_show_where_a_turn_with_events_is_cut(cap: int, steps: int) -> None:
    def shown(storage: MemoryStorage, events: int) -> list[list[str | None]]:
        buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_messages=cap))
        history = buffer.history(session_id="t")
        spoken(history, 100, 104)
        nodes = {f"step {number}": lambda _: {"messages": [AIMessage("step")]} for number in range(steps)}
        agent = chained(buffer, **nodes)
        question = {"messages": [HumanMessage("question", id="question")]}
        under_way = agent.stream(question, CONFIG, stream_mode="values", durability="sync")
        next(under_way)
        for number in range(events):
            history.add_messages([SystemMessage("event", id=f"event {number}")])
        list(under_way)
        found = []
        for turn in range(3 * cap):
            if turn % 3:
                history.add_messages([SystemMessage("event", id=f"late {turn}")])
            else:
                spoken(history, turn, turn + 1)
            found.append([message.id if message.text != "step" else "step" for message in history.messages])
        return found

    for events in range(cap + 2):
        assert shown(MemoryStorage(), events) == shown(NeverFreed(), events)


@pytest.mark.parametrize("size", range(3_000, 9_000, 500))
def test_turns_that_overlap_stay_whole_where_bytes_are_short(size: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=size))
    history = buffer.history(session_id="t")

    def agent(name: str, steps: int) -> Any:
        def step(_: MessagesState) -> Any:
            return {"messages": [AIMessage("x" * 300, name=name)]}

        return chained(buffer, **{f"{name} {number}": step for number in range(steps)})

    def question(name: str) -> Any:
        return {"messages": [HumanMessage("?", name=name)]}

    for number in range(4):
        agent(f"old {number}", 1).invoke(question(f"old {number}"), CONFIG)
    first, second = (
        agent(name, 3).stream(question(name), CONFIG, stream_mode="values", durability="sync") for name in ("A", "B")
    )
    next(first)
    history.add_messages([SystemMessage("x" * 300, name="event")])
    next(first)
    next(second)
    for _ in range(3):
        for under_way in (first, second):
            next(under_way, None)
            turns = [name for name, _ in groupby(message.name for message in history.messages)]
            assert len(turns) == len({*turns})


def test_what_a_delta_channel_was_cut_of_is_freed() -> None:
    """Its head gets a snapshot then, and needs the writes above no more."""
    bound, most = 200_000, 0
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=bound))
    steps = {f"step {number}": lambda _: {"messages": [AIMessage("x" * 5_000)]} for number in range(2)}
    agent = chained(buffer, DeltaState, **steps)
    for _ in range(40):
        ask(agent, "y" * 5_000)
        info = buffer.info("u", "t")
        most = max(most, 0 if info is None else info.bytes)
    assert most < 1.2 * bound


def test_what_is_freed_while_a_list_is_read_is_left_out_of_it() -> None:
    saver = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=4)).checkpointer()
    made = [checkpoint(HumanMessage(each, id=each)) for each in "abcd"]
    for each in made:
        saver.put(CONFIG, each, LOOP, {"messages": 1})
    listing = saver.list(CONFIG)
    assert next(listing).checkpoint["id"] == made[-1]["id"]
    for each in "efghijklmnop":
        saver.put(CONFIG, checkpoint(HumanMessage(each, id=each)), LOOP, {"messages": 1})
    assert [*listing] == []


@pytest.mark.parametrize("frequency", [1, 2, 1_000], ids=lambda steps: f"a snapshot each {steps} steps")
def test_what_a_delta_channel_wrote_to_a_freed_checkpoint_goes_with_its_next(frequency: int) -> None:
    delta = DeltaChannel(_messages_delta_reducer, snapshot_frequency=frequency)
    state: Any = TypedDict("state", {"messages": Annotated[list, delta]})
    storage = MemoryStorage()
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_checkpoints=1))
    others = chained(buffer, a=says("a"))

    def slow(_: Any) -> Any:
        for each in "12345":
            ask(others, each)
        return {"messages": [AIMessage("slow")]}

    ask(chained(buffer, state, slow=slow, end=says("end")), "q")
    for each in "12345":
        ask(others, each)
    found = storage.read(KEY, Query(outline=True))
    assert {name[1:] for name in found.lists if name[0] == "w"} <= {name[1:] for name in found.blobs if name[0] == "c"}


@pytest.mark.parametrize("before", [6, 7, 8])
def test_what_is_said_together_with_an_edit_of_what_is_hidden_is_kept(before: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=4))
    history = buffer.history(session_id="t")
    ask(chained(buffer, a=lambda _: {"messages": [AIMessage("a", id="a")]}), "q")
    for each in range(before):
        history.add_messages([HumanMessage(f"H{each}"), AIMessage(f"A{each}")])
    history.add_messages([AIMessage("edited", id="a"), HumanMessage("new"), AIMessage("to it")])
    history.add_messages([AIMessage("last")])
    assert plain_texts(history.messages) == ["new", "to it", "last"]


def test_a_late_result_and_its_answer_are_not_shown_as_the_newest_when_their_call_is_freed() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=4))
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("go"), AIMessage("call", tool_calls=[CALL])])
    for each in range(9):
        history.add_messages([HumanMessage(f"H{each}"), AIMessage(f"A{each}")])
    history.add_messages([ToolMessage("result", tool_call_id=CALL["id"]), AIMessage("late")])
    assert plain_texts(history.messages) == ["H7", "A7", "H8", "A8"]
    history.add_messages([HumanMessage("X"), AIMessage("Y")])
    assert plain_texts(history.messages) == ["H8", "A8", "X", "Y"]


def test_of_a_change_of_many_messages_the_oldest_are_freed_where_bytes_are_short() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_bytes=3_000))
    history = buffer.history(session_id="t")
    for turn in range(6):
        history.add_messages([each for at in range(6) for each in (HumanMessage(f"{turn} {at}"), AIMessage("x" * 100))])
        info = buffer.info("u", "t")
        assert info is not None
        assert info.bytes <= 3_000


def test_the_log_is_freed_of_removals_of_ever_new_messages() -> None:
    storage = MemoryStorage()
    retention = Retention(max_messages=4)
    history = SessionBuffer(storage, default_user="u", retention=retention).history(session_id="t")
    history.add_messages([HumanMessage("old")])
    for number in range(100):
        history.add_messages([AIMessage("notice", id=f"notice {number}")])
        history.add_messages([RemoveMessage(id=f"notice {number}")])
    entries = storage.read(KEY, Query(outline=True)).lists[LOG]
    assert sum(1 + len(entry.refs) for entry in entries) <= hard_limits(retention, MemoryStorage.slack)[LOG]


@pytest.mark.parametrize("notices", [0, 3, 6, 9])
@pytest.mark.parametrize("said", [4, 8, 20])
def test_an_edit_is_kept_whatever_is_freed_around_it(notices: int, said: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=4))
    history = buffer.history(session_id="t")
    ask(chained(buffer, a=says("answer")), "question")
    question = history.messages[0]
    history.add_messages([HumanMessage("stays", id="stays")])
    for each in range(notices):
        history.add_messages([HumanMessage("notice", id=f"notice {each}")])
        history.add_messages([RemoveMessage(id=f"notice {each}")])
    history.add_messages([question.model_copy(update={"content": "edited"})])
    for number in range(said):
        history.add_messages([HumanMessage("said", id=f"said {number % 3}")])
    for number in range(3):
        history.add_messages([RemoveMessage(id=f"said {number}")])
    assert plain_texts(history.messages) == ["edited", "answer", "stays"]


def test_writes_whose_checkpoint_was_refused_are_freed() -> None:
    storage = Hooked()
    buffer = SessionBuffer(
        storage, default_user="u", retention=Retention(max_bytes=20_000, max_messages=20, max_checkpoints=3)
    )
    agent = echoing(buffer)

    def refuse(change: Change) -> None:
        if any(name.startswith("c\0") for name in change.blobs):
            storage.before_write = None
            raise StorageError("down for a moment")

    for turn in range(60):
        storage.before_write = refuse
        with suppress(StorageError):
            ask(agent, f"question {turn}", durability="async")
    storage.before_write = None
    for turn in range(30):
        ask(agent, f"later {turn}")
    info = buffer.info(session_id="t")
    assert info is not None
    assert info.bytes < 20_000
    assert info.messages == 20


def test_what_a_task_wrote_is_kept_however_many_turns_are_taken_until_its_step_ends() -> None:
    """Its checkpoint was freed before that came, and the next one needs it."""
    storage, is_stored = Hooked(), Event()
    buffer = SessionBuffer(storage, default_user="u", retention=Retention(max_checkpoints=3, max_messages=200))
    others = echoing(buffer)

    def stored(change: Change) -> None:
        if any(name.endswith("fast") for name in change.blobs):
            is_stored.set()

    def turns(count: int) -> None:
        for turn in range(count):
            ask(others, f"other {turn}")

    def fast(_: Any) -> Any:
        turns(8)
        return {"messages": [AIMessage("fast", id="fast")]}

    def slow(_: Any) -> Any:
        assert is_stored.wait(PATIENCE)
        turns(40)
        return {"messages": [AIMessage("slow")]}

    storage.after_write = stored
    graph: Any = StateGraph(DELTAS).add_node("fast", fast).add_node("slow", slow)
    graph.add_edge(START, "fast").add_edge(START, "slow")
    ask(graph.compile(checkpointer=buffer.checkpointer()), "question")
    assert "fast" in plain_texts(buffer.history(session_id="t").messages)


def test_what_takes_more_bytes_once_others_are_freed_is_counted_in_what_must_be_freed() -> None:
    """A removal has to name more of what it removes where a window had cut that."""

    def bytes_after_a_replacement(max_bytes: int) -> int:
        retention = Retention(max_bytes=max_bytes, max_messages=12, max_checkpoints=None)
        buffer = SessionBuffer(default_user="u", retention=retention)
        graph = graph_of(buffer, says("y" * 30))
        history = buffer.history(session_id="t")
        for asks, size in zip("ggcggggcggg", (600, 30, 600, 200, 30, 600, 30, 30, 200, 600, 30), strict=True):
            if asks == "g":
                ask(graph, "x" * size)
            else:
                history.add_messages([HumanMessage("x" * size), AIMessage("z" * 20)])
        history.messages = history.messages[4:]
        info = buffer.info(session_id="t")
        assert info is not None
        return info.bytes

    assert [bound for bound in range(18_000, 21_500, 50) if bytes_after_a_replacement(bound) > bound] == []


class Noted(MessagesState):
    note: str


def test_a_value_that_a_run_shares_with_its_checkpoint_is_kept_though_that_was_freed() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_checkpoints=1))
    saver = buffer.checkpointer()
    note = "n" * 9000

    def first(_: Any) -> Any:
        for number in range(8):
            saver.put(CONFIG, checkpoint(HumanMessage("x", id=f"x{number}")), LOOP, {"messages": 1})
        return {"messages": [AIMessage("a")]}

    graph = chained(buffer, Noted, first=first)
    graph.invoke({"messages": [HumanMessage("q")], "note": note}, CONFIG, durability="sync")
    assert graph.get_state(CONFIG).values["note"] == note
