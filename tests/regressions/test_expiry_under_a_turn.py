"""What once went wrong where a session expired under a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext, suppress
from copy import deepcopy
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langchain_ttl_history import Retention, SessionBuffer, SessionDeletedError
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.types import Change, Query
from langchain_ttl_history.stored.names import pointer_name
from langchain_ttl_history.testing import Clock
from tests.regressions.cases import (
    CONFIG,
    DELTAS,
    KEY,
    Hooked,
    Numbered,
    Plain,
    Turns,
    ask,
    chained,
    graph_of,
    ids,
    plain_texts,
    says,
)


def test_a_put_whose_session_ends_between_its_look_and_its_write_is_stored() -> None:
    clock = Clock()
    storage = Hooked(clock=clock)
    buffer = SessionBuffer(storage, default_user="u")
    saver = buffer.checkpointer()

    def expire(query: Query) -> None:
        if any(name.startswith("c\0") for name in query.names):
            storage.after_read = None
            clock.advance(1801)

    def last(state: MessagesState) -> dict[str, Any]:
        storage.after_read = expire
        buffer._sessions.cache.drop("u")  # What is remembered was given up, so that the put has to look.
        return {"messages": [AIMessage("b", id="b")]}

    builder = StateGraph(MessagesState)
    builder.add_node("first", lambda state: {"messages": [AIMessage("a", id="a")]})
    builder.add_node("last", last)
    builder.add_edge(START, "first")
    builder.add_edge("first", "last")
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"messages": [HumanMessage("hi", id="h")]}, {"configurable": {"thread_id": "t"}}, durability="sync")
    assert storage.after_read is None
    assert ids(graph.get_state({"configurable": {"thread_id": "t"}}).values["messages"]) == ["h", "a", "b"]


def test_what_a_run_removes_does_not_come_back_after_its_session_expired_under_it() -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")

    def draft(state: MessagesState) -> dict[str, Any]:
        clock.advance(1801)
        return {"messages": [AIMessage("draft", id="draft")]}

    def redraft(state: MessagesState) -> dict[str, Any]:
        return {"messages": [RemoveMessage(id="draft"), AIMessage("answer", id="answer")]}

    def more(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("more", id="more")]}

    buffer.history(session_id="t").add_messages([HumanMessage("before", id="before")])
    agent = graph_of(buffer, draft, lambda state: {}, redraft, more)
    said = agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG, durability="sync")["messages"]
    assert ids(said) == ["before", "h", "answer", "more"]
    assert ids(buffer.history(session_id="t").messages) == ids(said)
    assert ids(agent.get_state(CONFIG).values["messages"]) == ids(said)


@pytest.mark.parametrize("speaks", [True, False], ids=["a chain began", "a graph began"])
@pytest.mark.parametrize("frequency", [2, 50])
@pytest.mark.parametrize("late", [0, 1], ids=["first turn", "later turn"])
def test_a_turn_over_a_delta_channel_loses_nothing_when_its_session_expires_under_it(
    late: int, frequency: int, speaks: bool
) -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u", retention=Retention(idle_ttl=1_000))
    turns: list[int] = []

    channel = DeltaChannel(_messages_delta_reducer, snapshot_frequency=frequency)
    state: Any = TypedDict("State", {"messages": Annotated[list[BaseMessage], channel]})  # type: ignore[misc]  # made here

    def tool(_: Any) -> Any:
        if len(turns) == late:
            clock.advance(5_000)
        turns.append(1)
        return {"messages": [AIMessage("done")]}

    graph = chained(buffer, state, model=lambda _: {"messages": [AIMessage("thinks")]}, tool=tool)
    history = buffer.history(session_id="t")
    if speaks:
        history.add_messages([HumanMessage("hello"), AIMessage("hi")])
    for turn in range(late + 1):
        held = ask(graph, f"question {turn}")
    assert plain_texts(history.messages) == held


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_a_turn_over_a_delta_channel_keeps_what_a_chain_changed_before_it_when_its_session_expires_under_it(
    durability: str,
) -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u", retention=Retention(idle_ttl=1_000))
    history = buffer.history(session_id="t")

    def answer(state: Any) -> Any:
        if state["messages"][-1].text == "second":
            clock.advance(5_000)
        return {"messages": [AIMessage("done")]}

    channel = DeltaChannel(_messages_delta_reducer, snapshot_frequency=50)
    state: Any = TypedDict("State", {"messages": Annotated[list[BaseMessage], channel]})  # type: ignore[misc]  # made here
    graph = chained(buffer, state, answer=answer)
    config: Any = {"configurable": {"thread_id": "t"}}
    graph.invoke({"messages": [HumanMessage("first", id="first")]}, config)
    history.add_messages([RemoveMessage(id="first"), HumanMessage("meanwhile")])
    held = graph.invoke({"messages": [HumanMessage("second")]}, config, durability=durability)["messages"]
    assert plain_texts(held) == ["done", "meanwhile", "second", "done"]
    assert plain_texts(history.messages) == plain_texts(held)


@pytest.mark.parametrize("removes", [False, True])
def test_agents_in_tools_of_each_other_stay_whole_when_their_session_expires_under_them(removes: bool) -> None:
    """Each brings along what it holds, the innermost first, of which the ones around it know nothing."""
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")

    def agent(name: str, tool: Callable[[], object], removed: str | None = None) -> Callable[[], object]:
        def call(state: MessagesState) -> Any:
            call = {"name": "tool", "args": {}, "id": f"c {name}"}
            return {"messages": [AIMessage("", id=f"{name} call", tool_calls=[call])]}

        def result(state: MessagesState) -> Any:
            tool()
            return {"messages": [ToolMessage("", id=f"{name} result", tool_call_id=f"c {name}")]}

        def answer(state: MessagesState) -> Any:
            removal = [] if removed is None else [RemoveMessage(id=removed)]
            return {"messages": [*removal, AIMessage("", id=f"{name} answer")]}

        graph = graph_of(buffer, call, result, answer)
        question = HumanMessage("", id=f"{name} question")
        return lambda: graph.invoke({"messages": [question]}, CONFIG, durability="sync")

    third = agent("third", lambda: clock.advance(1801), "first question" if removes else None)
    agent("first", agent("second", third))()
    parts = ("question", "call", "result", "answer")
    said = [f"{name} {part}" for name in ("first", "second", "third") for part in parts]
    assert ids(buffer.history(session_id="t").messages) == said[removes:]


def asking_once_expired(buffer: SessionBuffer, clock: Clock) -> Any:
    """A graph that asks a person, and whose session expires before it does."""
    expires = [5_000]

    def ask_person(_: Any) -> Any:
        while expires:
            clock.advance(expires.pop())
        return {"messages": [AIMessage(interrupt("sure?"))]}

    return chained(buffer, ask=ask_person)


def before_it_begins_anew(do: Callable[[Hooked, Change], object]) -> tuple[Clock, Hooked, SessionBuffer]:
    """A storage with which something happens once, right before an expired session's checkpoint is stored anew."""
    clock = Clock()
    storage, begun = Hooked(clock=clock), clock()

    def once(change: Change) -> None:
        # Other writes of the step may come first, and begin the session.
        if clock() > begun and any(name[0] == "c" for name in change.blobs):
            storage.before_write = None
            do(storage, change)

    storage.before_write = once
    return clock, storage, SessionBuffer(storage, default_user="u")


