"""Runs the Python of a Markdown page: its blocks, top to bottom, are one program.

It needs nothing but Python, so that it can also run where only the package is installed:
`python -I tests/blocks.py README.md`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    body: str
    line: int
    """The line of the page its body begins on."""


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            match["language"],
            re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE),
            text.count("\n", 0, match.start("body")) + 1,
        )
        for match in _FENCE.finditer(text)
    ]


def run(page: Path) -> str:
    """Run the Python blocks of a page and compare what they print with what the page shows.

    A block may await. A `text` block right behind a Python block shows what that one prints.

    Raises:
        AssertionError: A block printed something else than the page shows.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    printed: str | None = None
    everything = ""
    for block in blocks_of(page):
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                _execute(block, page, names)
            printed = out.getvalue()
            everything += printed
            continue
        if block.language == "text" and printed is not None:
            shown = block.body
            assert printed == shown, f"{page}:{block.line} shows\n{shown}\nbut the block before it prints\n{printed}"
        printed = None
    return everything


def _execute(block: Block, page: Path, names: dict[str, Any]) -> None:
    # The blank lines make a traceback name the line of the page.
    source = "\n" * (block.line - 1) + block.body
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, names)  # the pages are the project's own
    if inspect.iscoroutine(result):
        asyncio.run(result)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        sys.stdout.write(run(Path(argument)))
