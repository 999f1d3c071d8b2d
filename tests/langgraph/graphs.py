"""Pieces of graphs that several of these tests are made of."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langchain_core.tools import StructuredTool
from langgraph.types import interrupt

from tests.shared.helpers import Session

from .scenarios import plains


class Totals(TypedDict):
    total: Annotated[int, operator.add]
    log: Annotated[list[str], operator.add]


def noting(name: str, total: int = 1) -> Callable[[Any], dict[str, Any]]:
    return lambda state: {"total": total, "log": [name]}


async def states_of(session: Session, graph: Any) -> list[Any]:
    return plains(await session.states(graph))


def _lookup(thing: str) -> str:
    """Look a thing up when a human allows it."""
    return f"{interrupt(f'{thing}?')} facts about {thing}"


async def _alookup(thing: str) -> str:
    return _lookup(thing)


# An async graph would run the sync one in threads, and two calls at once would ask in any order.
lookup = StructuredTool.from_function(_lookup, _alookup, name="lookup")