def test_a_question_to_a_person_is_kept_though_late_writes_begin_its_session_anew_at_the_same_moment() -> None:
    def late(storage: Hooked, change: Change) -> None:
        storage.write(KEY, Change(change.lease, append=[("w\0late", b"", ())]))

    clock, storage, buffer = before_it_begins_anew(late)
    graph = asking_once_expired(buffer, clock)
    graph.invoke({"messages": [HumanMessage("now")]}, CONFIG, durability="sync")
    assert storage.before_write is None
    assert [each.value for each in graph.get_state(CONFIG).interrupts] == ["sure?"]
    assert plain_texts(graph.invoke(Command(resume="yes"), CONFIG)["messages"]) == ["now", "yes"]


@pytest.mark.parametrize("deleted", ["t", None], ids=["session", "user"])
def test_a_question_to_a_person_does_not_come_back_where_another_worker_deletes_its_expired_session(
    deleted: str | None,
) -> None:
    clock, storage, buffer = before_it_begins_anew(lambda storage, _: storage.delete("u", deleted, 60.0))
    graph = asking_once_expired(buffer, clock)
    graph.invoke({"messages": [HumanMessage("now")]}, CONFIG, durability="sync")
    assert storage.before_write is None
    assert buffer.info("u", "t") is None
    assert graph.get_state(CONFIG).values == {}


