"""The recorded conversations, as scripts."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from tests.replay.script import Conversation, Step, Turn

FILE = Path(__file__).parents[3] / "shared" / "data" / "airline_agent_conversations.jsonl"


@cache
def recordings() -> list[Conversation]:
    """All recorded conversations up to their last complete turn."""
    with FILE.open(encoding="utf-8") as lines:
        return [conversation(json.loads(line)) for line in lines]


def conversation(record: dict[str, Any]) -> Conversation:
    """One record as a script; a last turn in which the model did not come to answer is left out."""
    system, *rest = record["messages"]
    if system["role"] != "system":
        raise ValueError(f"a recording begins with its system message, not with {system['role']!r}")
    turns: list[Turn] = []
    for said in rest:
        if said["role"] == "user":
            turns.append(Turn(HumanMessage(said["content"]), ()))
        elif said["role"] == "assistant":
            turns[-1] = _with(turns[-1], Step(_answer(said)))
        else:
            *earlier, last = turns[-1].steps
            result = ToolMessage(said["content"], tool_call_id=said["tool_call_id"], name=said["name"])
            turns[-1] = Turn(turns[-1].human, (*earlier, Step(last.answer, (*last.results, result))))
    while turns and not _complete(turns[-1]):
        turns.pop()
    return Conversation(f"task {record['task_id']} trial {record['trial']}", system["content"], tuple(turns))


def _with(turn: Turn, step: Step) -> Turn:
    return Turn(turn.human, (*turn.steps, step))


def _complete(turn: Turn) -> bool:
    return bool(turn.steps) and not turn.steps[-1].answer.tool_calls


def _answer(said: dict[str, Any]) -> AIMessage:
    calls = said.get("tool_calls") or []
    return AIMessage(
        said["content"] or "",
        tool_calls=[
            {
                "type": "tool_call",
                "id": call["id"],
                "name": call["function"]["name"],
                "args": json.loads(call["function"]["arguments"]),
            }
            for call in calls
        ],
    )
