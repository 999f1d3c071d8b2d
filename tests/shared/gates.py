"""A place in a program under test at which one turn stops until another has come so far."""

from __future__ import annotations

import asyncio
import threading

PATIENCE = 60.0
"""Seconds after which a test that waits for another turn gives up."""


class Gate:
    """A point where a running turn stops until the test lets it go on; made inside a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._released = asyncio.Event()
        self._released_for_threads = threading.Event()

    async def reached(self) -> None:
        """Return when a turn stands at the gate."""
        await asyncio.wait_for(self._reached.wait(), PATIENCE)

    def release(self) -> None:
        self._released_for_threads.set()
        self._released.set()

    def stop(self) -> None:
        """Stand at the gate, in a thread."""
        self._loop.call_soon_threadsafe(self._reached.set)
        if not self._released_for_threads.wait(PATIENCE):
            raise TimeoutError("nobody released the gate")

    async def astop(self) -> None:
        """Stand at the gate, in the loop."""
        self._reached.set()
        await asyncio.wait_for(self._released.wait(), PATIENCE)