def test_a_subgraph_over_a_delta_channel_that_asked_a_person_does_not_look_empty_once_its_session_expired() -> None:
    clock, seen = Clock(), list[list[str]]()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")

    def ask_person(state: Any) -> Any:
        if not seen:
            clock.advance(5_000)
        seen.append(plain_texts(state["messages"]))
        return {"messages": [AIMessage(interrupt("sure?"))]}

    inner = StateGraph(DELTAS).add_node("ask", ask_person).add_edge(START, "ask").compile()
    graph = chained(buffer, DELTAS, inner=inner)
    graph.invoke({"messages": [HumanMessage("now", id="now")]}, CONFIG, durability="sync")
    graph.invoke(Command(resume="yes"), CONFIG)
    assert seen == [["now"], ["now"]]
    assert plain_texts(buffer.history(session_id="t").messages) == ["now", "yes"]


def expiring_once_written() -> Any:
    """A storage whose sessions expire between what a step wrote and the checkpoint after it."""
    clock = Clock()
    storage = Hooked(clock=clock)

    def expire(change: Change) -> None:
        if any(name[0] == "w" for name, _, _ in change.append):
            storage.after_write = None
            clock.advance(1801)

    return storage, SessionBuffer(storage, default_user="u"), expire


def test_a_graph_without_messages_keeps_what_was_said_when_its_session_expires_under_it() -> None:
    storage, buffer, expire = expiring_once_written()
    ask(chained(buffer, a=says("a")), "q")
    storage.after_write = expire
    graph = chained(buffer, Numbered, first=lambda _: {"n": 1}, second=lambda _: {"n": 2})
    graph.invoke({"n": 0}, CONFIG, durability="sync")
    assert storage.after_write is None
    assert plain_texts(buffer.history(session_id="t").messages) == ["q", "a"]


def test_a_graph_whose_messages_are_no_list_goes_on_when_its_session_expires_under_it() -> None:
    storage, buffer, expire = expiring_once_written()
    ask(chained(buffer, a=says("a")), "q")
    storage.after_write = expire
    graph = chained(buffer, Plain, first=lambda _: {"messages": "text"}, second=lambda _: {})
    graph.invoke({"messages": "x"}, CONFIG, durability="sync")
    assert storage.after_write is None
    assert graph.get_state(CONFIG).values == {"messages": "text"}


@pytest.mark.parametrize("state", [MessagesState, DELTAS], ids=["list", "delta"])
@pytest.mark.parametrize("max_age", [None, 500])
def test_a_turn_that_is_stored_at_its_end_keeps_what_it_was_shown_unless_that_is_past_its_max_age(
    max_age: float | None, state: Any
) -> None:
    clock = Clock()
    retention = Retention(idle_ttl=500, max_age=max_age)
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u", retention=retention)

    def thinks(_: Any) -> Any:
        clock.advance(501)
        return {"messages": [AIMessage("answer")]}

    ask(chained(buffer, state, first=says("older")), "old")
    ask(chained(buffer, state, first=thinks), "question", "exit")
    kept = ["old", "older"] if max_age is None else []
    assert plain_texts(buffer.history(session_id="t").messages) == [*kept, "question", "answer"]


def test_a_question_to_a_person_is_listed_though_its_session_expired_before_it() -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    graph = asking_once_expired(buffer, clock)
    graph.invoke({"messages": [HumanMessage("now")]}, CONFIG, durability="sync")
    state = graph.get_state(CONFIG)
    assert [each.config for each in graph.get_state_history(CONFIG)] == [state.config]


