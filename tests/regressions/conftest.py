"""The fixtures of the promises."""

from tests.promises.conftest import buffer, case, clock, colour, open_buffer, session, session_with, storage

__all__ = [
    "buffer",
    "case",
    "clock",
    "colour",
    "open_buffer",
    "session",
    "session_with",
    "storage",
]
