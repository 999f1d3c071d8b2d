"""Pieces of graphs that several of these tests are made of."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langchain_core.tools import StructuredTool
from langgraph.types import interrupt


class Totals(TypedDict):
    total: Annotated[int, operator.add]
    log: Annotated[list[str], operator.add]


def noting(name: str, total: int = 1) -> Callable[[Any], dict[str, Any]]:
    return lambda state: {"total": total, "log": [name]}


def _lookup(thing: str) -> str:
    """Look a thing up when a human allows it."""
    return f"{interrupt(f'{thing}?')} facts about {thing}"


async def _alookup(thing: str) -> str:
    return _lookup(thing)


# An async graph would run the sync one in threads, and two calls at once would ask in any order.
lookup = StructuredTool.from_function(_lookup, _alookup, name="lookup")