def test_of_three_turns_whose_session_expires_none_removes_what_another_asked() -> None:
    """The first is stored anew with what the last was shown, which the first never held."""
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    turns = Turns(buffer, {"A": 0, "B": 0, "C": 2})
    turns.go_on("CBCCA")
    clock.advance(1801)
    turns.go_on("C")
    returned = turns.end()
    assert returned["B"] == ["C?", "B?", "B!"]
    shown = plain_texts(buffer.history(session_id="t").messages)
    assert shown == [*returned["C"], "B?", "B!", "A?", "A!"]


@pytest.mark.parametrize("exits", ["A", "B"])
@pytest.mark.parametrize("ends", ["AB", "BA"])
@pytest.mark.parametrize("begun", ["AAB", "ABA", "BBA", "BAB"])
def test_a_turn_stored_at_its_end_and_one_stored_at_each_step_are_kept_though_their_session_expired(
    begun: str, ends: str, exits: str
) -> None:
    """What the one had loaded is there again, brought along by the other, whose turn it is."""
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    turns = Turns(buffer, {"A": 1, "B": 1}, exits)
    turns.go_on(begun)
    clock.advance(1801)
    for me in ends:
        turns.go_on(9 * me)
    shown = plain_texts(buffer.history(session_id="t").messages)
    said = [[f"{me}?", f"{me} call 0", f"result of {me} call 0", f"{me}!"] for me in "AB"]
    assert shown in (said[0] + said[1], said[1] + said[0])


@pytest.mark.parametrize("critic", [False, True])
def test_a_question_to_a_person_is_kept_though_another_run_says_questions_after_their_session_expired(
    critic: bool,
) -> None:
    """What that run may have brought back is looked for, and nothing that others still need is forgotten for that."""
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")

    def step(_: Any) -> Any:
        return {"messages": [AIMessage("said"), *([HumanMessage("critic")] if critic else [])]}

    buffer.history(session_id="t").add_messages([HumanMessage("hi"), AIMessage("hello")])
    says_more = chained(buffer, a=step, b=step, c=step, d=step)
    turn = says_more.stream({"messages": [HumanMessage("q")]}, CONFIG, durability="sync")
    next(turn)
    asks = chained(buffer, draft=says("draft"), asks=lambda _: {"messages": [AIMessage(interrupt("send?"))]})
    asking = asks.stream({"messages": [HumanMessage("mail")]}, CONFIG, durability="sync")
    next(asking)
    clock.advance(1801)
    next(turn)
    next(turn)
    assert len(list(asking)) == 1
    list(turn)
    shown = plain_texts(buffer.history(session_id="t").messages)
    said = 4 * ["said", *(["critic"] if critic else [])]
    assert shown == ["hi", "hello", "q", *said, "mail", "draft"]


@pytest.mark.parametrize("max_bytes", [4000, 6000])
def test_an_answer_is_kept_though_writes_of_its_turn_come_late_to_the_session_that_began_anew(max_bytes: int) -> None:
    """What its subgraph did is no longer needed then, and not a reason to cut the conversation."""
    clock = Clock()
    retention = Retention(max_bytes=max_bytes)
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u", retention=retention)
    late: list[Any] = []
    is_over = False

    def check(_: Any) -> Any:
        if is_over:
            clock.advance(1801)
        return {"messages": [AIMessage("check" * 60)]}

    inner: Any = StateGraph(MessagesState)
    inner.add_sequence([("draft", says("draft" * 60)), ("check", check), ("final", says("final"))])
    graph = chained(buffer, inner=inner.add_edge(START, "draft").compile())
    put_writes = graph.checkpointer.put_writes

    def delayed(config: Any, *given: Any) -> None:
        if is_over and not config["configurable"]["checkpoint_ns"]:
            late.append((config, *given))
        else:
            put_writes(config, *given)

    graph.checkpointer.put_writes = delayed
    for number in range(4):
        buffer.history(session_id="t").add_messages([HumanMessage(f"{number}" * 200), AIMessage("a")])
    ask(graph, "first")
    is_over = True
    assert ask(graph, "second")[-1] == "final"
    assert late
    for given in late:
        put_writes(*given)
    is_over = False
    assert plain_texts(buffer.history(session_id="t").messages)[-1] == "final"
    assert "second" in plain_texts(buffer.history(session_id="t").messages)
    info = buffer.info(session_id="t")
    assert info is not None
    assert info.bytes <= max_bytes
    assert ask(graph, "third")[-2:] == ["check" * 60, "final"]


