"""A server or a file loses acknowledged writes under a run: what others say from then on is no news of before."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.storage import RedisStorage, SQLiteStorage
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.types import Change, Entry, Query
from langchain_ttl_history.testing import Clock
from tests import servers
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import kind_here


class RedisPlace:
    """A server that is killed and started again from its snapshot."""

    def __init__(self, folder: Path) -> None:
        self.server = servers.Server(kind_here()).start()

    def open(self) -> Storage:
        return RedisStorage(self.server.url)

    def save(self) -> None:
        with self.server.admin() as admin:
            admin.save()

    def lose(self) -> None:
        self.server.stop()
        self.server.start()

    def close(self) -> None:
        self.server.remove()


class SQLitePlace:
    """A file that a backup is brought back into while it is open."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s.db"
        self.backup = sqlite3.connect(":memory:")
        self.clock = Clock()

    def open(self) -> Storage:
        return SQLiteStorage(self.path, clock=self.clock)

    def save(self) -> None:
        with closing(sqlite3.connect(self.path)) as file:
            file.backup(self.backup)

    def lose(self) -> None:
        with closing(sqlite3.connect(self.path)) as file:
            self.backup.backup(file)
        self.clock.advance(0.05)

    def close(self) -> None:
        self.backup.close()


PLACES = {"redis": RedisPlace, "sqlite": SQLitePlace}


class Workers:
    """Two workers and whoever looks at what they said."""

    def __init__(self, place: RedisPlace | SQLitePlace) -> None:
        self.place = place
        self.storages = [place.open() for _ in range(3)]
        self.one, self.two, self.onlooker = (SessionBuffer(each, default_user="ada") for each in self.storages)
        self.config = {"configurable": {"thread_id": "s"}}

    def ask(self, buffer: SessionBuffer, question: str, meanwhile: Callable[[], object] | None = None) -> None:
        """An agent's turn, during which something else happens."""
        self.run(buffer, question, [AIMessage(f"answer to {question}")], meanwhile)

    def run(
        self, buffer: SessionBuffer, question: str, says: list[Any], meanwhile: Callable[[], object] | None
    ) -> None:
        """A run of an agent that says something, and during which something else happens."""

        def node(state: MessagesState) -> Any:
            if meanwhile is not None:
                meanwhile()
            return {"messages": says}

        graph = StateGraph(MessagesState).add_node("n", node).add_edge(START, "n")
        agent = graph.compile(checkpointer=buffer.checkpointer())
        # Each checkpoint is stored before the next step: an older driver does not try again to reach a server that is
        # down at that moment.
        agent.invoke({"messages": [HumanMessage(question)]}, self.config, durability="sync")

    def tell(self, *texts: str) -> None:
        """Events of another worker, one by one."""
        for text in texts:
            self.two.history(session_id="s").add_messages([HumanMessage(text)])

    def lose(self, number: int) -> None:
        """Turns that are acknowledged and that no snapshot holds."""
        self.place.save()
        for each in range(number):
            self.ask(self.one, f"lost{each}")

    @property
    def shown(self) -> list[str]:
        """What the history shows, and a graph likewise."""
        shown = [message.text for message in self.onlooker.history(session_id="s").messages]
        graph = StateGraph(MessagesState).add_node("n", lambda _: None).add_edge(START, "n")
        state = graph.compile(checkpointer=self.onlooker.checkpointer()).get_state(self.config)
        assert [message.text for message in state.values["messages"]] == shown
        return shown


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisPlace | SQLitePlace]:
    place = PLACES[request.param](tmp_path)
    yield place
    place.close()


@pytest.fixture
def workers(place: RedisPlace | SQLitePlace) -> Iterator[Workers]:
    workers = Workers(place)
    yield workers
    for storage in workers.storages:
        storage.close()


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_turn_beside_a_run_under_which_writes_were_lost_is_kept(workers: Workers, lost: int) -> None:
    workers.ask(workers.one, "first")
    workers.lose(lost)

    def meanwhile() -> None:
        workers.place.lose()
        workers.ask(workers.two, "B")

    workers.ask(workers.one, "A", meanwhile)
    workers.tell("event0", "event1", "event2")
    assert workers.shown[-7:] == ["A", "answer to A", "B", "answer to B", "event0", "event1", "event2"]


@pytest.mark.parametrize("lost", [1, 3])
def test_what_others_say_after_a_run_under_which_writes_were_lost_is_shown(workers: Workers, lost: int) -> None:
    workers.ask(workers.one, "first")
    workers.lose(lost)
    workers.ask(workers.one, "A", workers.place.lose)
    after = [f"after{number}" for number in range(20)]
    workers.tell(*after)
    assert workers.shown[-22:] == ["A", "answer to A", *after]


def test_a_run_that_replaces_all_it_was_shown_spares_what_was_said_after_writes_were_lost(workers: Workers) -> None:
    workers.ask(workers.one, "first")
    workers.lose(2)

    def meanwhile() -> None:
        workers.place.lose()
        workers.tell("between0", "between1")

    summary = [RemoveMessage(id=REMOVE_ALL_MESSAGES), AIMessage("summary")]
    workers.run(workers.one, "A", summary, meanwhile)
    workers.tell("after")
    assert workers.shown == ["summary", "between0", "between1", "after"]


@pytest.mark.parametrize("trims", [False, True])
def test_no_position_of_a_lost_entry_is_given_again(place: RedisPlace | SQLitePlace, *, trims: bool) -> None:
    storage = place.open()

    def append(text: bytes) -> int:
        # A change that also trims is not written the common way.
        trim = {"other": frozenset({1})} if trims else {}
        return storage.write(KEY, Change(LEASE, append=[("log", text, ())] * 3, trim=trim)).position

    before = append(b"kept")
    place.save()
    lost = [append(b"lost") for _ in range(10)]
    place.lose()
    found = storage.read(KEY, Query(("log",)))
    assert found.position == before
    again = append(b"said since")
    entries: list[Entry] = [*storage.read(KEY, Query(("log",))).lists["log"]]
    first, second, third = (entry.position for entry in entries[3:])  # There may be gaps between them.
    assert max(lost) < first < second < third == again
    storage.close()
