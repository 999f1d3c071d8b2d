"""The README does what it says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.blocks import blocks_of, run

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def test_the_readme_runs_and_prints_what_it_shows() -> None:
    assert run(README)


def test_the_readme_shows_what_its_code_prints() -> None:
    assert [block.language for block in blocks_of(README)].count("text") == 1


def test_the_readme_is_about_one_screen() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 100


def test_the_readme_needs_about_twenty_lines_of_code() -> None:
    code = "".join(block.body for block in blocks_of(README) if block.language == "python")
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 22


def test_every_file_the_readme_links_to_exists() -> None:
    linked = re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text("utf-8"))
    assert len(linked) > 10
    assert [each for each in linked if not (ROOT / each).exists()] == []


def test_every_make_target_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", README.read_text("utf-8"), re.MULTILINE))
    assert named
    assert named <= targets
