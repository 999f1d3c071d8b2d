"""What once went wrong where two turns, or an agent and the one that it is a tool of, spoke beside each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, _messages_delta_reducer, add_messages
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langchain_ttl_history import Retention, SessionBuffer, TTLChatMessageHistory
from tests.regressions.cases import (
    CALL,
    CONFIG,
    DELTAS,
    Turns,
    ask,
    asking,
    calling,
    calls_while,
    chained,
    graph_of,
    ids,
    plain_texts,
    says,
    stepping,
)


@pytest.mark.parametrize("way", ["set", "remove all"])
def test_a_call_that_waits_for_its_results_outlives_a_replacement_of_what_is_shown(way: str) -> None:
    buffer = SessionBuffer(default_user="u")
    agent = asking(buffer)
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old", id="old")])
    agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG)
    shown = history.messages
    assert ids(shown) == ["old", "h"]
    if way == "set":
        history.messages = shown
    else:
        history.add_messages([RemoveMessage(id=REMOVE_ALL_MESSAGES), *shown])
    agent.invoke(Command(resume="yes"), CONFIG)
    assert ids(history.messages) == ["old", "h", "call", "result"]


@pytest.mark.parametrize("way", ["set", "remove all"])
def test_a_call_that_waits_for_one_more_result_outlives_a_replacement_with_those_it_has(way: str) -> None:
    def model(_: MessagesState) -> dict[str, Any]:
        calls = AIMessage("", id="call", tool_calls=[CALL, {**CALL, "id": "d"}])
        return {"messages": [calls, ToolMessage("one", tool_call_id="c", id="one")]}

    def tool(_: MessagesState) -> dict[str, Any]:
        return {"messages": [ToolMessage(str(interrupt("go?")), tool_call_id="d", id="two")]}

    buffer = SessionBuffer(default_user="u")
    agent = graph_of(buffer, model, tool)
    history = buffer.history(session_id="t")
    agent.invoke({"messages": [HumanMessage("h", id="h")]}, CONFIG)
    if way == "set":
        history.messages = [HumanMessage("new", id="new")]
    else:
        history.add_messages([RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("new", id="new")])
    assert ids(history.messages) == ["new"]
    agent.invoke(Command(resume="yes"), CONFIG)
    assert ids(history.messages) == ["call", "one", "two", "new"]


def test_a_removal_among_messages_counts_for_those_before_it() -> None:
    history = SessionBuffer(default_user="u").history(session_id="t")
    everything = RemoveMessage(id=REMOVE_ALL_MESSAGES)
    history.add_messages([everything, HumanMessage("1", id="1"), everything, HumanMessage("2", id="2")])
    assert ids(history.messages) == ["2"]
    history.add_messages([HumanMessage("3", id="3"), everything, HumanMessage("4", id="4"), RemoveMessage(id="4")])
    assert ids(history.messages) == []
    history.messages = [HumanMessage("5", id="5"), HumanMessage("6", id="6"), RemoveMessage(id="5")]
    assert ids(history.messages) == ["6"]


ALL = RemoveMessage(id=REMOVE_ALL_MESSAGES)


def begun(graph: Any, question: str) -> Any:
    """A run of a graph of which the first step is done."""
    running = graph.stream({"messages": [HumanMessage(question)]}, CONFIG, durability="sync", stream_mode="values")
    next(running)
    return running


CLEARS: dict[str, Callable[[TTLChatMessageHistory], object]] = {
    "assign": lambda history: setattr(history, "messages", []),
    "summarise": lambda history: setattr(history, "messages", [HumanMessage("summary")]),
    "remove": lambda history: history.add_messages([RemoveMessage(id=REMOVE_ALL_MESSAGES)]),
}


@pytest.mark.parametrize("how", CLEARS)
@pytest.mark.parametrize(("cap", "turns"), [(4, 1), (4, 2), (4, 3), (10, 9), (10, 40)])
def test_what_was_cleared_does_not_come_back_with_a_run_that_began_before(how: str, cap: int, turns: int) -> None:
    """Of all that the run still holds, who cleared the conversation was shown what the window had not cut."""
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=cap))
    history = buffer.history(session_id="t")
    others = chained(buffer, answers=lambda state: {"messages": [AIMessage(f"answer {state['messages'][-1].text}")]})

    def clears(state: MessagesState) -> Any:
        for number in range(turns):
            ask(others, f"{number}")
        CLEARS[how](history)
        return {"messages": [AIMessage("slow answer")]}

    ask(others, "secret")
    ask(graph_of(buffer, clears), "slow")
    assert plain_texts(history.messages) == ["slow answer", *["summary"] * (how == "summarise")]
    ask(others, "next")
    assert {*plain_texts(history.messages)}.isdisjoint(["secret", "answer secret", "slow", "0", "answer 0"])


@pytest.mark.parametrize("what", ["edit", "redraft"])
def test_a_turn_that_edits_or_drafts_stays_in_one_piece_beside_others(what: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")

    def others(name: str) -> None:
        history.add_messages([HumanMessage(f"{name}?", id=f"{name}-h"), AIMessage(f"{name}!", id=f"{name}-a")])

    def first(state: MessagesState) -> dict[str, Any]:
        others("C")
        said = AIMessage("shorter", id="old-a") if what == "edit" else AIMessage("draft", id="draft")
        return {"messages": [said]}

    def second(state: MessagesState) -> dict[str, Any]:
        others("D")
        said = [AIMessage("answer", id="R-a")]
        return {"messages": said if what == "edit" else [RemoveMessage(id="draft"), *said]}

    inner = graph_of(buffer, first, second)

    def outer(state: MessagesState) -> dict[str, Any]:
        inner.invoke({"messages": [HumanMessage("R?", id="R-h")]}, CONFIG)
        return {"messages": [AIMessage("B!", id="B-a")]}

    others("old")
    graph_of(buffer, outer).invoke({"messages": [HumanMessage("B?", id="B-h")]}, CONFIG)
    said = ids(history.messages)
    assert sorted(map(str, said)) == sorted(f"{turn}-{who}" for turn in ("old", "B", "C", "D", "R") for who in "ha")
    assert all(said[said.index(f"{turn}-h") + 1] == f"{turn}-a" for turn in ("old", "B", "C", "D", "R"))


@pytest.mark.parametrize("keeps", [2, 3])
@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_a_call_that_another_run_keeps_when_it_summarises_keeps_its_result(keeps: int, durability: str) -> None:
    def summarises(state: MessagesState) -> Any:
        kept = state["messages"][-keeps:]
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("summary"), *kept]}

    buffer = SessionBuffer(default_user="u")
    other = chained(buffer, sums=summarises, answers=lambda _: {"messages": [AIMessage("other answer")]})
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old"), AIMessage("older")])
    ask(calls_while(buffer, lambda: ask(other, "other question", durability)), "question")
    first = ["summary", *["question"][: keeps - 2]]
    assert plain_texts(history.messages) == [*first, "call", "result", "answer", "other question", "other answer"]


@pytest.mark.parametrize("state", [MessagesState, DELTAS], ids=["a list", "a delta channel"])
def test_a_run_that_takes_its_question_back_does_not_speak_between_a_call_and_its_result(state: Any) -> None:
    buffer = SessionBuffer(default_user="u")
    other = chained(
        buffer,
        state,
        forgets=lambda state: {"messages": [RemoveMessage(id=state["messages"][-1].id)]},
        answers=lambda _: {"messages": [AIMessage("other answer")]},
    )
    ask(calls_while(buffer, lambda: ask(other, "other question"), state), "question")
    assert plain_texts(buffer.history(session_id="t").messages) == [
        "question",
        "call",
        "result",
        "answer",
        "other answer",
    ]


@pytest.mark.parametrize("thoughts", [3, 5])
def test_what_an_agent_in_a_tool_removed_does_not_come_back_however_much_was_said_in_its_own_tools(
    thoughts: int,
) -> None:
    def summarises(state: MessagesState) -> Any:
        call = AIMessage("inner call", tool_calls=[CALL])
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("summary"), call]}

    def thinks(at: int) -> Any:
        return lambda _: {"messages": [AIMessage(f"thought {at}")]}

    def forgets(state: MessagesState) -> Any:
        return {"messages": [RemoveMessage(id=message.id) for message in state["messages"][-1 - thoughts :]]}

    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=6))
    innermost = chained(buffer, **{f"thinks{at}": thinks(at) for at in range(thoughts)}, forgets=forgets)

    def tool(_: Any) -> Any:
        for number in range(4):
            ask(innermost, f"innermost question {number}")
        return {"messages": [ToolMessage("inner result", tool_call_id="c")]}

    inner = chained(buffer, sums=summarises, tool=tool, ends=lambda _: {"messages": [AIMessage("inner answer")]})
    ask(calls_while(buffer, lambda: ask(inner, "inner question")), "question")
    shown = plain_texts(buffer.history(session_id="t").messages)
    if thoughts == 3:
        assert shown == ["summary", "inner call", "inner result", "inner answer"]
    else:
        # The thoughts had cut the summary before they were removed.
        assert shown == ["call", "result", "answer", "inner answer"]


def other_that(buffer: SessionBuffer, way: str) -> Any:
    """An agent that takes away all that it was shown, or that the history shows while its tool runs."""
    if way == "summarises":
        return chained(
            buffer,
            sums=lambda _: {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("new")]},
            answers=lambda _: {"messages": [AIMessage("other answer")]},
        )

    def replaced() -> None:
        buffer.history(session_id="t").messages = [HumanMessage("new")]

    return calls_while(buffer, replaced)


@pytest.mark.parametrize("way", ["summarises", "replaces"])
@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_an_agent_in_a_tool_of_another_does_not_take_away_the_call_it_runs_in(way: str, durability: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old"), AIMessage("older")])
    other = other_that(buffer, way)
    ask(calls_while(buffer, lambda: ask(other, "other question", durability)), "question")
    shown = plain_texts(history.messages)
    assert shown[:3] == ["call", "result", "answer"]
    assert "new" in shown
    assert not {"old", "older", "question"} & {*shown}
    assert plain_texts(calls_while(buffer, lambda: None).get_state(CONFIG).values["messages"]) == shown


@pytest.mark.parametrize("ends", ["before the tool", "before the answer", "last"])
@pytest.mark.parametrize("edits", [0, 100], ids=["as stored", "once freed"])
def test_a_run_that_summarises_beside_a_call_leaves_it_with_its_result(ends: str, edits: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=5))
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("old"), AIMessage("older")])
    other = other_that(buffer, "summarises")
    question = {"messages": [HumanMessage("other question")]}
    steps: Any = other.stream(question, CONFIG, stream_mode="values", durability="sync")
    agent = calls_while(buffer, lambda: next(steps) and list(steps if ends == "before the tool" else []))
    asked = {"messages": [HumanMessage("question")]}
    for state in agent.stream(asked, CONFIG, stream_mode="values", durability="sync"):
        if ends == "before the answer" and plain_texts(state["messages"])[-1] == "result":
            assert [*steps]
    assert [*steps] or ends != "last"
    summary = next(message for message in history.messages if message.text == "new")
    for _ in range(edits):
        # The log grows, and what is shown stays as it is.
        assert history.messages
        history.add_messages([summary])
    shown = plain_texts(history.messages)
    group = ["call", "result", "answer"]
    assert [text for text in shown if text in group] == group
    assert [text for text in shown if text not in group] == ["new", "other answer"]


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_an_agent_in_a_tool_that_removes_its_own_question_does_not_answer_between_the_call_and_its_result(
    durability: str,
) -> None:
    buffer = SessionBuffer(default_user="u")

    def amends(state: MessagesState) -> dict[str, Any]:
        edited = HumanMessage("edited", id=state["messages"][0].id)
        return {"messages": [RemoveMessage(id=state["messages"][-1].id or ""), edited]}

    inner = chained(buffer, amends=amends, answers=lambda _: {"messages": [AIMessage("inner")]})

    def tools(state: MessagesState) -> dict[str, Any]:
        ask(inner, "inner question", durability)
        return {"messages": [ToolMessage("result", tool_call_id="c")]}

    calls = {"messages": [AIMessage("call", tool_calls=[CALL])]}
    outer = chained(buffer, model=lambda _: calls, tools=tools, ends=lambda _: {"messages": [AIMessage("end")]})
    ask(outer, "question")
    shown = plain_texts(buffer.history(session_id="t").messages)
    assert shown == ["edited", "call", "result", "end", "inner"]


class Dialogue(TypedDict):
    dialogue: Annotated[list[Any], add_messages]


def test_graphs_that_name_their_conversation_differently_share_it() -> None:
    buffer = SessionBuffer(default_user="u")
    history, expected = buffer.history(session_id="t"), list[str]()
    agent = chained(buffer, MessagesState, answer=lambda state: {"messages": [AIMessage(f"{len(state['messages'])}")]})
    talk = StateGraph(Dialogue).add_node("answer", lambda state: {"dialogue": [AIMessage(f"{len(state['dialogue'])}")]})
    other = talk.add_edge(START, "answer").compile(checkpointer=buffer.checkpointer(messages_key="dialogue"))
    for turn in range(3):
        agent.invoke({"messages": [HumanMessage(f"q{turn}")]}, CONFIG)
        expected += [f"q{turn}", f"{len(expected) + 1}"]
        other.invoke({"dialogue": [HumanMessage(f"d{turn}")]}, CONFIG)
        expected += [f"d{turn}", f"{len(expected) + 1}"]
        history.add_system_message(f"event {turn}")
        expected += [f"event {turn}"]
        assert plain_texts(history.messages) == expected
        assert plain_texts(agent.get_state(CONFIG).values["messages"]) == expected
        assert plain_texts(other.get_state(CONFIG).values["dialogue"]) == expected


@pytest.mark.parametrize("cap", [4, 80])
def test_a_new_turn_of_an_agent_that_still_waits_for_an_answer_is_the_newest(cap: int) -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=cap))
    history = buffer.history(session_id="t")

    def model(state: MessagesState) -> Any:
        asked = state["messages"][-1].text
        return {"messages": [AIMessage("", tool_calls=[CALL]) if asked == "delete" else AIMessage(f"answer {asked}")]}

    def tools(state: MessagesState) -> Any:
        return {"messages": [ToolMessage(interrupt("sure?"), tool_call_id=CALL["id"])]}

    graph = StateGraph(MessagesState).add_node(model).add_node(tools).add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    agent = graph.compile(checkpointer=buffer.checkpointer())
    agent.invoke({"messages": [HumanMessage("delete")]}, CONFIG)
    for number in range(3):
        history.add_messages([HumanMessage(f"{number}"), AIMessage(f"chain {number}")])
    ask(agent, "new")
    said = [text for number in range(3) for text in (f"{number}", f"chain {number}")]
    shown = ["delete", "", *said, "new", "answer new"] if cap == 80 else ["2", "chain 2", "new", "answer new"]
    assert plain_texts(history.messages) == plain_texts(agent.get_state(CONFIG).values["messages"]) == shown
    assert ask(agent, "newer")[-3:] == ["answer new", "newer", "answer newer"]


def test_a_chain_is_not_shown_the_call_of_an_agent_that_is_in_its_tool_while_another_is_done() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    other = chained(buffer, answers=lambda _: {"messages": [AIMessage("other answer")]})

    def is_in_its_tool() -> None:
        for _ in beside:
            pass  # The other ends meanwhile, and its checkpoint is the latest.
        assert plain_texts(history.messages) == ["question", "other", "other answer"]
        history.messages = history.messages[:1]

    running = begun(calls_while(buffer, is_in_its_tool), "question")
    beside = begun(other, "other")  # Before the call is made.
    for _ in running:
        pass
    assert plain_texts(history.messages) == ["question", "call", "result", "answer"]


@pytest.mark.parametrize("how", ["summarises", "refuses"])
def test_a_run_that_begins_the_conversation_anew_removes_nothing_that_it_did_not_know_of(how: str) -> None:
    def removes(state: MessagesState) -> Any:
        gone = ALL if how == "summarises" else RemoveMessage(id=str(state["messages"][-1].id))
        return {"messages": [gone, HumanMessage("anew")]}

    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    removing = begun(chained(buffer, removes=removes, answers=lambda _: {"messages": [AIMessage("done")]}), "first?")
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    # This one is shown the chain's turn, and ends last.
    other = begun(chained(buffer, answers=lambda _: {"messages": [AIMessage("other")]}), "other?")
    for each in (*removing, *other):
        assert each
    assert plain_texts(history.messages) == ["X?", "X!", "other?", "other", "anew", "done"]


def test_an_agent_in_a_tool_that_summarises_removes_nothing_that_its_caller_waits_with() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    inner = chained(buffer, sums=lambda _: {"messages": [ALL, HumanMessage("summary")]})

    def meanwhile() -> None:
        history.add_messages([HumanMessage("X?"), AIMessage("X!")])
        ask(inner, "inner?")

    ask(calls_while(buffer, meanwhile), "outer?")
    assert {"X?", "X!", "summary", "answer"} <= {*plain_texts(history.messages)}


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("edits", ["edit", "summary"])
def test_an_edit_moves_nothing_that_others_say_meanwhile_up_to_where_it_stands(edits: str, durability: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    result = ToolMessage("result", tool_call_id="c", id="result")
    history.add_messages([HumanMessage("q"), AIMessage("call", tool_calls=[CALL]), result, AIMessage("a")])

    def changes(state: MessagesState) -> Any:
        history.add_messages([HumanMessage("X?"), AIMessage("X!")])
        cleared = ToolMessage("cleared", tool_call_id="c", id="result")
        return {"messages": [cleared] if edits == "edit" else [ALL, HumanMessage("summary"), state["messages"][-1]]}

    graph = chained(buffer, changes=changes, answers=lambda _: {"messages": [AIMessage("answer")]})
    ask(graph, "new", durability)
    old = ["q", "call", "cleared", "a"] if edits == "edit" else ["summary"]
    assert plain_texts(history.messages) == [*old, "new", "answer", "X?", "X!"]


def test_an_edit_while_an_approval_is_waited_for_moves_nothing_up_to_where_it_stands() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("q", id="q"), AIMessage("a")])
    agent = asking(buffer)
    ask(agent, "do")
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    agent.update_state(CONFIG, {"messages": [HumanMessage("redacted", id="q")]})
    assert plain_texts(history.messages) == ["redacted", "a", "do", "X?", "X!"]


def test_an_open_call_that_a_chain_has_made_is_shown_though_those_of_agents_are_not() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    ask(chained(buffer, answers=says("answer")), "question")
    history.add_messages([HumanMessage("X?"), AIMessage("call", tool_calls=[CALL])])
    assert plain_texts(history.messages) == ["question", "answer", "X?", "call"]


def test_setting_the_messages_removes_the_call_of_a_run_that_failed_beside_another() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    other = chained(buffer, answers=lambda _: {"messages": [AIMessage("other")]})
    running = begun(other, "other?")

    def fails() -> None:
        raise RuntimeError("the tool is down")

    with pytest.raises(RuntimeError, match="down"):
        ask(calls_while(buffer, fails), "question")
    for each in running:
        assert each
    history.messages = [HumanMessage("fresh")]
    assert plain_texts(history.messages) == plain_texts(other.get_state(CONFIG).values["messages"]) == ["fresh"]
    assert ask(other, "next") == ["fresh", "next", "other"]


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_a_tool_that_says_more_than_its_result_goes_on_with_the_turn_that_called_it(durability: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")

    def tools(_: MessagesState) -> Any:
        return {"messages": [ToolMessage(interrupt("sure?"), tool_call_id=CALL["id"]), HumanMessage("image")]}

    nodes = {"model": lambda _: {"messages": [AIMessage("call", tool_calls=[CALL])]}, "tools": tools}
    agent = chained(buffer, **nodes, answers=lambda _: {"messages": [AIMessage("answer")]})
    agent.invoke({"messages": [HumanMessage("view")]}, CONFIG, durability=durability)
    history.add_system_message("event")
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    agent.invoke(Command(resume="yes"), CONFIG, durability=durability)
    shown = ["view", "call", "yes", "image", "answer", "event", "X?", "X!"]
    assert plain_texts(history.messages) == plain_texts(agent.get_state(CONFIG).values["messages"]) == shown


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("cap", [5, 80])
def test_a_turn_that_goes_on_and_summarises_stays_before_what_was_said_while_it_waited(
    cap: int, durability: str
) -> None:
    """At the small cap the result that it went on with is freed: what is left of it begins with the summary."""
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=cap))
    history = buffer.history(session_id="t")
    made = [AIMessage("", tool_calls=[{**CALL, "name": name, "id": name}]) for name in ("look", "pay")]
    said = [AIMessage("hi"), AIMessage("hi"), *made, AIMessage("done")]

    def sums(state: MessagesState) -> Any:
        messages = state["messages"]
        return {"messages": [ALL, HumanMessage("summary"), *messages[-3:]] if len(messages) >= 6 else []}

    def tools(state: MessagesState) -> Any:
        (call,) = state["messages"][-1].tool_calls  # type: ignore[union-attr]  # it is an AIMessage
        result = interrupt("sure?") if call["name"] == "pay" else "seen"
        return {"messages": [ToolMessage(result, tool_call_id=call["id"])]}

    graph = StateGraph(MessagesState).add_node(sums).add_node(tools)
    graph.add_node("model", lambda _: {"messages": [said.pop(0)]})
    graph.add_edge(START, "sums").add_edge("sums", "model").add_edge("tools", "sums")
    graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    agent = graph.compile(checkpointer=buffer.checkpointer())
    for question in ("hello", "hello", "pay"):
        ask(agent, question, durability)
    for event in ("e1", "e2"):
        history.add_system_message(event)
    assert plain_texts(history.messages)[-2:] == ["e1", "e2"]
    agent.invoke(Command(resume="yes"), CONFIG, durability=durability)
    shown = ["summary", "done", "e1", "e2"] if cap == 5 else ["summary", "", "yes", "done", "e1", "e2"]
    assert plain_texts(history.messages) == shown


def test_a_long_turn_whose_beginning_is_freed_stays_before_a_turn_that_began_after_it() -> None:
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=6, max_checkpoints=3))
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("hello"), AIMessage("hi")])

    def calls_often(name: str, calls: int) -> Any:
        made = [AIMessage(name, tool_calls=[{**CALL, "id": f"{name}{number}"}]) for number in range(calls)]
        said = [*made, AIMessage(f"{name} done")]

        def tools(state: MessagesState) -> Any:
            (call,) = state["messages"][-1].tool_calls  # type: ignore[union-attr]  # it is an AIMessage
            return {"messages": [ToolMessage("result", tool_call_id=call["id"])]}

        graph = StateGraph(MessagesState).add_node(tools).add_node("model", lambda _: {"messages": [said.pop(0)]})
        graph.add_edge(START, "model").add_edge("tools", "model")
        graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
        return graph.compile(checkpointer=buffer.checkpointer())

    first = begun(calls_often("A", 1), "A?")
    ask(calls_often("B", 4), "B?")
    next(first)  # It is in its tool, and B is over.
    ask(calls_often("C", 1), "C?")
    assert plain_texts(history.messages) == ["C?", "C", "result", "C done"]
    for each in first:
        assert each
    assert plain_texts(history.messages)[-4:] == ["C?", "C", "result", "C done"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("way", ["input", "input with a question", "update_state"])
@pytest.mark.parametrize("state", [MessagesState, DELTAS], ids=["list", "delta"])
def test_a_result_that_the_app_found_itself_goes_to_its_call(state: Any, way: str, durability: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")

    agent = calling(buffer, state)
    ask(agent, "go", durability)
    history.add_system_message("event")
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    found: list[Any] = [ToolMessage("result", tool_call_id=CALL["id"])]
    said, asked = ["go", "call", "result"], []
    if way == "update_state":
        agent.update_state(CONFIG, {"messages": found})
    elif way == "input":
        agent.invoke({"messages": found}, CONFIG, durability=durability)
        said.append("to result")
    else:
        agent.invoke({"messages": [*found, HumanMessage("more")]}, CONFIG, durability=durability)
        asked = ["more", "to more"]  # A question is the newest.
    assert plain_texts(history.messages) == [*said, "event", "X?", "X!", *asked]


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("state", [MessagesState, DELTAS], ids=["list", "delta"])
@pytest.mark.parametrize("removes", [False, True], ids=["", "removes"])
def test_a_question_to_a_graph_that_waits_for_a_result_is_the_newest_at_any_durability(
    removes: bool, state: Any, durability: str
) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")

    agent = calling(buffer, state)
    history.add_messages([HumanMessage("old", id="old")])
    ask(agent, "go", durability)
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    gone = [RemoveMessage("old")] if removes else []
    agent.invoke({"messages": [*gone, HumanMessage("new")]}, CONFIG, durability=durability)
    old = [] if removes else ["old"]
    assert plain_texts(history.messages) == [*old, "go", "call", "X?", "X!", "new", "to new"]


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_a_call_that_is_cancelled_for_a_new_question_keeps_its_result(durability: str) -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")

    def cancels(state: MessagesState) -> Any:
        """As a middleware does that answers the calls that nobody answered."""
        messages = state["messages"]
        calls = [at for at, message in enumerate(messages, 1) if getattr(message, "tool_calls", None)]
        if not calls or calls[-1] == len(messages) or isinstance(messages[calls[-1]], ToolMessage):
            return {"messages": []}
        cancelled = ToolMessage("cancelled", tool_call_id=CALL["id"])
        return {"messages": [ALL, *messages[: calls[-1]], cancelled, *messages[calls[-1] :]]}

    agent = calling(buffer, cancels=cancels)
    ask(agent, "go", durability)
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    ask(agent, "new", durability)
    assert plain_texts(history.messages) == ["go", "call", "cancelled", "X?", "X!", "new", "to new"]


def test_what_a_tool_says_besides_its_result_stands_behind_that_for_a_turn_around_it() -> None:
    buffer = SessionBuffer(default_user="u")
    said = [ToolMessage("result", tool_call_id=CALL["id"]), AIMessage("note")]
    calls = lambda _: {"messages": [AIMessage("call", tool_calls=[CALL])]}  # noqa: E731
    agent = chained(buffer, model=calls, tools=lambda _: {"messages": said}, answers=says("answer"))

    def other(_: Any) -> Any:
        ask(agent, "go")
        return {"messages": [AIMessage("done")]}

    ask(chained(buffer, other=other), "first")
    assert plain_texts(buffer.history(session_id="t").messages) == [
        "first",
        "done",
        "go",
        "call",
        "result",
        "note",
        "answer",
    ]


def test_what_is_said_during_a_turn_in_a_tool_of_another_stands_behind_it() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    shown: list[str] = []

    def second(_: Any) -> Any:
        history.add_messages([HumanMessage("X?"), AIMessage("X!")])
        return {"messages": [AIMessage("B1")]}

    inner = chained(buffer, first=says("B0"), second=second)

    def other() -> None:
        ask(inner, "B?")
        shown.extend(plain_texts(history.messages))

    ask(calls_while(buffer, other), "A?")
    assert shown[-5:] == ["B?", "B0", "B1", "X?", "X!"]


def test_a_delta_conversation_beside_another_delta_channel_keeps_what_a_chain_said_at_each_turn() -> None:
    files = DeltaChannel(lambda state, writes: [*(state or []), *(x for write in writes for x in write)])
    state: Any = TypedDict(
        "state", {"messages": Annotated[list, DeltaChannel(_messages_delta_reducer)], "files": Annotated[list, files]}
    )
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    graph = chained(buffer, state, a=lambda _: {"messages": [AIMessage("a")], "files": ["f"]})
    for _ in range(3):
        ask(graph, "q")
        history.add_messages([HumanMessage("H"), AIMessage("A")])
    ask(graph, "q")
    values = graph.get_state(CONFIG).values
    assert plain_texts(values["messages"]) == ["q", "a", "H", "A"] * 3 + ["q", "a"]
    assert values["files"] == ["f"] * 4


def test_another_result_of_a_call_that_a_graph_made_goes_to_that() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    call = AIMessage("call", tool_calls=[{**CALL, "id": "1"}, {**CALL, "id": "2"}], id="call")
    one = [ToolMessage("one", tool_call_id="1"), AIMessage("done")]
    ask(chained(buffer, a=lambda _: {"messages": [call]}, b=lambda _: {"messages": one}), "go")
    history.add_messages([HumanMessage("H"), AIMessage("A")])
    history.add_messages([call, ToolMessage("two", tool_call_id="2")])
    assert plain_texts(history.messages) == ["go", "call", "one", "two", "done", "H", "A"]


def test_a_result_and_a_question_for_a_call_that_a_chain_made_are_taken_together() -> None:
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("go"), AIMessage("call", tool_calls=[CALL])])
    given = [ToolMessage("result", tool_call_id=CALL["id"]), HumanMessage("next")]
    chained(buffer, a=says("answer")).invoke({"messages": given}, CONFIG, durability="exit")
    assert plain_texts(history.messages) == ["go", "call", "result", "next", "answer"]


@pytest.mark.parametrize(
    ("calls", "steps", "cap"),
    [
        ({"A": 2, "B": 5}, "ABBBBABBAABABBBBABBA", 4),
        ({"A": 3, "B": 5, "C": 5}, "AACACBBCCABABCBCBCBCACBABCBACCBBCBA", 6),
    ],
    ids=["two", "three"],
)
def test_an_answer_is_not_shown_under_the_question_of_a_turn_that_began_later(
    calls: dict[str, int], steps: str, cap: int
) -> None:
    """What its turn said before was freed, so that it follows nothing, and the later turn is the head's."""
    shown = {}
    for most in (None, cap):
        buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=most))
        turns = Turns(buffer, calls)
        turns.go_on(steps)
        turns.end()
        shown[most] = plain_texts(buffer.history(session_id="t").messages)
    assert shown[None][-1] == "B!"
    assert shown[cap] == ["B?", *shown[None][1 - cap :]]


