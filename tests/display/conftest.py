"""One session that has everything a picture of a session must cope with."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.testing import Clock

HOSTILE = (
    "<script>document.documentElement.dataset.ran = 1</script><img src=x onerror='document.title = 1'> & \"quoted\""
)


@pytest.fixture
def buffer(clock: Clock) -> SessionBuffer:
    """Alice's session `support`, cut to its second turn."""
    buffer = SessionBuffer(MemoryStorage(clock=clock), retention=Retention(max_messages=8))
    history = buffer.history("alice", "support")
    history.add_messages(
        [
            HumanMessage("The first question"),
            AIMessage("", tool_calls=[{"name": "first_tool", "args": {}, "id": "0"}]),
            ToolMessage("The first result", tool_call_id="0"),
            HumanMessage(f"The second question {HOSTILE}"),
            AIMessage(
                "Let me look.",
                tool_calls=[
                    {"name": "weather", "args": {"city": "Rome"}, "id": "1"},
                    {"name": "weather", "args": {"city": "<b>Oslo</b>"}, "id": "2"},
                ],
            ),
            ToolMessage("Rain in Oslo", tool_call_id="2", status="error"),
            ToolMessage("Sun in Rome", tool_call_id="1", artifact=["a map"]),
            AIMessage("A long answer begins. " + "And so on. " * 200 + "The long answer ends."),
        ]
    )
    history.add_system_message("The user opened billing.")
    return buffer
