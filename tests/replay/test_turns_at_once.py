"""Turns that run at the same time on one session, in as many threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_ttl_history import Retention, SessionBuffer

THREADS, TURNS = 6, 12


@pytest.fixture(autouse=True)
def impatient_threads() -> Iterator[None]:
    """Threads take over from one another a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


def echo(state: MessagesState) -> dict[str, list[AIMessage]]:
    question = next(each for each in reversed(state["messages"]) if isinstance(each, HumanMessage))
    return {"messages": [AIMessage(f"re {question.content}")]}


@pytest.mark.parametrize("attempt", range(12))
def test_turns_of_many_threads_are_all_kept_and_each_in_one_piece(attempt: int) -> None:
    buffer = SessionBuffer(retention=Retention(max_messages=None))
    config = buffer.config("alice", f"busy {attempt}")
    graph = StateGraph(MessagesState)
    graph.add_node("echo", echo)
    graph.add_edge(START, "echo")
    graph.add_edge("echo", END)
    agent = graph.compile(checkpointer=buffer.checkpointer())

    def talk(thread: int) -> None:
        history = buffer.history("alice", f"busy {attempt}")
        for turn in range(TURNS):
            question = f"{thread}-{turn}"
            if turn % 6 == 5:
                history.add_messages([HumanMessage(question), AIMessage(f"re {question}")])
            else:
                agent.invoke({"messages": [HumanMessage(question)]}, config)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(talk, range(THREADS)))
    said = [message.content for message in buffer.history("alice", f"busy {attempt}").messages]
    asked = [f"{thread}-{turn}" for thread in range(THREADS) for turn in range(TURNS)]
    assert sorted(said[::2]) == sorted(asked)
    assert said[1::2] == [f"re {question}" for question in said[::2]]