@pytest.mark.parametrize("by", ["question", "node"])
def test_a_turn_whose_call_another_removes_goes_on_under_its_own_question(by: str) -> None:
    buffer = SessionBuffer(default_user="u")
    removal = [RemoveMessage(id="call")]
    call = AIMessage("call", id="call", tool_calls=[CALL])
    agent = graph_of(
        buffer,
        lambda _: {"messages": [call]},
        lambda _: {"messages": [ToolMessage("result", tool_call_id="c")]},
        says("answer"),
    )
    other = graph_of(
        buffer,
        lambda _: {"messages": [*(removal if by == "node" else ()), AIMessage("other step")]},
        says("other answer"),
    )
    turn = stepping(agent, HumanMessage("question"))
    next(turn)
    next(turn)
    beside = stepping(other, *(removal if by == "question" else ()), HumanMessage("other question"))
    next(beside)
    next(beside)
    list(turn)
    list(beside)
    said = ["question", "call", "result", "answer", "other question", "other step", "other answer"]
    assert plain_texts(buffer.history(session_id="t").messages) == said


def test_an_edit_beside_a_question_is_not_taken_for_the_beginning_of_its_turn() -> None:
    """A turn that goes on beside it, and of which nothing is left, would be shown in front of what was edited."""
    buffer = SessionBuffer(default_user="u")
    history = buffer.history(session_id="t")
    history.add_messages([HumanMessage("hi", id="hi"), AIMessage("hello")])
    turn = stepping(
        graph_of(buffer, lambda _: {"messages": [AIMessage("a", id="a")]}, says("b")), HumanMessage("q", id="q")
    )
    next(turn)
    next(turn)
    history.add_messages([RemoveMessage(id="q"), RemoveMessage(id="a")])
    beside = stepping(
        graph_of(buffer, says("other answer")), HumanMessage("hi, edited", id="hi"), HumanMessage("other")
    )
    next(beside)
    next(turn)
    list(beside)
    assert plain_texts(history.messages) == ["hi, edited", "hello", "b", "other", "other answer"]


