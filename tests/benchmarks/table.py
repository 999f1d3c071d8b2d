"""Results as rows of one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One comparison: ``value`` over ``base`` is ``ratio``, which should stay within ``bound`` when there is one."""

    what: str
    who: str
    value: str
    base: str
    ratio: float
    bound: float | None = None
    note: str = ""

    @property
    def over(self) -> bool:
        """Whether the ratio is over its bound."""
        return self.bound is not None and self.ratio > self.bound

    def verdict(self) -> str:
        """The bound, and whether it holds."""
        if self.bound is None:
            return ""
        return f"OVER {self.bound:g}x" if self.over else f"within {self.bound:g}x"


def show(title: str, rows: Iterable[Row]) -> None:
    """Print the rows."""
    table = Table(title=title, title_justify="left")
    for column in ("what", "who", "measured", "against", "ratio", "bound", "note"):
        table.add_column(column, justify="right" if column in ("measured", "against", "ratio") else "left")
    for row in rows:
        style = "bold red" if row.over else ""
        table.add_row(
            row.what,
            row.who,
            row.value,
            row.base,
            f"{row.ratio:.2f}x",
            row.verdict(),
            row.note,
            style=style,
        )
    Console(width=150).print(table)