@pytest.mark.parametrize("fails", [False, True], ids=["asks again", "fails"])
def test_what_a_resumed_turn_was_shown_stays_though_another_built_on_its_checkpoint_after_the_expiry(
    fails: bool,
) -> None:
    """The other one has loaded the same checkpoint, but before something was said."""
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    history = buffer.history(session_id="t")
    meanwhile: list[Callable[[], object]] = []

    def node(_: Any) -> Any:
        interrupt("first?")
        for each in meanwhile:
            each()
        if fails:
            raise ValueError("the model is down")
        interrupt("second?")

    asking = chained(buffer, node=node)
    ask(asking, "question")
    other = chained(buffer, answer=says("answer"))
    running = other.stream({"messages": [HumanMessage("other")]}, CONFIG, durability="exit", stream_mode="values")
    next(running)
    history.add_messages([HumanMessage("event")])
    meanwhile += [lambda: clock.advance(1801), lambda: list(running)]
    with suppress(ValueError):
        asking.invoke(Command(resume="yes"), CONFIG)
    assert plain_texts(history.messages) == ["question", "other", "answer", "event"]


@pytest.mark.parametrize("fails", [False, True], ids=["asks", "fails"])
@pytest.mark.parametrize("how", ["updates", "asks again", "counts"])
def test_what_a_turn_holds_is_kept_though_another_goes_on_from_its_checkpoint_that_is_gone(
    how: str, fails: bool
) -> None:
    """Whoever names a checkpoint that is gone brings nothing of it."""
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    history = buffer.history(session_id="t")
    other = chained(buffer, x=says("other"))

    def meanwhile(_: Any) -> Any:
        named = other.get_state(CONFIG).config
        clock.advance(1801)
        if how == "updates":
            other.update_state(named, {"messages": [HumanMessage("note")]}, as_node="x")
        elif how == "asks again":
            other.invoke({"messages": [HumanMessage("again")]}, named)
        else:
            chained(buffer, Numbered, x=lambda _: {"n": 1}).invoke({"n": 0}, named)
        if fails:
            raise ValueError("the model is down")
        interrupt("sure?")

    history.add_messages([HumanMessage("old"), AIMessage("old answer")])
    with suppress(ValueError):
        ask(chained(buffer, draft=says("draft"), meanwhile=meanwhile), "question")
    said = {"updates": ["note"], "asks again": ["again", "other"], "counts": []}[how]
    assert plain_texts(history.messages) == [*said, "old", "old answer", "question", "draft"]


def test_what_comes_late_stays_a_part_of_a_delta_channel_that_is_no_conversation() -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")

    def joined(before: Any, writes: Any) -> Any:
        return [*(before or []), *(each for written in writes for each in written)]

    logged: Any = Annotated[list[Any], DeltaChannel(joined)]
    channels = {"messages": Annotated[list[BaseMessage], add_messages], "log": logged}
    logging: Any = TypedDict("logging", channels)  # type: ignore[misc]  # made here
    late: list[Any] = []
    is_over = False

    def two(_: Any) -> Any:
        nonlocal is_over
        clock.advance(1801)
        is_over = True
        return {"messages": [AIMessage("two")], "log": ["two"]}

    graph = chained(buffer, logging, one=lambda _: {"log": ["one"]}, two=two, three=lambda _: {"log": ["three"]})
    put_writes = graph.checkpointer.put_writes

    def delayed(*given: Any) -> None:
        if is_over:
            late.append(given)
        else:
            put_writes(*given)

    graph.checkpointer.put_writes = delayed
    graph.invoke({"messages": [HumanMessage("q")], "log": ["in"]}, CONFIG, durability="sync")
    for given in late:
        put_writes(*given)
    assert graph.get_state(CONFIG).values["log"][-2:] == ["two", "three"]