@pytest.mark.parametrize("cap", [4, 80])
def test_a_turn_that_asked_a_person_stays_the_newest_once_it_is_answered(cap: int) -> None:
    """It began while another one waited, and goes on as another run, which is shown nothing of what was said then."""
    buffer = SessionBuffer(default_user="u", retention=Retention(max_messages=cap))
    agent = asking(buffer)
    history = buffer.history(session_id="t")
    agent.invoke({"messages": [HumanMessage("A?")]}, CONFIG)
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    other = graph_of(
        buffer,
        lambda _: {"messages": [AIMessage("B call", tool_calls=[CALL])]},
        lambda _: {"messages": [ToolMessage(str(interrupt("go?")), tool_call_id="c")]},
        says("B!"),
    )
    other.invoke({"messages": [HumanMessage("B?")]}, CONFIG)
    other.invoke(Command(resume="yes"), CONFIG)
    assert plain_texts(history.messages)[-4:] == ["B?", "B call", "yes", "B!"]
    assert plain_texts(other.get_state(CONFIG).values["messages"])[-4:] == ["B?", "B call", "yes", "B!"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("update", [SystemMessage("note"), HumanMessage("also this")], ids=["system", "human"])
@pytest.mark.parametrize("state", [MessagesState, DELTAS], ids=["plain", "delta"])
def test_what_an_answer_to_a_question_says_besides_stands_with_its_call(
    state: Any, update: Any, durability: Any
) -> None:
    buffer = SessionBuffer(default_user="u")
    agent = chained(
        buffer,
        state,
        model=lambda _: {"messages": [AIMessage("call", tool_calls=[CALL])]},
        tool=lambda _: {"messages": [ToolMessage(str(interrupt("go?")), tool_call_id="c")]},
        end=says("answer"),
    )
    history = buffer.history(session_id="t")
    agent.invoke({"messages": [HumanMessage("A?")]}, CONFIG, durability=durability)
    history.add_messages([HumanMessage("X?"), AIMessage("X!")])
    agent.invoke(Command(resume="yes", update={"messages": [update]}), CONFIG, durability=durability)
    # Nothing that others said stands between a call and its result.
    assert plain_texts(history.messages)[:5] == ["A?", "call", update.content, "yes", "answer"]
