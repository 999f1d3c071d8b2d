"""Runs a storage's sync verbs for event loops, in a few threads of its own; a forked process gets new threads."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

from langchain_ttl_history.errors import StorageError

__all__ = ["Executor"]

T = TypeVar("T")


class Executor:
    """Runs functions in threads, which are started on first use.

    Args:
        count: How many run at once; others wait.
        patience: For how many seconds a function may wait for its turn.
    """

    def __init__(self, count: int, patience: float) -> None:
        self._count = count
        self._patience = patience
        self._executor: ThreadPoolExecutor | None = None
        self._pid = 0
        self._lock = Lock()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in a thread and return its result.

        If the caller is cancelled, a function that has not begun is never run, and one that has begun runs to its end.

        Raises:
            StorageError: Others were not done before its patience ended, or the threads were closed; it was not run.
        """
        asked = time.monotonic()

        def in_time() -> T:
            if time.monotonic() - asked >= self._patience:
                raise StorageError(
                    f"other calls were not done after {self._patience:g} s, so this one was not begun; try again, or "
                    "give SQLiteStorage a larger timeout"
                )
            return function(*arguments)

        try:
            done = asyncio.get_running_loop().run_in_executor(self._started(), in_time)
        except RuntimeError as error:  # Another thread closed them since they were looked up.
            raise StorageError(f"the storage was closed before a call had begun: {error}") from error
        return await done

    def close(self) -> None:
        """Start no more functions; does not wait for those that run."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None and self._pid == os.getpid():
            executor.shutdown(wait=False)

    def _started(self) -> ThreadPoolExecutor:
        is_own = self._pid == os.getpid()
        executor = self._executor  # Looked up once: another thread may close it.
        if executor is None or not is_own:
            if not is_own:
                self._lock = Lock()
            with self._lock:
                executor = self._executor
                if executor is None or self._pid != os.getpid():
                    executor = ThreadPoolExecutor(self._count, thread_name_prefix="ttl-history-sqlite")
                    self._executor, self._pid = executor, os.getpid()
        return executor
