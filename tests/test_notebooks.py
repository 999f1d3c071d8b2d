"""The notebooks of examples/ run without a key, and print what was committed with them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import EXAMPLES, NOTEBOOKS, outputs, run

TOLD_OF = {
    "quickstart",
    "users_and_sessions",
    "time_travel",
    "human_approval",
    "many_workers",
    "from_message_history_to_agent",
}


def name(path: Path) -> str:
    return path.stem


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Skips where there is no server for the notebook that starts one."""

    def needs(path: Path) -> None:
        if path.stem == "many_workers":
            monkeypatch.syspath_prepend(EXAMPLES)
            if importlib.import_module("local_redis").binary() is None:
                pytest.skip("no redis-server or valkey-server is installed")

    return needs


def test_every_notebook_is_there() -> None:
    assert {path.stem for path in NOTEBOOKS} == TOLD_OF


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_prints_what_was_committed_with_it(path: Path, needs: Callable[[Path], None]) -> None:
    needs(path)
    assert outputs(run(path)) == outputs(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_was_committed_as_run_from_top_to_bottom(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert {output.name for cell in cells for output in cell.outputs if output.output_type == "stream"} <= {"stdout"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_tells_nothing_of_the_machine_it_ran_on(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.<])/(tmp|home|root|usr|var|work|opt|private|Users)/", text)
    assert not re.search(r"0x[0-9a-f]{6,}", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_is_a_story(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert sum(cell.cell_type == "markdown" for cell in cells) >= 6


def test_what_differs_between_runs_is_the_only_thing_overlooked(tmp_path: Path) -> None:
    def printed(text: str) -> object:
        output = nbformat.v4.new_output("stream", name="stdout", text=text)
        return outputs(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])]))

    assert printed("at 2026-11-24 10:00:00, 1.5 s left") == printed("at 2027-01-01 00:00:01, 0.9 s left")
    assert printed("(sessions=3, bytes=37829)") == printed("(sessions=3, bytes=37805)")
    assert printed("(sessions=3, bytes=37829)") != printed("(sessions=4, bytes=37829)")
    assert printed("2 messages") != printed("3 messages")
