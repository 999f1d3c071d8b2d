"""A process that forks, as web servers do that load a program before they start their workers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import langchain_ttl_history.buffer as making
from langchain_ttl_history import SessionBuffer, default_buffer
from langchain_ttl_history.storage import MemoryStorage, SQLiteStorage
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.sqlite import connections
from langchain_ttl_history.storage.sqlite.executor import Executor
from langchain_ttl_history.storage.types import Change, Lease, Query, Status
from tests.shared.one_session import KEY
from tests.shared.sqlite_cases import close_connections_as_for_a_fork, lent

LONG = Lease(1000.0, None)
FORKS, PATIENCE = 8, 60.0

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(autouse=True)
def _threads_are_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads.
        yield


def forked(work: Callable[[], None]) -> int:
    """Do some work in a child that then ends, with 0 if nothing was raised."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def test_a_fork_while_another_thread_makes_locks_finds_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    done = threading.Event()

    def make() -> None:
        while not done.is_set():
            made = [SessionBuffer() for _ in range(20)]
            del made

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    maker = threading.Thread(target=make)
    maker.start()
    try:
        for _ in range(40):
            assert ended(forked(lambda: None)) == 0
    finally:
        done.set()
        maker.join()
        sys.setswitchinterval(interval)
    assert not failed


def test_a_child_makes_the_default_buffer_that_another_thread_was_making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_default", None)
    monkeypatch.delenv("TTL_HISTORY_URL", raising=False)
    begun, goes_on = threading.Event(), threading.Event()
    made = making.open_storage

    def slowly(url: str | None) -> Storage:
        if threading.current_thread() is maker:
            begun.set()
            goes_on.wait(PATIENCE)
        return made(url)

    monkeypatch.setattr(making, "open_storage", slowly)
    maker = threading.Thread(target=default_buffer)
    maker.start()
    try:
        begun.wait(PATIENCE)
        assert ended(forked(lambda: default_buffer().history("ada", "s1").add_system_message("hello"))) == 0
    finally:
        goes_on.set()
        maker.join()
    assert default_buffer() is default_buffer()


def ended(child: int) -> int | None:
    """The status a child ends with; None if it hangs."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)  # `waitpid` has no timeout
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def said(storage: Storage) -> list[bytes]:
    return [entry.payload for entry in storage.read(KEY, Query(("log",))).lists.get("log", ())]


def say(storage: Storage, text: bytes) -> None:
    assert storage.write(KEY, Change(LONG, append=[("log", text, ())])).status is Status.STORED


def test_a_child_starts_threads_though_another_thread_was_starting_some() -> None:
    executor = Executor(1, PATIENCE)

    def run() -> None:
        signal.alarm(10)  # Ends a child that is stuck.
        assert asyncio.run(executor.run(int, "1")) == 1

    with executor._lock:
        child = forked(run)
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_child_writes_is_kept_though_its_parent_and_others_close_the_file(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "x.db")
    say(storage, b"parent")
    told, go_on = os.pipe(), os.pipe()

    def work() -> None:
        say(storage, b"child")
        os.write(told[1], b"1")
        os.read(go_on[0], 1)
        say(storage, b"later")
        assert said(storage) == [b"parent", b"child", b"later"]

    child = forked(work)
    os.read(told[0], 1)
    assert said(storage) == [b"parent", b"child"]
    storage.close()
    other = SQLiteStorage(tmp_path / "x.db")
    assert said(other) == [b"parent", b"child"]
    other.close()
    os.write(go_on[1], b"1")
    assert ended(child) == 0
    for pipe in (*told, *go_on):
        os.close(pipe)
    other = SQLiteStorage(tmp_path / "x.db")
    assert said(other) == [b"parent", b"child", b"later"]
    other.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_child_of_a_process_whose_threads_read_and_write_is_not_stuck(kind: str, tmp_path: Path) -> None:
    storage: Storage = MemoryStorage() if kind == "memory" else SQLiteStorage(tmp_path / "x.db")
    buffer = SessionBuffer(storage)
    # What is imported when it is first needed; an import that another thread is at is Python's own to mind.
    assert buffer.history("ada", "first").messages == []
    over = threading.Event()

    def busy(number: int) -> None:
        history = buffer.history("ada", f"busy {number}")
        while not over.is_set():
            history.add_user_message("hello")
            history.clear() if len(history.messages) > 20 else None

    threads = [threading.Thread(target=busy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()

    def work() -> None:
        for number in range(4):
            history = buffer.history("ada", f"busy {number}")
            history.add_user_message("from the child")
            # The parent's threads may have deleted any but the last in between.
            assert history.messages or number < len(threads)

    try:
        statuses = [ended(forked(work)) for _ in range(FORKS)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * FORKS
    buffer.close()


def test_a_fork_that_is_interrupted_while_it_waits_leaves_a_storage_that_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    storages = [SQLiteStorage(tmp_path / f"{number}.db") for number in range(3)]
    for storage in storages:
        storage.write(KEY, Change(LONG, append=[("l", b"1", ())]))
    reading, done = threading.Event(), threading.Event()

    def read(_: object) -> None:
        reading.set()
        done.wait(PATIENCE)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    def append_each() -> None:
        for storage in storages:
            assert storage.write(KEY, Change(LONG, append=[("l", b"2", ())])).status is Status.STORED

    reader = threading.Thread(target=storages[1]._transactions.read, args=(read,))
    reader.start()
    assert reading.wait(PATIENCE)
    monkeypatch.setattr(connections.time, "sleep", interrupt)
    child = forked(append_each)
    monkeypatch.undo()
    assert os.waitpid(child, 0)[1] == 0
    assert len(raised) == 1, "it waited for the reader, and was interrupted"
    done.set()
    reader.join(PATIENCE)
    append_each()
    for storage in storages:
        assert len(storage.read(KEY, Query(("l",))).lists["l"]) == 3
        storage.close()


def test_a_fork_waits_but_once_for_a_connection_that_is_not_given_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after an exception from a signal handler, in the moment before it would have been."""
    waited: list[float] = []
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=time.monotonic, sleep=waited.append))
    storage = SQLiteStorage(tmp_path / "x.db", timeout=0.05)

    def waits() -> bool:
        waited.clear()
        close_connections_as_for_a_fork(storage)
        return bool(waited)

    with lent(storage) as lost:
        assert [waits(), waits()] == [True, False]
        with lent(storage) as other:
            assert [waits(), waits()] == [True, False]
        with lent(storage) as again:
            assert again is other
            assert waits(), "it was given back in between"
    with lent(storage) as again:
        assert again is lost
        assert [waits(), waits()] == [True, False]
    assert not waits()
    say(storage, b"later")
    storage.close()
