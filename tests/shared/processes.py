"""Other processes, for tests of what several share."""

from __future__ import annotations

import multiprocessing
from typing import Any

__all__ = ["process_context"]

# The modules with the functions that other processes run.
_WORK = ["tests.storage.redis_workers", "tests.storage.test_sqlite_processes"]


def process_context() -> Any:
    """What makes processes: it forks them, where it can, from one that has imported what they run and has no threads.

    To import that takes longer than most of them run.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_WORK)
    return context
