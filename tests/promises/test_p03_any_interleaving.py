"""P1 to P5 over generated sessions: turns of both doors, events, edits, removals and interrupts."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.types import Command, interrupt

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.testing import Clock
from tests.shared.chats import assert_valid_chat, texts
from tests.shared.fixtures import STORAGES
from tests.shared.graphs import GRAPH_KINDS, build_graph
from tests.shared.models import ScriptedModel
from tests.shared.window_rules import expected_window


@tool
def lookup(thing: str) -> str:
    """Look a thing up, some only when a human allows it."""
    return f"{interrupt('may I?')} {thing}" if thing.startswith("secret") else f"facts about {thing}"


OPERATIONS = (
    *("agent", "agent", "agent with tools", "agent with tools", "chain", "chain", "event", "event"),
    *("ask", "resume", "edit", "remove", "reset", "graph removes", "graph adds", "retry"),
)


@dataclass
class Told:
    """What a session must hold: a plain list, changed as the words of the promises say."""

    said: list[BaseMessage] = field(default_factory=list)
    waiting: int | None = None
    """Where the turn that waits for a human stands."""
    last_append: list[BaseMessage] = field(default_factory=list)

    def visible(self) -> list[BaseMessage]:
        return expected_window(self.said, lambda messages: True)


class Played:
    """A session that is played and told at the same time."""

    def __init__(self, storage: Any, kind: str, cap: int | None = None) -> None:
        self.storage = storage
        self.buffer = SessionBuffer(storage, retention=Retention(max_messages=cap))
        self.history = self.buffer.history("u", "s")
        self.config = self.buffer.config("u", "s")
        self.model = ScriptedModel()
        self.graph = build_graph(kind, self.buffer.checkpointer(), self.model, [lookup])
        self.numbers = count()
        self.told = Told()

    def state(self) -> list[BaseMessage]:
        return list(self.graph.get_state(self.config).values.get("messages", []))

    def turn(self, question: str) -> None:
        before = len(self.told.said)
        message = HumanMessage(question, id=f"h{next(self.numbers)}")
        result = self.graph.invoke({"messages": [message]}, self.config)["messages"]
        added = result[[each.id for each in result].index(message.id) :]
        assert texts(result[: -len(added)]) == texts(self.told.visible()), "what the turn was shown"
        self.told.said += added
        if "look up secret" in question:
            self.told.waiting = before + 1

    def append(self, *messages: BaseMessage) -> None:
        named = [m.model_copy(update={"id": f"n{next(self.numbers)}"}) for m in messages]
        self.history.add_messages(named)
        self.told.said += named
        self.told.last_append = named

    def play(self, operation: str, pick: int) -> None:
        told, number = self.told, next(self.numbers)
        free = told.waiting is None
        plain = [
            each
            for place, each in enumerate(told.visible())
            if isinstance(each, HumanMessage | SystemMessage | AIMessage)
            and not (isinstance(each, AIMessage) and each.tool_calls)
            and (free or place < (told.waiting or 0) - 1)
        ]
        target = plain[pick % len(plain)] if plain else None
        if operation == "agent" and free:
            self.turn(f"question {number}")
        elif operation == "agent with tools" and free:
            self.turn(("look up {0}, b{0}", "research {0}, b{0}, c{0}")[pick % 2].format(f"a{number}"))
        elif operation == "ask" and free:
            self.turn(f"look up secret{number}, open{number}")
        elif operation == "resume" and not free:
            self.resume()
        elif operation == "chain":
            self.append(HumanMessage(f"chain {number}"), AIMessage(f"re: chain {number}"))
        elif operation == "event":
            self.append(SystemMessage(f"event {number}"))
        elif operation == "retry" and told.last_append:
            present = {each.id for each in told.said}
            if all(each.id in present for each in told.last_append):
                self.history.add_messages(told.last_append)
                for message in told.last_append:
                    self.replace(message)
        elif operation == "edit" and target is not None:
            edited = target.model_copy(update={"content": f"edited {number}"})
            self.history.add_messages([edited])
            self.replace(edited)
        elif operation == "remove" and target is not None:
            self.history.add_messages([RemoveMessage(str(target.id))])
            self.remove(target)
        elif operation == "reset" and free:
            kept = told.visible()[-(pick % 5) :] if pick % 5 else []
            kept = expected_window(kept, lambda messages: True)
            self.history.messages = kept
            told.said = list(kept)
            told.last_append = []
        elif operation == "graph removes" and free and target is not None and self.ends_well_without(target):
            self.graph.update_state(self.config, {"messages": [RemoveMessage(str(target.id))]}, as_node="model")
            self.remove(target)
        elif operation == "graph adds" and free and self.state():
            added = AIMessage(f"by the way {number}", id=f"g{number}")
            self.graph.update_state(self.config, {"messages": [added]}, as_node="model")
            told.said.append(added)

    def ends_well_without(self, message: BaseMessage) -> bool:
        """Whether a graph that has just answered would have nothing more to do."""
        left = [each for each in self.state() if each.id != message.id]
        return bool(left) and isinstance(last := left[-1], AIMessage) and not last.tool_calls

    def replace(self, message: BaseMessage) -> None:
        place = [each.id for each in self.told.said].index(message.id)
        self.told.said[place] = message

    def remove(self, message: BaseMessage) -> None:
        place = [each.id for each in self.told.said].index(message.id)
        del self.told.said[place]
        if self.told.waiting is not None and place < self.told.waiting:
            self.told.waiting -= 1

    def resume(self) -> None:
        told = self.told
        assert told.waiting is not None
        call = told.said[told.waiting]
        result = self.graph.invoke(Command(resume="granted:"), self.config)["messages"]
        at = [each.id for each in result].index(call.id)
        told.said[told.waiting : told.waiting + self.width()] = result[at:]
        told.waiting = None

    def width(self) -> int:
        """How many of the waiting turn's messages are there already: the call, and results so far."""
        waiting = self.told.waiting or 0
        rest = self.told.said[waiting + 1 :]
        return 1 + next((i for i, m in enumerate(rest) if m.type != "tool"), len(rest))

    def check(self) -> None:
        told = self.told
        shown = self.history.messages
        assert_valid_chat(shown)
        if told.waiting is None:
            assert texts(shown) == texts(told.visible())
            assert texts(self.state()) == texts(told.visible())
        else:
            without = [*told.said[: told.waiting], *told.said[told.waiting + self.width() :]]
            assert texts(shown) == texts(expected_window(without, lambda messages: True))
        assert all(message.id for message in shown)

    def check_at_every_cap(self) -> None:
        # All larger caps show what one above the length shows.
        for cap in range(1, min(100, len(self.told.said) + 1) + 1):
            buffer = SessionBuffer(self.storage, retention=Retention(max_messages=cap))
            shown = buffer.history("u", "s").messages
            expected = expected_window(self.told.said, lambda messages, cap=cap: len(messages) <= cap)
            assert texts(shown) == texts(expected), f"at cap {cap}"


