"""Runs the notebooks of `examples/`: the tests compare, `make notebooks` keeps what they print.

`python -m tests.notebooks [NAME...]` rewrites them in place, with their new outputs.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

# What differs from run to run, and what it is shown as when runs are compared.
_VARIES = [
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?"), "<time>"),
    (re.compile(r"datetime\.datetime\([\d, ]+, tz"), "<time>"),
    (re.compile(r"127\.0\.0\.1:\d+|localhost:\d+"), "<address>"),
    # The time left, and the part of it.
    (re.compile(r"\d\.\d s left"), "<left>"),
    (re.compile(r"<b>\d+ (s|min|h|d)( \d+ (s|min|h))?</b>"), "<left>"),
    (re.compile(r"ttlh-bar( ttlh-low)?\"><span style=\"width:\d+%"), "<bar>"),
    # Some records hold times, whose length varies with their value, and what memory counts for a graph's writes varies
    # with the order in which its threads store them. First the one that a number and a comma may stand before.
    (re.compile(r"bytes=\d+"), "<size>"),
    (re.compile(r"[\d,.]+ ([KM]iB|bytes)\b"), "<size>"),
]


def run(path: Path) -> Any:
    """The notebook with the outputs of a fresh run.

    Raises:
        CellExecutionError: A cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    client = NotebookClient(
        notebook,
        timeout=300,
        startup_timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        # Else the kernel warns that others on this machine could listen to it.
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute()
    # The version of Python it ran on is nobody's concern.
    notebook.metadata.pop("language_info", None)
    return notebook


def outputs(notebook: Any) -> list[list[Any]]:
    """What each code cell put out, without what differs from run to run."""
    return [[_shown(each) for each in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def _shown(output: Any) -> Any:
    kept = output.get("data") or {output.get("name", "stdout"): output.get("text", "")}
    return {kind: _steady("".join(text)) for kind, text in kept.items()}


def _steady(text: str) -> str:
    for pattern, name in _VARIES:
        text = pattern.sub(name, text)
    return text


def main(names: list[str]) -> None:
    """Run and rewrite the notebooks of these names, or all."""
    for path in NOTEBOOKS:
        if names and path.stem not in names:
            continue
        began = time.perf_counter()
        notebook = run(path)
        nbformat.write(notebook, path)
        print(f"{path.stem}: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
