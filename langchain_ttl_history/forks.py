"""What a fork must not find half done: a lock that another thread holds, or a connection of SQLite.

The child has one thread, so that a lock somebody else held would be held for ever, and what it
guards be half changed. Whoever has locks is therefore asked to be still while a process forks.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forkable", "watch"]


class Forkable(Protocol):
    """Something that can be still while its process forks."""

    def before_fork(self) -> None:
        """Wait until nobody changes it, and let nobody begin."""

    def after_fork(self) -> None:
        """Go on, in the parent and in the child."""


_first: WeakSet[Forkable] = WeakSet()
_watched: WeakSet[Forkable] = WeakSet()
_still: list[Forkable] = []


def watch(what: Forkable, *, first: bool = False) -> None:
    """Ask this before each fork, for as long as it lives.

    Args:
        what: Whom to ask.
        first: Whether it may hold its lock while it takes those of others, which are then asked after it.
    """
    (_first if first else _watched).add(what)


def _before() -> None:
    for each in [*_first, *_watched]:
        each.before_fork()
        _still.append(each)


def _after() -> None:
    while _still:
        _still.pop().after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
