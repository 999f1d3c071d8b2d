"""Lets the sync connections that are made from a URL send each command in one piece.

The drivers send a command of more than some 6,000 bytes in several. Between two of them Python may run other threads,
for some milliseconds, while the server waits for the rest:

```text
 a put takes along what a read planned to free    its first piece is sent
 meanwhile a task's writes are sent and stored
 the rest of the put is sent                      too late: the session is not where the plan expects it any more
```
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

__all__ = ["in_one_piece"]

# From what length on an argument is not copied for each one that follows it, as the drivers have it.
_LONG = 6000
# Longer commands, such as a change that brings in a whole conversation, are not copied once more.
_MOST = 1 << 20
# The parsers in C that the drivers use where they are installed. These pack a command into one piece by themselves.
_PARSERS = {"redis": "HIREDIS_AVAILABLE", "valkey": "LIBVALKEY_AVAILABLE"}


def in_one_piece(library: str, pool: Any) -> Any:
    """A driver's pool that has no connections yet, whose connections will send commands in one piece."""
    if not getattr(import_module(f"{library}.utils"), _PARSERS[library]):
        packer = import_module(f"{library}.connection").PythonRespSerializer(_LONG, pool.get_encoder().encode)
        pool.connection_kwargs["command_packer"] = _OnePiece(packer)
    return pool


class _OnePiece:
    """Packs commands for connections.

    Args:
        packer: The driver's own.
    """

    def __init__(self, packer: Any) -> None:
        self._packer = packer

    def pack(self, *arguments: Any) -> Sequence[bytes]:
        """The pieces in which a command is sent."""
        pieces: list[bytes] = self._packer.pack(*arguments)
        return [b"".join(pieces)] if sum(map(len, pieces)) <= _MOST else pieces
