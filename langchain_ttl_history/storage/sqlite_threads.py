"""A few threads of a storage's own, in which its verbs run for event loops; a forked process gets new ones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """Runs functions beside event loops, so many at once; starts when it is first used."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._executor: ThreadPoolExecutor | None = None
        self._pid = 0
        self._lock = Lock()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function gives, run in a thread.

        A caller that is cancelled leaves one that has not begun undone, and one that has whole.
        """
        return await asyncio.get_running_loop().run_in_executor(self._started(), function, *arguments)

    def close(self) -> None:
        """Start no more; what runs is not waited for."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None and self._pid == os.getpid():
            executor.shutdown(wait=False)

    def _started(self) -> ThreadPoolExecutor:
        if self._executor is None or self._pid != os.getpid():
            if self._pid != os.getpid():
                self._lock = Lock()
            with self._lock:
                if self._executor is None or self._pid != os.getpid():
                    self._executor = ThreadPoolExecutor(self._count, thread_name_prefix="ttl-history-sqlite")
                    self._pid = os.getpid()
        return self._executor
