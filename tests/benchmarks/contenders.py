"""What is measured: checkpointers by name, ours and those of others. Add an entry to measure one more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from langchain_ttl_history import SessionBuffer

PEER = "InMemorySaver"
"""The contender that all others are compared with."""


@dataclass(frozen=True)
class Contender:
    """A checkpointer, and how many bytes it holds for the session of a name."""

    saver: BaseCheckpointSaver[Any]
    held: Callable[[str], int]

    def config(self, session: str) -> Any:
        """The config of this session, the same for every contender."""
        return {"configurable": {"user_id": "alice", "session_id": session, "thread_id": session}}


def _buffer(buffer: SessionBuffer) -> Contender:
    def held(session: str) -> int:
        info = buffer.info("alice", session)
        return info.bytes if info else 0

    return Contender(buffer.checkpointer(), held)


def _in_memory_saver() -> Contender:
    saver = InMemorySaver()

    def held(session: str) -> int:
        blobs = sum(len(blob[1]) for key, blob in saver.blobs.items() if key[0] == session)
        checkpoints = sum(
            len(checkpoint[1]) + len(metadata[1])
            for namespace in saver.storage[session].values()
            for checkpoint, metadata, _ in namespace.values()
        )
        writes = [write for key, writes in saver.writes.items() if key[0] == session for write in writes.values()]
        return blobs + checkpoints + sum(len(value[1]) for _, _, value, _ in writes)

    return Contender(saver, held)


CONTENDERS: dict[str, Callable[[], Contender]] = {
    PEER: _in_memory_saver,
    "memory": lambda: _buffer(SessionBuffer()),
}


def ours() -> dict[str, Callable[[], Contender]]:
    """Every contender but the peer."""
    return {name: make for name, make in CONTENDERS.items() if name != PEER}
