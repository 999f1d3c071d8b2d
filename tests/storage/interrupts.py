"""Calls that a signal's exception ends at a step of one's choice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["interrupted"]

# Where Python looks for signals: at the begin of a function and behind each call. Never between a lock and the block
# that it guards.
_STEPS = {"call", "return", "c_return"}


def interrupted(call: Callable[[], object], step: int, *files: str) -> bool:
    """Make a call, and interrupt it at this step within these files; False if it has not so many."""
    left = step

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal left
        if event in _STEPS and Path(frame.f_code.co_filename).name in files:
            left -= 1
            if left == -1:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(look)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False