def test_a_put_is_no_failure_though_another_thread_begins_its_session_anew_in_the_moment_it_is_remembered() -> None:
    clock = Clock()
    storage = Hooked(clock=clock)
    buffer = SessionBuffer(storage, default_user="u")
    cache, quick = buffer._sessions.cache, graph_of(buffer, says("re"))
    ask(quick, "first")

    class Looked(dict[str, Any]):
        """What another thread comes in between, whenever somebody looks into it."""

        def __contains__(self, name: object) -> bool:
            cache.advance_to(KEY, 1 << 60)
            return super().__contains__(name)

    def look_out(change: Change) -> None:
        known = cache.last(KEY)
        if known is not None and change.at_generation == known.generation and pointer_name("") in change.blobs:
            storage.after_write = None
            known.records = Looked(known.records)

    def work(_: MessagesState) -> dict[str, Any]:
        clock.advance(1801)
        ask(quick, "meanwhile")
        storage.after_write = look_out
        return {"messages": [AIMessage("done")]}

    assert ask(graph_of(buffer, work), "now") == ["first", "re", "now", "done"]
    assert storage.after_write is None


def asks(
    clock: Clock, *questions: str, before: Callable[[], object] = int, after: Callable[[], object] = int
) -> Callable[[Any], Any]:
    """A node that asks a person; before its last question its session ends under it, and something before or after."""
    *first, last = questions
    once = [True]

    def node(_: Any) -> Any:
        answers = [interrupt(each) for each in first]
        if once:
            once.clear()
            before()
            clock.advance(1801)
            after()
        return {"messages": [AIMessage(" ".join([*answers, interrupt(last)]))]}

    return node


def test_a_question_to_a_person_is_kept_though_another_run_goes_on_from_a_far_shorter_conversation() -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    quick = chained(buffer, answer=says("answer"))
    ask(quick, "early")
    early = quick.get_state(CONFIG).config
    for _ in range(20):
        ask(quick, "more")
    slow = chained(buffer, ask=asks(clock, "sure?", before=lambda: quick.invoke({"messages": ["fork"]}, early)))
    before = ask(slow, "question")
    assert len(before) == 43
    assert plain_texts(buffer.history(session_id="t").messages) == before
    assert slow.get_state(CONFIG).interrupts


class Noted(MessagesState):
    """A state that holds more than its conversation."""

    notes: Annotated[list[Any], add_messages]
    long: str
    thought: str


def test_a_question_to_a_person_is_kept_with_far_more_messages_in_another_channel_than_in_the_conversation() -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")

    graph = chained(
        buffer,
        Noted,
        note=lambda _: {"notes": [AIMessage(f"note {number}") for number in range(40)]},
        think=lambda _: {},
        ask=asks(clock, "sure?"),
    )
    ask(graph, "question")
    found = graph.get_state(CONFIG)
    assert plain_texts(found.values["messages"]) == ["question"]
    assert len(found.values["notes"]) == 40
    assert found.interrupts


@pytest.mark.parametrize("expiries", [2, 3])
@pytest.mark.parametrize("notes", [1, 40])
async def test_a_question_to_a_person_is_kept_though_its_session_has_ended_before_under_the_same_turn(
    expiries: int, notes: int
) -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")

    async def think(_: Any) -> dict[str, Any]:
        await asyncio.sleep(0)  # What the step before wrote is stored by then: in one loop all goes in turn.
        clock.advance(1801)
        return {"messages": [AIMessage("thought")], "thought": "y" * 2_000}

    graph = chained(
        buffer,
        Noted,
        note=lambda _: {"long": "x" * 1_000, "notes": [AIMessage(f"note {number}") for number in range(notes)]},
        **{f"think {number}": think for number in range(expiries - 1)},
        ask=asks(clock, "sure?"),
    )
    await graph.ainvoke({"messages": [HumanMessage("question")]}, CONFIG, durability="sync")
    found = await graph.aget_state(CONFIG)
    assert plain_texts(found.values["messages"]) == ["question", *["thought"] * (expiries - 1)]
    assert {name: len(found.values[name]) for name in ("notes", "long", "thought")} == {
        "notes": notes,
        "long": 1_000,
        "thought": 2_000,
    }
    assert found.interrupts


