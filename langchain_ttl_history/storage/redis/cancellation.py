"""Cancellations of a task that a driver swallowed.

The drivers send with `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes when the request has
just been sent. The task would go on as if nobody had cancelled it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

__all__ = ["be_cancelled", "cancellations"]

if sys.version_info >= (3, 11):

    def cancellations(task: asyncio.Task[Any] | None) -> int:
        """How many cancellations of a task are pending."""
        return 0 if task is None else task.cancelling()

else:

    def cancellations(task: asyncio.Task[Any] | None) -> int:  # noqa: ARG001  # as above
        """None, since this Python does not count them."""
        return 0


async def be_cancelled() -> None:
    """Raise in place of a driver that did not.

    Raises:
        asyncio.CancelledError: Always.
    """
    # A scope of anyio cancels again at each step, and ends only by an exception that it made itself.
    await asyncio.sleep(0)
    raise asyncio.CancelledError
