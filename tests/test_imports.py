"""What importing the package brings along, and what it can do without.

Which module may import which is checked by `make layers`.
"""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(program: str) -> str:
    """What a program prints that runs in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["sqlite3", "redis", "valkey", "langgraph.pregel", "langchain", "rich", "typer"])
def test_importing_the_package_does_not_import(module: str) -> None:
    program = f"import sys, langchain_ttl_history, langchain_ttl_history.storage; print({module!r} in sys.modules)"
    assert python(program).strip() == "False"


# What a program begins with that is to find langchain-core as it will be from 2.0 on.
CORE_2 = """
import sys
from importlib.abc import MetaPathFinder

class Gone(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("langchain_core.chat_history", "langchain_core.runnables.history"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Gone())
"""
# The same, where the modules stay, without the classes.
CORE_2_EMPTY = """
import langchain_core.chat_history
del langchain_core.chat_history.BaseChatMessageHistory
"""


def test_the_checkpointer_and_the_buffer_work_when_the_deprecated_classes_are_gone() -> None:
    program = """
from langchain_ttl_history import SessionBuffer
from langgraph.graph import START, MessagesState, StateGraph

buffer = SessionBuffer()
graph = StateGraph(MessagesState).add_node("n", lambda state: {"messages": [("ai", "hello")]}).add_edge(START, "n")
config = buffer.config("ada", "s1")
state = graph.compile(checkpointer=buffer.checkpointer()).invoke({"messages": [("human", "hi")]}, config)
print(len(state["messages"]), buffer.info("ada", "s1").messages, buffer.delete("ada", "s1"))
"""
    assert python(CORE_2 + program).split() == ["2", "2", "True"]


@pytest.mark.parametrize(
    ("asking", "error"),
    [
        ("package.SessionBuffer().history('ada', 's1')", "package.ConfigurationError"),
        ("package.SessionBuffer().get_session_history('s1', user_id='ada')", "package.ConfigurationError"),
        ("from langchain_ttl_history import TTLChatMessageHistory", "ImportError"),
    ],
)
@pytest.mark.parametrize("core", [CORE_2, CORE_2_EMPTY], ids=["modules gone", "classes gone"])
def test_asking_for_a_history_when_the_deprecated_classes_are_gone_says_what_to_do(
    core: str, asking: str, error: str
) -> None:
    program = f"""
import langchain_ttl_history as package

try:
    {asking}
except {error} as error:
    print(error)
"""
    assert "need langchain-core < 2" in python(core + program)
