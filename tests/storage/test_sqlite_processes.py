"""Several processes on one SQLite file: nothing is lost, whoever writes at once or is killed in the middle.

`TEST_KILLS` is how many writers are killed (25).
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.types import Blob, Change, Query, Status
from tests.shared.chats import assert_contiguous, assert_valid_chat, text_of
from tests.shared.graphs import build_graph
from tests.shared.models import ScriptedModel, tool_user
from tests.shared.one_session import FOREVER, KEY
from tests.shared.processes import process_context

KILLS = int(os.environ.get("TEST_KILLS", "25"))
PATIENCE = 120.0

as_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user")


def at_once(work: Callable[..., None], *arguments: Any, workers: int = 4) -> None:
    """Run the work in so many processes that begin at the same time."""
    context = process_context()
    barrier = context.Barrier(workers)
    processes = [context.Process(target=work, args=(number, barrier, *arguments)) for number in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * workers


def append_many(number: int, barrier: Any, path: str) -> None:
    """Open a file that is perhaps not there yet, and append 200 messages, each by itself."""
    barrier.wait(PATIENCE)
    with SessionBuffer(f"sqlite:///{path}", retention=Retention(max_messages=None)) as buffer:
        history = buffer.history("ada", "s1")
        for each in range(200):
            history.add_messages([SystemMessage(f"{number}.{each}")])


def test_of_four_processes_that_append_at_once_to_a_new_file_nothing_is_lost(tmp_path: Path) -> None:
    at_once(append_many, str(tmp_path / "s.db"))
    with SessionBuffer(f"sqlite:///{tmp_path}/s.db", retention=Retention(max_messages=None)) as buffer:
        said = [str(each.content) for each in buffer.history("ada", "s1").messages]
    assert len(said) == 800
    for number in range(4):
        assert [each for each in said if each.startswith(f"{number}.")] == [f"{number}.{each}" for each in range(200)]


def look(number: int, barrier: Any, path: str, names: set[str]) -> None:
    """Open a file, look into it, and close it again."""
    barrier.wait(PATIENCE)
    with closing(SQLiteStorage(path)) as storage:
        assert set(storage.read(KEY, Query(outline=True)).blobs) == names


def test_a_file_that_a_process_opened_twice_stays_its_own_when_another_one_closes_it(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    with closing(SQLiteStorage(path)) as storage:
        storage.write(KEY, Change(FOREVER, blobs={"one": Blob(b"1")}))
        with closing(SQLiteStorage(path)):
            at_once(look, path, {"one"}, workers=1)
            # The other process must not have taken itself for the last one, and removed the write-ahead log.
            storage.write(KEY, Change(FOREVER, blobs={"two": Blob(b"2")}))
            at_once(look, path, {"one", "two"}, workers=1)


def ask_agent(number: int, barrier: Any, path: str) -> None:
    """Five turns of an agent, each with two tool calls."""
    with SessionBuffer(f"sqlite:///{path}", retention=Retention(max_messages=None)) as buffer:
        agent = build_graph("agent", buffer.checkpointer(), ScriptedModel(answer=tool_user))
        barrier.wait(PATIENCE)
        for turn in range(5):
            asked = HumanMessage(f"look up {number}.{turn}a, {number}.{turn}b")
            agent.invoke({"messages": [asked]}, buffer.config("ada", "s1"))


def test_of_four_agents_in_four_processes_on_one_session_every_turn_stays_whole(tmp_path: Path) -> None:
    at_once(ask_agent, str(tmp_path / "s.db"))
    with SessionBuffer(f"sqlite:///{tmp_path}/s.db", retention=Retention(max_messages=None)) as buffer:
        messages = buffer.history("ada", "s1").messages
    said = [text_of(message) for message in messages]
    assert len(said) == 4 * 5 * 5
    for number in range(4):
        for turn in range(5):
            one, two = f"{number}.{turn}a", f"{number}.{turn}b"
            facts = [f"facts about {one}", f"facts about {two}"]
            assert_contiguous(said, [f"look up {one}, {two}", f"call {one}, {two}", *facts, f"answer: {facts[1]}"])
    assert_valid_chat(messages)


def open_new(number: int, barrier: Any, folder: str) -> None:
    """Open many new files, each at the same moment as everybody else."""
    for each in range(10):
        barrier.wait(PATIENCE)
        with closing(SQLiteStorage(Path(folder) / f"{each}.db")) as storage:
            outcome = storage.write(SessionKey("ada", f"s{number}"), Change(FOREVER))
            if outcome.status is not Status.STORED:
                raise AssertionError(outcome)


def test_workers_that_start_at_once_on_a_new_file_do_not_trip(tmp_path: Path) -> None:
    at_once(open_new, str(tmp_path))
    for each in range(10):
        with closing(SQLiteStorage(tmp_path / f"{each}.db")) as storage:
            assert len(storage.sessions("ada")[0]) == 4


def write_until_killed(path: str, acknowledged: int) -> None:
    """Write sessions of three parts, change and delete them, and say which writes were acknowledged."""
    storage = SQLiteStorage(path)
    number = acknowledged
    while True:
        number += 1
        text = f"{number:08d}".encode() * 300
        key = SessionKey("ada", f"s{number % 7}")
        blobs = {f"m{number}": Blob(text), "last": Blob(text, (f"m{number}",)), "c": Blob(b"", ("last",))}
        storage.write(key, Change(FOREVER, blobs=blobs, append=[("log", text, (f"m{number}",))]))
        if number % 5 == 0:
            storage.delete("ada", f"s{(number - 3) % 7}", 60.0)
        storage.write(KEY, Change(FOREVER, append=[("done", b"%d" % number, ())]))
        os.write(1, b"%d\n" % number)


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Callable[[float], int]]:
    """Starts a writer, kills it after so many seconds of writing, and gives the last write it acknowledged."""
    acknowledged = 0
    # One parent for all writers: a fork takes a millisecond, a new interpreter most of a second.
    program = f"""
