"""The same scripted run on LangGraph's own saver and on ours, compared note by note."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import StateSnapshot

from tests.shared.chats import texts
from tests.shared.sessions import Session

Scenario = Callable[[Session, Any, list[Any]], Awaitable[None]]


def plain_value(value: Any) -> Any:
    """A channel's value without ids."""
    if isinstance(value, BaseMessage):
        return texts([value])[0]
    if isinstance(value, dict):
        return {name: plain_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(each) for each in value]
    return value


def plain(snapshot: Any) -> dict[str, Any]:
    """A snapshot as far as two savers must agree on it."""
    return {
        "values": plain_value(snapshot.values),
        "next": snapshot.next,
        "tasks": [
            (
                task.name,
                repr(task.error),
                [each.value for each in task.interrupts],
                plain_value(task.result),
                plain(task.state) if isinstance(task.state, StateSnapshot) else None,
            )
            for task in snapshot.tasks
        ],
        "interrupts": sorted(str(each.value) for each in snapshot.interrupts),
        "source": (snapshot.metadata or {}).get("source"),
        "step": (snapshot.metadata or {}).get("step"),
        "has_parent": snapshot.parent_config is not None,
    }


def plains(snapshots: Iterable[Any]) -> list[dict[str, Any]]:
    return [plain(snapshot) for snapshot in snapshots]


async def states_of(session: Session, graph: Any) -> list[dict[str, Any]]:
    return plains(await session.states(graph))


async def same_on_both(session: Session, scenario: Scenario, *, bound: bool = False) -> list[Any]:
    """Run the scenario on both savers; its notes must be equal. Returns them."""
    reference: list[Any] = []
    await scenario(session, InMemorySaver(), reference)
    assert reference, "the scenario noted nothing"
    ours: list[Any] = []
    await scenario(session, session.buffer.checkpointer(user_id=session.user_id if bound else None), ours)
    assert len(ours) == len(reference)
    for number, (expected, actual) in enumerate(zip(reference, ours, strict=True)):
        assert actual == expected, f"note {number}"
    return ours
