"""The public names, their async twins, and the error tree."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
from langchain_core.chat_history import BaseChatMessageHistory
from langgraph.checkpoint.base import BaseCheckpointSaver

import langchain_ttl_history as package
from langchain_ttl_history import storage

ROOT = Path(__file__).parents[1]

NAMES = {
    "ConfigurationError",
    "CorruptRecordError",
    "MissingUserError",
    "Retention",
    "SessionBuffer",
    "SessionDeletedError",
    "SessionInfo",
    "StorageError",
    "TTLChatMessageHistory",
    "TTLCheckpointSaver",
    "TTLHistoryError",
    "TypeNotAllowedError",
    "default_buffer",
}

EXTRAS = {
    "cli": {"rich", "typer"},
    "redis": {"redis"},
    "valkey": {"valkey"},
}

TWINS = {
    package.SessionBuffer: ["sessions", "info", "delete", "forget", "set_idle_ttl", "stats", "sweep", "close"],
    package.TTLChatMessageHistory: ["add_messages", "add_system_message", "clear"],
    package.TTLCheckpointSaver: [
        "copy_thread",
        "delete_for_runs",
        "delete_thread",
        "get",
        "get_delta_channel_history",
        "get_tuple",
        "list",
        "prune",
        "put",
        "put_writes",
    ],
}


def parameters(method: object) -> list[tuple[str, object, object]]:
    """The names, kinds and defaults of a method's parameters."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]


def test_every_public_name_is_exported() -> None:
    assert set(package.__all__) == NAMES
    assert all(hasattr(package, name) for name in NAMES)
    assert {"MemoryStorage", "SQLiteStorage"} <= set(storage.__all__)
    assert all(hasattr(storage, name) for name in storage.__all__)


@pytest.mark.parametrize(
    ("owner", "name"),
    [pytest.param(owner, name, id=f"{owner.__name__}.{name}") for owner, names in TWINS.items() for name in names],
)
def test_every_method_has_an_async_twin_of_the_same_signature(owner: type, name: str) -> None:
    method, twin = getattr(owner, name), getattr(owner, f"a{name}")
    assert parameters(method) == parameters(twin)
    assert inspect.iscoroutinefunction(twin) or inspect.signature(twin).return_annotation.startswith("AsyncIterator[")
    assert not inspect.iscoroutinefunction(method)


@pytest.mark.parametrize("owner", TWINS, ids=lambda owner: owner.__name__)
def test_the_methods_of_a_class_are_this_packages_in_both_colours(owner: type) -> None:
    others = [name for name in TWINS[owner] for each in (name, f"a{name}") if not is_ours(owner, each)]
    assert set(others) <= {"get"}  # BaseCheckpointSaver makes it of get_tuple


def is_ours(owner: type, name: str) -> bool:
    """Whether a class of this package defines the method, and not one of LangChain's or LangGraph's."""
    definer = next(cls for cls in owner.__mro__ if name in vars(cls))
    return definer.__module__.startswith("langchain_ttl_history.")


def test_the_history_reads_in_both_colours() -> None:
    assert isinstance(inspect.getattr_static(package.TTLChatMessageHistory, "messages"), property)
    assert inspect.iscoroutinefunction(package.TTLChatMessageHistory.aget_messages)


def test_the_buffer_is_a_context_manager_in_both_colours() -> None:
    for name in ("__enter__", "__exit__", "__aenter__", "__aexit__"):
        assert hasattr(package.SessionBuffer, name)


def test_the_doors_are_what_langchain_and_langgraph_take() -> None:
    assert issubclass(package.TTLChatMessageHistory, BaseChatMessageHistory)
    assert issubclass(package.TTLCheckpointSaver, BaseCheckpointSaver)


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (package.TTLHistoryError, Exception),
        (package.ConfigurationError, package.TTLHistoryError),
        (package.ConfigurationError, ValueError),
        (package.MissingUserError, package.TTLHistoryError),
        (package.StorageError, package.TTLHistoryError),
        (package.CorruptRecordError, package.TTLHistoryError),
        (package.TypeNotAllowedError, package.TTLHistoryError),
        (package.SessionDeletedError, package.TTLHistoryError),
    ],
)
def test_errors_form_one_tree(error: type[Exception], parent: type[Exception]) -> None:
    assert issubclass(error, parent)


