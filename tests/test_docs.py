"""The pages under docs/ do what they say, and say what each part of the first version became."""

from __future__ import annotations

import importlib
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.blocks import blocks_of, run

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_every_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for the files it makes
    with ExitStack() as servers:
        if "REDIS_URL" in page.read_text("utf-8"):
            monkeypatch.syspath_prepend(ROOT / "examples")
            local_redis = importlib.import_module("local_redis")
            if local_redis.binary() is None:
                pytest.skip("no redis-server or valkey-server is installed")
            monkeypatch.setenv("REDIS_URL", servers.enter_context(local_redis.local_redis()))
        run(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_code_that_is_not_run(page: Path) -> None:
    assert {block.language for block in blocks_of(page)} <= {"python", "text", "bash"}


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert PAGES
    for page in PAGES:
        assert str(page.relative_to(ROOT / "docs")) in navigation


def test_the_page_on_the_architecture_names_every_module() -> None:
    package = ROOT / "langchain_ttl_history"
    public = {"cli", "testing"}
    modules = {path.stem for path in package.rglob("*.py") if path.parent.name not in public} - {"__init__"}
    spans = re.findall(r"```.*?```|`.+?`", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.DOTALL)
    named = {word for span in spans for word in re.findall(r"\w+", span)}
    assert len(modules) > 50
    assert modules - named == set()


@pytest.mark.parametrize(
    "capability",
    [
        "get",
        "set",
        "clear",
        "append_system_message",
        "ContextualBufferProxy",
        "session_buffer",
        "SESSION_TTL_SECONDS",
        "MAX_MESSAGES_PER_SESSION",
    ],
)
def test_the_page_about_the_seed_says_what_each_capability_became(capability: str) -> None:
    page = (ROOT / "docs" / "from-the-seed.md").read_text("utf-8")
    assert re.search(rf"^\| `{capability}\b[^|]*\|[^|]*`", page, re.MULTILINE)


def test_a_block_that_prints_something_else_than_its_page_shows_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:6 shows"):
        run(page)


def test_blocks_of_a_page_share_their_names_and_may_await(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport asyncio\nx = 1\n```\n\n  ```python\n  await asyncio.sleep(0)\n  print(x)\n  ```\n"
    )
    assert run(page) == "1\n"
