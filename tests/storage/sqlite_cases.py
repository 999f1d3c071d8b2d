"""How tests open a SQLite file, and look for text in its bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from langchain_ttl_history.storage import SQLiteStorage

Opens = Callable[..., SQLiteStorage]
"""Opens the same file once more, as another worker does."""


def traces(folder: Path, *words: bytes) -> dict[bytes, int]:
    """How often each word is in any of the files."""
    held = b"".join(path.read_bytes() for path in folder.iterdir())
    return {word: count for word in words if (count := held.count(word))}
