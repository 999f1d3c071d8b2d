"""What many live sessions cost each other, and what stays of many more."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.storage import MemoryStorage
from tests.benchmarks.graphs import human, text
from tests.benchmarks.measure import side_by_side, size_text, time_text
from tests.benchmarks.scanning import ScanningBuffer
from tests.benchmarks.table import Row

FEW, MANY = 10, 100_000
CHURNED, KEPT = 100_000, 1_000

Write = Callable[[str, list[BaseMessage]], None]
"""Adds these messages to the session of a name."""


@dataclass(frozen=True)
class Writer:
    """A way to write to a session."""

    make: Callable[[], tuple[Write, Write]]
    """Gives the write that is measured, and the one that makes the other sessions."""
    times: int
    """How many writes are one piece of a round."""
    bound: float | None
    """Of a write beside many sessions against one beside few."""


def _memory() -> SessionBuffer:
    return SessionBuffer(MemoryStorage(max_sessions=2 * MANY, max_bytes=1 << 34))


def _through_history(buffer: SessionBuffer) -> Write:
    return lambda session, messages: buffer.history("alice", session).add_messages(messages)


def _through_checkpointer(buffer: SessionBuffer) -> Write:
    saver = buffer.checkpointer()

    def write(session: str, messages: list[BaseMessage]) -> None:
        config = buffer.config("alice", session)
        config["configurable"]["checkpoint_ns"] = ""
        saved = saver.get_tuple(config)
        before = saved.checkpoint if saved else empty_checkpoint()
        version = saver.get_next_version(before["channel_versions"].get("messages"), None)
        checkpoint: Checkpoint = {
            **before,
            "id": str(uuid6()),
            "channel_values": {"messages": [*before["channel_values"].get("messages", ()), *messages]},
            "channel_versions": {"messages": version},
        }
        metadata: CheckpointMetadata = {"source": "loop", "step": 0, "parents": {}}
        saver.put(saved.config if saved else config, checkpoint, metadata, {"messages": version})

    return write


def _scanning() -> tuple[Write, Write]:
    buffer = ScanningBuffer()

    def write(session: str, messages: list[BaseMessage]) -> None:
        buffer.set("alice", session, [*buffer.get("alice", session), *messages])

    def fill(session: str, messages: list[BaseMessage]) -> None:
        for message in messages:
            buffer.append("alice", session, message)

    return write, fill


def _same(write: Write) -> tuple[Write, Write]:
    return write, write


WRITERS: dict[str, Writer] = {
    "memory, history": Writer(lambda: _same(_through_history(_memory())), 20, 1.2),
    "memory, checkpointer": Writer(lambda: _same(_through_checkpointer(_memory())), 20, 1.2),
    "the buffer before, set": Writer(_scanning, 1, None),
}


def said() -> list[BaseMessage]:
    """A turn without a tool."""
    said = [human(), AIMessage(text(300))]
    return [message.model_copy(update={"id": str(uuid6())}) for message in said]


def _one_more(write: Write) -> None:
    write("s1", said())


def live() -> Iterator[Row]:
    """A write to one session beside 100,000 live sessions against one beside 10."""
    for who, writer in WRITERS.items():
        (few, fill_few), (many, fill_many) = writer.make(), writer.make()
        for session in range(FEW):
            fill_few(f"s{session}", said())
        for session in range(MANY):
            fill_many(f"s{session}", said())
        writes = {"few": partial(_one_more, few), "many": partial(_one_more, many)}
        value = side_by_side(writes, writer.times)
        ratio = value["many"] / value["few"]
        what = f"a write, {MANY:,} live sessions against {FEW}"
        yield Row(what, who, time_text(value["many"]), time_text(value["few"]), ratio, writer.bound)


def churn() -> Iterator[Row]:
    """What is held after two turns on each of 100,000 sessions when 1,000 may stay: through either door."""
    for door, through in (("history", _through_history), ("checkpointer", _through_checkpointer)):
        buffer = SessionBuffer(MemoryStorage(max_sessions=KEPT))
        write = through(buffer)
        tracemalloc.start()
        held: list[int] = []
        for session in range(CHURNED):
            write(f"s{session}", said())
            write(f"s{session}", said())
            if (session + 1) % (CHURNED // 10) == 0:
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        kept = sum(1 for _ in buffer.sessions("alice"))
        if kept != KEPT:
            raise AssertionError(f"{kept:,} sessions are left where max_sessions={KEPT:,}")
        value, base = held[-1], held[0]
        what = f"memory after {CHURNED:,} sessions x 2 turns against the first tenth of them"
        note = f"{kept:,} sessions left, max_sessions={KEPT:,}"
        yield Row(what, f"memory, {door}", size_text(value), size_text(base), value / base, 1.1, note)
