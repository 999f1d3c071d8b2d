"""What Windows and macOS do otherwise, as far as it can be seen on another system."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote

import pytest

from langchain_ttl_history import Retention, SessionBuffer, session_info
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite import opening
from langchain_ttl_history.storage.sqlite.opening import open_connection

SPAWNED = """
import dataclasses, multiprocessing, sys
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langchain_ttl_history import SessionBuffer

@dataclasses.dataclass
class Note:
    text: str

class Remark(HumanMessage):
    pass

class State(MessagesState):
    notes: list[Note]

def turn(url, name):
    with SessionBuffer(url, allow_types=[Note, Remark]) as buffer:
        graph = StateGraph(State).add_node("n", lambda state: {"messages": [Remark(name)]}).add_edge(START, "n")
        agent, config = graph.compile(checkpointer=buffer.checkpointer()), buffer.config("ada", "s1")
        held = agent.get_state(config).values.get("notes", [])
        state = agent.invoke({"messages": [], "notes": [*held, Note(name)]}, config)
        print(*[f"{type(each).__name__} {each.content}" for each in state["messages"]], *state["notes"], flush=True)

if __name__ == "__main__":
    turn(sys.argv[1], "here")
    spawned = multiprocessing.get_context("spawn").Process(target=turn, args=(sys.argv[1], "there"))
    spawned.start()
    spawned.join()
    turn(sys.argv[1], "again")
"""


def test_a_spawned_process_and_its_parent_read_the_types_of_the_main_module_that_the_other_stored(
    tmp_path: Path,
) -> None:
    script = tmp_path / "main.py"
    script.write_text(SPAWNED, encoding="utf-8")
    command = [sys.executable, str(script), f"sqlite:///{tmp_path}/s.db"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "Remark here Note(text='here')",
        "Remark here Remark there Note(text='here') Note(text='there')",
        "Remark here Remark there Remark again Note(text='here') Note(text='there') Note(text='again')",
    ], done.stderr


WITHOUT_FORK = """
import os, sys, time
for name in ("fork", "register_at_fork", "getuid", "geteuid", "getpgid", "setsid"):
    vars(os).pop(name, None)
for name in ("clock_gettime", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
    vars(time).pop(name, None)
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
import asyncio
from langchain_core.messages import HumanMessage
from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.storage import redis

async def main(url):
    async with SessionBuffer(url) as buffer:
        await buffer.history("ada", "s1").aadd_messages([HumanMessage("hi")])
        print(len(buffer.history("ada", "s1").messages), await buffer.adelete("ada", "s1"))

for url in ("memory://", "sqlite:///" + sys.argv[1]):
    asyncio.run(main(url))
"""


def test_a_system_that_cannot_fork_lacks_nothing_the_package_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_FORK, str(tmp_path / "s.db")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "True", "1", "True"], done.stderr


def opened_by_windows(uri: str) -> str:
    """The file that SQLite opens on Windows for a URI, by its own rules: a slash in front of a drive is none."""
    assert uri.startswith("file:///"), "with a server in it, SQLite refuses a URI"
    path = unquote(uri.removeprefix("file://"))
    return str(PureWindowsPath(path[1:] if path[2:3] == ":" else path))


@pytest.mark.parametrize(
    "path",
    [
        r"C:\app data\100%25 #1?\sessions.db",
        r"c:\Users\Zoë\😀.db",
        r"\\server\share\sessions.db",
        r"\\?\C:\app\sessions.db",
    ],
)
def test_sqlite_is_given_a_path_of_windows_as_it_reads_one(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(opening, "Path", PureWindowsPath)
    assert opened_by_windows(opening._uri(path)) == path


@pytest.mark.parametrize("durable", [True, False])
def test_on_macos_what_is_synced_is_on_the_disk(tmp_path: Path, *, durable: bool) -> None:
    # `fsync` of macOS leaves it in the disk's own cache; elsewhere these settings are without effect.
    SQLiteStorage(tmp_path / "s.db").close()
    with closing(open_connection(str(tmp_path / "s.db"), durable=durable, timeout=1)) as connection:
        assert connection.execute("PRAGMA checkpoint_fullfsync").fetchone() == (1,)
        assert connection.execute("PRAGMA fullfsync").fetchone() == (int(durable),)


class DatetimeOfWindows(datetime):
    """As the C library of Windows has it, which knows no later year."""

    @classmethod
    def fromtimestamp(cls, timestamp: float, tz: Any = None) -> Any:
        if timestamp > datetime(3001, 1, 1, tzinfo=timezone.utc).timestamp():
            raise OSError(22, "Invalid argument")
        return super().fromtimestamp(timestamp, tz)


def test_windows_tells_of_a_session_that_lives_for_thousands_of_years(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_info, "datetime", DatetimeOfWindows)
    with SessionBuffer(retention=Retention(idle_ttl=3e11)) as buffer:
        buffer.history("ada", "s1").add_system_message("hi")
        info = buffer.info("ada", "s1")
    assert info is not None
    assert info.expires_at == datetime(9999, 1, 1, tzinfo=timezone.utc)
