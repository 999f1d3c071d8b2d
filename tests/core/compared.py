"""Names that count comparisons, to tell a look-up from a search."""

from __future__ import annotations

from typing import Any

__all__ = ["Compared"]


class Compared(str):
    """A name that counts how often a part of one is compared with something else."""

    __slots__ = ()
    count = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return super().__eq__(other)

    def __getitem__(self, part: Any) -> Compared:
        return Compared(super().__getitem__(part))
