"""Checkpoints made by hand, for tests that call a checkpointer themselves."""

from __future__ import annotations

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint


def checkpoint(*messages: BaseMessage, version: int = 1) -> Checkpoint:
    """A new checkpoint with this conversation."""
    made = empty_checkpoint()
    made["channel_values"] = {"messages": [*messages]}
    made["channel_versions"] = {"messages": version}
    return made