@pytest.mark.parametrize("early", [False, True], ids=["with ids", "before ids are given"])
async def test_a_question_to_a_person_is_kept_though_another_turn_was_taken_between_the_ends_of_its_session(
    early: bool,
) -> None:
    """A step's messages get their ids before what it wrote is stored or, from Python 3.12 on, after."""
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("before")])

    async def think(_: Any) -> dict[str, Any]:
        await asyncio.sleep(0)  # What the step before wrote is stored by then: in one loop all goes in turn.
        clock.advance(1801)
        await chained(buffer, answer=says("answer")).ainvoke({"messages": [HumanMessage("other")]}, CONFIG)
        clock.advance(1801)
        return {"messages": [AIMessage("thought")]}

    graph = chained(buffer, Noted, note=lambda _: {"long": "x" * 1_000}, think=think, ask=asks(clock, "sure?"))
    if early:
        put_writes = graph.checkpointer.aput_writes
        graph.checkpointer.aput_writes = lambda config, writes, *given: put_writes(config, deepcopy(writes), *given)
    await graph.ainvoke({"messages": [HumanMessage("question")]}, CONFIG, durability="sync")
    assert plain_texts(history.messages) == ["before", "question", "thought"]
    found = await graph.aget_state(CONFIG)
    assert (len(found.values["long"]), len(found.interrupts)) == (1_000, 1)


@pytest.mark.parametrize("speaks", [False, True], ids=["nobody", "a chain"])
def test_the_latest_checkpoint_of_a_session_that_began_anew_stays_though_a_turn_asks_a_person_at_the_same_moment(
    speaks: bool,
) -> None:
    """Whoever has begun it; the turn that asks is from before."""
    latest: list[Any] = []

    def meanwhile(*_: Any) -> None:
        ask(chained(buffer, other=says("other")), "meanwhile")
        latest.append(graph.get_state(CONFIG).config)

    clock, storage, buffer = before_it_begins_anew(meanwhile)
    history = buffer.history(session_id="t")
    says_event = asks(clock, "sure?", after=lambda: history.add_messages([HumanMessage("event")] * speaks))
    graph = chained(buffer, ask=says_event)
    ask(graph, "now")
    assert storage.before_write is None
    said = plain_texts(history.messages)
    assert sorted(said) == sorted([*["event"] * speaks, "meanwhile", "other", "now"])
    state = graph.get_state(CONFIG)
    assert plain_texts(state.values["messages"]) == said
    assert [state.config] == latest
    assert not state.interrupts


@pytest.mark.parametrize("was_deleted", [False, True])
@pytest.mark.parametrize("speaks", [False, True])
def test_a_question_to_a_person_is_kept_though_a_chain_spoke_since_its_session_expired_or_an_earlier_one_was_deleted(
    *, speaks: bool, was_deleted: bool
) -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    history = buffer.history(session_id="t")
    if was_deleted:
        history.add_messages([HumanMessage("old")])
        buffer.delete("u", "t")

    says_event = asks(clock, "sure?", after=lambda: history.add_messages([HumanMessage("event")] * speaks))
    graph = chained(buffer, ask=says_event)
    ask(graph, "now")
    said = plain_texts(history.messages)
    assert sorted(said) == sorted([*["event"] * speaks, "now"])
    assert graph.get_state(CONFIG).interrupts
    assert plain_texts(graph.invoke(Command(resume="yes"), CONFIG)["messages"]) == [*said, "yes"]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_question_to_a_person_is_no_failure_though_what_its_turn_holds_was_forgotten(*, is_deleted: bool) -> None:
    clock = Clock()
    storage = MemoryStorage(clock=clock)
    buffer, other = (SessionBuffer(storage, default_user="u") for _ in range(2))
    quick = chained(buffer, answer=says("answer"))
    ask(quick, "early")
    early = quick.get_state(CONFIG).config

    def forks() -> None:
        for _ in range(12):
            quick.invoke({"messages": [HumanMessage(f"fork {number}") for number in range(20)]}, early)

    def delete() -> None:
        if is_deleted:
            # Of a session of its own, since another worker finds none that has expired.
            other.history(session_id="t").add_messages([HumanMessage("other")])
            other.delete("u", "t")

    slow = chained(buffer, ask=asks(clock, "sure?", before=forks, after=delete))
    ask(slow, "question")
    assert list(slow.get_state_history(CONFIG)) == []
    assert plain_texts(buffer.history(session_id="t").messages) == []
    assert bool(storage._sessions) == (not is_deleted)


