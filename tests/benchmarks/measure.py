"""Clocks and medians."""

from __future__ import annotations

import functools
import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
PIECES = 10
METHODS = ("get_tuple", "put", "put_writes")


class Meter:
    """The CPU seconds spent inside a checkpointer's methods, in whichever threads they are called."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        self._spent = dict.fromkeys(METHODS, 0.0)
        self._lock = threading.Lock()
        for name in METHODS:
            setattr(saver, name, self._timed(name, getattr(saver, name)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                spent = time.thread_time() - started
                with self._lock:
                    self._spent[name] += spent

        return timed

    def read(self) -> dict[str, float]:
        """The seconds by method since the last reading."""
        with self._lock:
            spent, self._spent = self._spent, dict.fromkeys(METHODS, 0.0)
        return spent


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the collector from running by itself, which would fall on whoever happens to be measured.

    Who runs a graph in here calls `tidy` in between: the cycles that a run leaves behind would
    otherwise never be freed, and what is measured were mostly the cost of touching new memory.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def tidy() -> None:
    """Free the young garbage, outside what is measured."""
    gc.collect(1)


def in_turn(names: Iterable[str], number: int) -> list[str]:
    """The contenders in the order of a round, of which every other one is backwards.

    Each runs a whole session before the next does: no process switches between two checkpointers at every turn, and
    what that does to the processor's caches is no cost of either.
    """
    return [*names][:: -1 if number % 2 else 1]


def side_by_side(works: Mapping[str, Callable[[], object]], times: int) -> dict[str, float]:
    """The median over the rounds of the CPU seconds one call of each work takes in this thread.

    The works take turns in small pieces, so that what else the machine does meets them all alike.
    """
    rounds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        spent = dict.fromkeys(works, 0.0)
        with quiet():
            for _ in range(PIECES):
                for name, work in works.items():
                    started = time.thread_time()
                    for _ in range(times):
                        work()
                    spent[name] += time.thread_time() - started
        for name, seconds in spent.items():
            rounds[name].append(seconds / PIECES / times)
    return {name: median(seconds) for name, seconds in rounds.items()}


def time_text(seconds: float) -> str:
    """Seconds as a short text."""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def size_text(size: float) -> str:
    """Bytes as a short text."""
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