def test_every_public_name_has_a_docstring() -> None:
    public = [getattr(package, name) for name in NAMES]
    methods = [getattr(owner, twin) for owner, names in TWINS.items() for name in names for twin in (name, f"a{name}")]
    assert [each.__qualname__ for each in public + methods if not inspect.getdoc(each)] == []


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(package.__file__).parent / "py.typed").exists()


def test_the_plain_install_needs_little() -> None:
    needed = [
        each for each in metadata("langchain-ttl-history").get_all("Requires-Dist") or [] if "extra ==" not in each
    ]
    names = {re.split(r"[^\w-]", each)[0] for each in needed}
    assert names == {"langchain-core", "langgraph-checkpoint", "ormsgpack"}


def test_an_extra_adds_its_own_package_alone() -> None:
    package = metadata("langchain-ttl-history")
    extras: dict[str, set[str]] = {name: set() for name in package.get_all("Provides-Extra") or []}
    for each in package.get_all("Requires-Dist") or []:
        extra = re.search(r"extra == ['\"](.+?)['\"]", each)
        if extra:
            extras[extra[1]].add(re.split(r"[^\w-]", each)[0])
    assert extras == EXTRAS


def test_the_metadata_says_what_a_package_index_asks_for() -> None:
    package = metadata("langchain-ttl-history")
    assert package["License-Expression"] == "MIT"
    assert package["License-File"] == "LICENSE"
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert package["Summary"]
    assert package["Requires-Python"] == ">=3.10"
    assert package["Description-Content-Type"] == "text/markdown"
    classifiers = package.get_all("Classifier") or []
    for minor in (10, 11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert "Typing :: Typed" in classifiers


def test_the_changelog_knows_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert headings[0] in {"Unreleased", version("langchain-ttl-history")}
    assert released[:1] in ([], [version("langchain-ttl-history")])


def test_the_storage_contract_says_what_it_found_and_is_never_left_out() -> None:
    for name in ("cases", "contents", "contract", "lives"):
        assert "@pytest_ar" in vars(importlib.import_module(f"langchain_ttl_history.testing.{name}")), "a bare assert"
    done = subprocess.run(
        [sys.executable, "-O", "-c", "import langchain_ttl_history.testing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is tested by asserts, which Python leaves out with -O" in done.stderr


def test_importing_the_package_warns_of_nothing() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", "import langchain_ttl_history"], check=True)


def _guessed(source: str) -> Iterator[str]:
    """The public attributes of public classes whose type a checker would have to guess from what is assigned."""
    for cls in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)):
        if cls.name.startswith("_"):
            continue
        inside = [*ast.walk(cls)]
        typed = {ast.unparse(node.target) for node in inside if isinstance(node, ast.AnnAssign)}
        given = {node.arg for node in inside if isinstance(node, ast.arg)}
        for node in inside:
            if not isinstance(node, ast.Assign) or (isinstance(node.value, ast.Name) and node.value.id in given):
                continue
            targets = ", ".join(map(ast.unparse, node.targets))
            for each in targets.split(", "):
                name = each.strip("()")
                if re.fullmatch(r"self\.[a-z]\w*", name) and not {name, name.removeprefix("self.")} & typed:
                    yield f"{cls.name}{name.removeprefix('self')}"


def test_no_type_of_a_public_attribute_is_left_to_guess() -> None:
    modules = sorted((ROOT / "langchain_ttl_history").rglob("*.py"))
    assert [each for module in modules for each in _guessed(module.read_text("utf-8"))] == []