def test_a_question_that_a_subgraph_asks_a_person_is_kept_with_what_it_did_though_its_session_expired() -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    calls: list[str] = []

    def look(_: Any) -> Any:
        calls.append("look")
        return {"messages": [AIMessage("looked")]}

    inner: Any = StateGraph(MessagesState).add_node("look", look).add_node("ask", asks(clock, "sure?"))
    inner.add_edge(START, "look").add_edge("look", "ask")
    graph = chained(buffer, inner=inner.compile(), end=says("end"))
    ask(graph, "question")
    (task,) = graph.get_state(CONFIG, subgraphs=True).tasks
    assert plain_texts(task.state.values["messages"]) == ["question", "looked"]
    assert plain_texts(buffer.history(session_id="t").messages) == ["question"]
    assert plain_texts(graph.invoke(Command(resume="yes"), CONFIG)["messages"]) == ["question", "looked", "yes", "end"]
    assert calls == ["look"]


@pytest.mark.parametrize("is_deleted", [False, True])
@pytest.mark.parametrize("how", ["removes", "sets"])
def test_a_chains_turn_that_changes_nothing_is_no_failure_where_its_session_expired_but_is_where_it_was_deleted(
    how: str, *, is_deleted: bool
) -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    buffer.history(session_id="t").add_messages([HumanMessage("hi", id="hi")])
    turn = buffer.get_session_history("t")
    assert plain_texts(turn.messages) == ["hi"]
    if is_deleted:
        buffer.delete("u", "t")
    clock.advance(1801)
    with pytest.raises(SessionDeletedError) if is_deleted else nullcontext():
        if how == "removes":
            turn.add_messages([RemoveMessage(id="hi")])
        else:
            turn.messages = []
    assert buffer.info(session_id="t") is None


def test_what_a_turn_was_shown_is_kept_though_the_one_before_it_is_first_to_go_on_after_their_session_expired() -> None:
    """What the other one had put is brought along with what was said since."""
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    turns = Turns(buffer, {"A": 0, "B": 0})
    turns.go_on("A")
    buffer.history(session_id="t").add_messages([HumanMessage("event"), AIMessage("noted")])
    turns.go_on("B")
    clock.advance(1801)
    turns.go_on("A")
    assert turns.end()["B"] == ["A?", "event", "noted", "B?", "B!"]
    shown = plain_texts(buffer.history(session_id="t").messages)
    assert [text for text in shown if text != "A!"] == ["A?", "event", "noted", "B?", "B!"]
    assert "A!" in shown


def test_each_step_after_max_age_brings_along_only_what_its_turn_added() -> None:
    clock = Clock()
    retention = Retention(max_age=500)
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u", retention=retention)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old"), AIMessage("older")])

    def thinks(_: Any) -> Any:
        clock.advance(501)
        return {"messages": [AIMessage("thought")]}

    held = ask(chained(buffer, first=thinks, second=says("more"), third=says("answer")), "question")
    assert held == ["old", "older", "question", "thought", "more", "answer"]
    assert plain_texts(history.messages) == ["question", "thought", "more", "answer"]


def test_what_a_chain_said_is_no_checkpoint_of_the_session_that_a_turn_stored_at_its_end_begins_anew() -> None:
    clock = Clock()
    buffer = SessionBuffer(MemoryStorage(clock=clock), default_user="u")
    buffer.history(session_id="t").add_messages([HumanMessage("hi")])

    def thinks(_: Any) -> Any:
        clock.advance(1801)
        return {"messages": [AIMessage("thought")]}

    graph = chained(buffer, thinks=thinks)
    ask(graph, "question", "exit")
    listed = [plain_texts(state.values["messages"]) for state in graph.get_state_history(CONFIG)]
    assert listed == [["hi", "question", "thought"]]
