"""How many requests to the storage an operation costs: one, and what frees a session goes with it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.checkpointing import reads
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.types import Blob, Change, Lease, Query
from langchain_ttl_history.stored.names import key_of
from tests.shared.checkpoints import checkpoint
from tests.shared.graphs import agent

CONFIG: Any = {"configurable": {"user_id": "alice", "session_id": "s1", "thread_id": "s1"}}


class Counting(MemoryStorage):
    """A storage that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.sent: list[str] = []
        """The names of all that was stored."""

    def read(self, key: Any, query: Any) -> Any:
        self.asked.append("read")
        return super().read(key, query)

    def write(self, key: Any, change: Any) -> Any:
        self.asked.append("write")
        self.sent += change.blobs
        return super().write(key, change)

    def taken(self) -> list[str]:
        """What it was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked


def test_an_agents_turn_costs_one_read_and_one_write_a_step_and_freeing_costs_none() -> None:
    storage = Counting()
    buffer = SessionBuffer(storage, retention=Retention(max_messages=20, max_checkpoints=20))
    graph = agent(buffer)
    # LangGraph then stores from one thread, and no write overtakes the one that is to free as well.
    config: Any = {**CONFIG, "max_concurrency": 1}
    sizes = []
    for _ in range(30):
        graph.invoke({"messages": [HumanMessage("look it up")]}, config)
        asked = storage.taken()
        assert asked.count("read") == 1
        assert len(asked) == 10
        info = buffer.info("alice", "s1")
        assert info is not None
        sizes.append(info.bytes)
        storage.taken()
    assert max(sizes[20:]) <= 1.1 * max(sizes[:20]), "nothing was freed"
    assert len(storage.read(SessionKey("alice", "s1"), Query(outline=True)).lists["index"]) <= 20 * 1.25 + 2 + 5


def test_a_put_sends_no_message_that_one_before_it_has_sent() -> None:
    storage = Counting()
    saver = SessionBuffer(storage, default_user="u").checkpointer()
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    said = [HumanMessage("q", id="q"), AIMessage("a", id="a"), HumanMessage("q2", id="q2")]
    for step in range(1, 4):
        config = saver.put(config, checkpoint(*said[:step], version=step), {}, {"messages": step})
    assert [key_of(name) for name in storage.sent if name[0] == "m"] == ["q", "a", "q2"]


def test_a_chains_turn_costs_one_read_and_one_write_and_freeing_costs_none() -> None:
    storage = Counting()
    buffer = SessionBuffer(storage, retention=Retention(max_messages=20))
    chain: Any = RunnableWithMessageHistory(
        RunnableLambda(lambda messages: AIMessage("done")),
        buffer.get_session_history,
        history_factory_config=buffer.history_factory_config,
    )
    for _ in range(40):
        chain.invoke([HumanMessage("hello")], CONFIG)
        assert storage.taken() == ["read", "write"]
    assert len(storage.read(SessionKey("alice", "s1"), Query(outline=True)).lists["log"]) <= 20 * 1.25 + 16


def said_before_another_program(graph: Any) -> list[Any]:
    """What a client and a graph have said in three turns, after which another program has had one."""
    said: list[Any] = []
    for number in range(3):
        said.append(HumanMessage(f"q{number}", id=f"q{number}"))
        said += graph.invoke({"messages": said[-1:]}, CONFIG)["messages"][-3:]
    graph.invoke({"messages": [HumanMessage("another program's")]}, CONFIG)
    return said


def test_what_a_client_sends_again_after_another_program_costs_one_read_a_run() -> None:
    storage = Counting()
    graph = agent(SessionBuffer(storage, retention=Retention(max_messages=8)))
    sent = said_before_another_program(graph)
    storage.taken()
    graph.invoke({"messages": [*sent, HumanMessage("q3")]}, CONFIG)
    assert storage.taken().count("read") == 2


def test_what_a_client_sends_again_is_stored_though_an_older_checkpoint_is_damaged() -> None:
    storage = MemoryStorage()
    graph = agent(SessionBuffer(storage, retention=Retention(max_messages=8)))
    sent = said_before_another_program(graph)
    key = SessionKey("alice", "s1")
    older = [name for name in storage.read(key, Query(outline=True)).blobs if name[0] == "c"][:-1]
    storage.write(key, Change(Lease(None, None), blobs={name: Blob(b"damaged") for name in older}))
    graph.invoke({"messages": [*sent, HumanMessage("q3")]}, CONFIG)
    assert "q3" in [message.text for message in graph.get_state(CONFIG).values["messages"]]


def test_a_list_costs_one_read_a_checkpoint_and_makes_the_latest_conversation_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, made, alone = Counting(), [], []
    buffer = SessionBuffer(storage)
    graph = agent(buffer)
    for _ in range(2):
        graph.invoke({"messages": [HumanMessage("look it up")]}, CONFIG)
    buffer.history("alice", "s1").add_messages([HumanMessage("said since")])
    view_of, packed_image = reads.view_of, Codec.packed_image
    monkeypatch.setattr(reads, "view_of", lambda *given: made.append(given) or view_of(*given))
    monkeypatch.setattr(Codec, "packed_image", lambda *given: alone.append(given) or packed_image(*given))
    saver = buffer.checkpointer()
    storage.taken()
    listed = [*saver.list(CONFIG)]
    assert len(listed) == 10
    assert listed[0].checkpoint["channel_values"]["messages"][-1].content == "said since"
    assert storage.taken() == ["read"] * (1 + 10)
    assert len(made) == 1, "by the latest one, which shows it"
    written = sum(
        len(value) for each in listed for _, channel, value in each.pending_writes or () if channel == "messages"
    )
    assert len(alone) <= written, "the messages of each conversation are unpacked together"
    for each in listed[1:]:
        read = saver.get_tuple(each.config)
        assert read is not None
        assert read.checkpoint["channel_values"] == each.checkpoint["channel_values"]