steps = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 100)), min_size=2, max_size=12)


@settings(max_examples=120)
@given(steps=steps, kind=st.sampled_from(GRAPH_KINDS))
def test_any_interleaving_of_both_doors_leaves_exactly_what_was_said(steps: list[tuple[str, int]], kind: str) -> None:
    for case in STORAGES.values():
        storage = case.open(Clock())
        played = Played(storage, kind)
        for operation, pick in steps:
            played.play(operation, pick)
            played.check()
        if played.told.waiting is not None:
            played.resume()
            played.check()
        played.check_at_every_cap()
        for given_input in played.model.inputs:
            assert_valid_chat(given_input)
        case.close(storage)


@given(
    turns=st.lists(st.sampled_from(OPERATIONS[:11]), min_size=3, max_size=12),
    kind=st.sampled_from(GRAPH_KINDS),
    cap=st.integers(1, 12),
)
def test_any_interleaving_at_a_small_cap_shows_valid_chats_that_end_with_the_newest(
    turns: list[str], kind: str, cap: int
) -> None:
    for case in STORAGES.values():
        storage = case.open(Clock())
        buffer = SessionBuffer(storage, retention=Retention(max_messages=cap))
        history, config = buffer.history("u", "s"), buffer.config("u", "s")
        model = ScriptedModel()
        graph = build_graph(kind, buffer.checkpointer(), model, [lookup])
        waiting = False
        for number, operation in enumerate(turns):
            newest = None
            if operation == "chain":
                newest = f"re: chain {number}"
                history.add_messages([HumanMessage(f"chain {number}"), AIMessage(newest)])
            elif operation == "event":
                newest = f"event {number}"
                history.add_system_message(newest)
            elif operation in ("ask", "resume") and waiting:
                graph.invoke(Command(resume="granted:"), config)
                waiting = False
            elif operation == "ask":
                graph.invoke({"messages": [HumanMessage(f"look up secret{number}, open")]}, config)
                waiting = True
            elif operation.startswith("agent") and not waiting:
                question = f"research a{number}, b, c" if "tools" in operation else f"hello {number}"
                newest = str(graph.invoke({"messages": [HumanMessage(question)]}, config)["messages"][-1].content)
            shown = history.messages
            assert_valid_chat(shown)
            # The two that always stay, a question and its newest group, are five messages at most here.
            assert len(shown) <= max(cap, 5)
            if newest is not None:
                assert texts(shown)[-1] == newest
        for given_input in model.inputs:
            assert_valid_chat(given_input)
        case.close(storage)
