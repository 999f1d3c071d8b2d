"""What a fork must not find half done: a lock that another thread holds, or a connection of SQLite.

The child has one thread, so that a lock somebody else held would be held for ever, and what it
guards be half changed. Whoever has locks is therefore asked to be still while a process forks.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forkable", "lock", "watch"]


class Forkable(Protocol):
    """Something that can be still while its process forks."""

    def before_fork(self) -> None:
        """Wait until nobody changes it, and let nobody begin."""

    def after_fork(self) -> None:
        """Go on, in the parent and in the child."""


_watched: WeakSet[Forkable] = WeakSet()
_locks: WeakSet[threading.Lock] = WeakSet()
_still: list[Forkable] = []
_held: list[threading.Lock] = []


def lock() -> threading.Lock:
    """A lock that nobody holds on either side of a fork; who holds it takes no other."""
    made = threading.Lock()
    _locks.add(made)
    return made


def watch(what: Forkable) -> None:
    """Ask this before each fork, for as long as it lives, and before any `lock` is taken, which it may take itself."""
    _watched.add(what)


def _before() -> None:
    for each in list(_watched):
        each.before_fork()
        _still.append(each)
    for made in list(_locks):
        made.acquire()
        _held.append(made)


def _after() -> None:
    while _held:
        _held.pop().release()
    while _still:
        _still.pop().after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
