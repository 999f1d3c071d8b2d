"""Makes `os.fork` safe: no lock is held, and no SQLite connection is in use, at the moment a process forks.

A child has only the thread that forked. A lock that another thread held would stay locked in it for
ever, and what that lock guards would be half changed. So before a fork every `Forkable` is paused and
every lock acquired, and both are released after it, in the parent and in the child.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forkable", "lock", "watch"]


class Forkable(Protocol):
    """Something that can pause while its process forks."""

    def before_fork(self) -> None:
        """Wait until no operation is under way, and let none begin."""

    def after_fork(self) -> None:
        """Resume, in the parent and in the child, even if `before_fork` was interrupted."""


_watched: WeakSet[Forkable] = WeakSet()
_locks: WeakSet[threading.Lock] = WeakSet()
_still: list[Forkable] = []
_held: list[threading.Lock] = []
# Held while one of the sets changes, and during a fork: iterating over a set that changes raises, and a process forks
# even if a function registered to run before the fork raised.
_changing = threading.Lock()


def lock() -> threading.Lock:
    """A lock that no thread holds when a process forks.

    Whoever holds it must not take another one: forking acquires all of them, in no particular order.
    """
    made = threading.Lock()
    with _changing:
        _locks.add(made)
    return made


def watch(what: Forkable) -> None:
    """Pause this object at each fork, for as long as it lives.

    It is paused before any `lock` is acquired, so its `before_fork` may still take one.
    """
    with _changing:
        _watched.add(what)


def _before() -> None:
    with _changing:
        watched = list(_watched)
    failure: BaseException | None = None
    for each in watched:
        _still.append(each)
        try:
            each.before_fork()
        except BaseException as error:  # noqa: BLE001  # such as Ctrl-C while it waits; the process forks all the same
            failure = error
    _changing.acquire()
    _held.append(_changing)
    for made in list(_locks):
        made.acquire()
        _held.append(made)
    if failure is not None:
        raise failure


def _after() -> None:
    while _held:
        _held.pop().release()
    while _still:
        _still.pop().after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