import os, sys
from tests.storage.test_sqlite_processes import write_until_killed
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        write_until_killed({str(tmp_path / "s.db")!r}, int(line))
    os.write(2, b"%d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stderr is not None

        def kill_one(seconds: float) -> int:
            nonlocal acknowledged
            parent.stdin.write(b"%d\n" % acknowledged)
            parent.stdin.flush()
            child = int(parent.stderr.readline())
            lines = [parent.stdout.readline()]
            time.sleep(seconds)  # the random moment
            os.kill(child, signal.SIGKILL)
            while lines[-1] != b"dead\n":
                lines.append(parent.stdout.readline())
                assert lines[-1], "the writers' parent ended"
            # A line that the kill cut off would be no number, yet each is one system call.
            acknowledged = int(lines[-2])
            return acknowledged

        yield kill_one
        parent.stdin.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_writer_killed_at_any_moment_leaves_every_acknowledged_write_and_no_half_one(
    killed: Callable[[float], int], tmp_path: Path
) -> None:
    rng = random.Random(11)
    for _ in range(KILLS):
        acknowledged = killed(rng.uniform(0.0, 0.03))
        with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with closing(SQLiteStorage(tmp_path / "s.db")) as storage:
            check(storage, acknowledged)


def check(storage: SQLiteStorage, acknowledged: int) -> None:
    """Everything up to the last acknowledged write is there, and each session is whole."""
    for key in storage.sessions("ada")[0]:
        found = storage.read(key, Query(outline=True))
        entries = found.lists.get("log", ())
        assert {name for name in found.blobs if name[0] == "m"} == {f"m{int(each.payload[:8])}" for each in entries}
        for entry in entries:
            assert entry.payload == entry.payload[:8] * 300 == found.blobs[entry.refs[0]].payload
        if entries:
            assert found.blobs["last"].payload == entries[-1].payload
        assert found.bytes == sum(len(each.payload) for each in found.blobs.values()) + sum(
            len(entry.payload) for each in found.lists.values() for entry in each
        )
        weights = {name: sum(1 + len(each.refs) for each in entries) for name, entries in found.lists.items()}
        touched: dict[str, frozenset[int]] = {name: frozenset() for name in weights}
        assert storage.write(key, Change(FOREVER, upkeep=True, trim=touched)).weights == weights
    done = [int(each.payload) for each in storage.read(KEY, Query(("done",))).lists.get("done", ())]
    # A write that was killed before it was acknowledged was done again by the next writer.
    assert {later - earlier for earlier, later in itertools.pairwise(done)} <= {0, 1}
    if done:
        assert done[-1] >= acknowledged
    newest = SessionKey("ada", f"s{acknowledged % 7}")
    stored = storage.read(newest, Query(outline=True))
    dropped = any(
        number % 5 == 0 and (number - 3) % 7 == acknowledged % 7 for number in (acknowledged, acknowledged + 1)
    )
    assert dropped or f"m{acknowledged}" in stored.blobs


def open_to_all(folder: Path) -> None:
    """Let every user read a folder of a test."""
    for each in (folder, *folder.parents[:3]):
        each.chmod(each.stat().st_mode | 0o055)


READ_ONLY = """
import os, sys
from langchain_ttl_history import SessionBuffer, StorageError
import langchain_ttl_history.history, langchain_ttl_history.storage.sqlite  # while its folders may be read
os.setuid(65534)
try:
    buffer = SessionBuffer("sqlite:///" + sys.argv[1])
    try:
        buffer.history("ada", "s1").add_system_message("lost")
    except StorageError as error:
        print("write", type(error.__cause__).__name__, "must be writable" in str(error))
except StorageError as error:
    print("open", type(error.__cause__).__name__, "must be writable" in str(error))
"""


@as_root
def test_a_file_that_may_only_be_read_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with SessionBuffer(f"sqlite:///{path}") as buffer:
        buffer.history("ada", "s1").add_system_message("before")
    open_to_all(tmp_path)
    path.chmod(0o644)
    done = subprocess.run([sys.executable, "-c", READ_ONLY, str(path)], check=False, capture_output=True, text=True)
    assert done.stdout in ("open OperationalError True\n", "write OperationalError True\n"), done.stderr
    assert done.returncode == 0
    with SessionBuffer(f"sqlite:///{path}") as buffer:
        assert [each.content for each in buffer.history("ada", "s1").messages] == ["before"]


NOT_ALLOWED = """
import os, sys
from langchain_ttl_history import SessionBuffer, StorageError
import langchain_ttl_history.history, langchain_ttl_history.storage.sqlite  # while its folders may be read
os.setuid(65534)
try:
    SessionBuffer("sqlite:///" + sys.argv[1])
except StorageError as error:
    print(error)
"""


@as_root
@pytest.mark.parametrize(
    ("folder", "file"), [(0o755, None), (0o777, 0o600), (0o755, 0o644)], ids=["no file", "unreadable", "read-only"]
)
def test_who_may_not_write_is_told_what_has_to_be_writable(tmp_path: Path, folder: int, file: int | None) -> None:
    path = tmp_path / "s.db"
    open_to_all(tmp_path)
    if file is not None:
        SessionBuffer(f"sqlite:///{path}").close()
        path.chmod(file)
    tmp_path.chmod(folder)
    done = subprocess.run([sys.executable, "-c", NOT_ALLOWED, str(path)], check=True, capture_output=True, text=True)
    assert f"{path}: " in done.stdout
    assert "the file and its folder must be writable by this user, also in order to read" in done.stdout
