"""Threads, event loops, interrupts and forks around one SQLite storage."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_ttl_history import StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite import connections as connecting
from langchain_ttl_history.storage.sqlite.connections import Connections
from langchain_ttl_history.storage.sqlite.executor import Executor
from langchain_ttl_history.storage.types import Change, Lease, Outcome, Query, Status
from tests.shared.one_session import KEY
from tests.shared.sqlite_cases import Opens, close_connections_as_for_a_fork, idle, lent, said, saying, turn_to_write
from tests.storage.interrupts import interrupted

# Where a verb is interrupted.
INTERRUPTED = ("transactions.py", "connections.py", "storage.py", "mirrored_sessions.py", "mirror.py")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file, to lock it with."""
    connection = sqlite3.connect(tmp_path / "s.db", isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def test_the_loop_is_not_blocked_while_a_write_waits(opens: Opens, other: sqlite3.Connection) -> None:
    storage = opens()

    async def main() -> None:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(storage.awrite(KEY, saying("hello")))
        for _ in range(20):
            await asyncio.sleep(0)  # lets the task begin
        read = await asyncio.wait_for(storage.aread(KEY, Query()), 60)
        assert (read.generation, write.done()) == (0, False)
        other.execute("ROLLBACK")
        assert (await write).status is Status.STORED

    asyncio.run(main())


def test_reads_of_a_loop_do_not_wait_for_its_writes(opens: Opens, other: sqlite3.Connection) -> None:
    storage = opens()

    async def main() -> None:
        other.execute("BEGIN IMMEDIATE")
        writes = [asyncio.create_task(storage.awrite(KEY, saying("hello"))) for _ in range(10)]
        await asyncio.sleep(0)  # lets the task begin
        for _ in range(10):
            await asyncio.wait_for(storage.aread(KEY, Query()), 60)
        assert not any(write.done() for write in writes)
        other.execute("ROLLBACK")
        assert {(await write).status for write in writes} == {Status.STORED}

    asyncio.run(main())


def test_reads_that_record_a_use_wait_with_the_writes_and_keep_no_other_from_reading(
    opens: Opens, other: sqlite3.Connection
) -> None:
    now = [1_000.0]
    storage = opens(clock=lambda: now[0])
    lease = Lease(100.0, None)
    for name in range(8):
        storage.write(SessionKey("ada", f"{name}"), Change(lease))
    now[0] += 50
    storage.write(KEY, Change(lease))

    async def main() -> None:
        other.execute("BEGIN IMMEDIATE")
        due = [
            asyncio.create_task(storage.aread(SessionKey("ada", f"{name}"), Query(lease=lease))) for name in range(8)
        ]
        for _ in range(10):
            assert (await asyncio.wait_for(storage.aread(KEY, Query(lease=lease)), 60)).generation
        assert not any(read.done() for read in due)
        other.execute("ROLLBACK")
        assert {(await read).last_used_at for read in due} == {1_050.0}

    asyncio.run(main())


def test_what_waits_for_other_calls_ends_with_them_and_not_one_after_the_other(
    opens: Opens, other: sqlite3.Connection
) -> None:
    """Each would wait for the lock anew: twenty callers for ten times as long as one."""
    storage = opens(timeout=0.2)

    async def main() -> list[BaseException | Outcome]:
        other.execute("BEGIN IMMEDIATE")
        writes = [storage.awrite(KEY, saying("hello")) for _ in range(20)]
        return await asyncio.gather(*writes, return_exceptions=True)

    refused = asyncio.run(main())
    assert all(isinstance(each, StorageError) for each in refused)
    # No more than two of the others can begin just before their own patience ends.
    assert sum("other calls" in str(each) for each in refused) >= 16
    assert all("larger timeout" in str(each) for each in refused)
    other.execute("ROLLBACK")
    assert storage.read(KEY, Query()).generation == 0


@pytest.mark.parametrize("path", ["s.db", ":memory:"])
def test_reads_wait_for_another_threads_write_in_memory_alone(path: str, tmp_path: Path) -> None:
    """A database in memory has one connection, on which one transaction would begin within another."""
    in_memory = path == ":memory:"
    with closing(SQLiteStorage(path if in_memory else tmp_path / path, timeout=0.05)) as storage:
        storage.write(KEY, saying("hello"))
        reads: list[Callable[[], object]] = [lambda: said(storage), lambda: storage.sessions(None), storage.usage]
        with turn_to_write(storage), ThreadPoolExecutor(1) as others:
            for read in reads:
                call = others.submit(read)
                if in_memory:
                    with pytest.raises(StorageError, match="was being written to"):
                        call.result()
                else:
                    assert call.result()


def test_closing_waits_for_no_write_that_waits(opens: Opens, other: sqlite3.Connection) -> None:
    storage = opens()

    async def main() -> None:
        other.execute("BEGIN IMMEDIATE")
        writes = [asyncio.create_task(storage.awrite(KEY, saying("hello"))) for _ in range(20)]
        await asyncio.sleep(0)  # lets the tasks begin
        await asyncio.wait_for(storage.aclose(), 60)
        assert not all(write.done() for write in writes)
        other.execute("ROLLBACK")
        await asyncio.gather(*writes, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("path", ["s.db", ":memory:"])
def test_a_call_that_is_interrupted_anywhere_leaves_the_storage_usable(path: str, tmp_path: Path) -> None:
    storage = SQLiteStorage(path if path == ":memory:" else tmp_path / path, timeout=5)
    storage.write(KEY, saying("first"))
    storage.write(KEY, saying("second"))
    write, read = partial(storage.write, KEY, saying("more")), partial(storage.read, KEY, Query(("log",)))
    for verb in (write, read):
        step = 0
        while interrupted(
            verb, step, "transactions.py", "connections.py", "storage.py", "mirrored_sessions.py", "mirror.py"
        ):
            step += 1
            # It is that thread that goes on, and what it had it gives back by then.
            assert storage.write(KEY, saying("mine")).status is Status.STORED
            with ThreadPoolExecutor(1) as others:
                assert others.submit(storage.write, KEY, saying("other")).result().status is Status.STORED
        assert step > 10
    said = [entry.payload for entry in storage.read(KEY, Query(("log",))).lists["log"]]
    assert said[:2] == [b"first", b"second"]
    storage.close()
    # A call that is interrupted while it opens a connection loses it, of which Python 3.13 warns.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del storage, verb, write, read
        gc.collect()


def test_one_storage_serves_several_loops(opens: Opens) -> None:
    storage = opens()

    def turn(number: int) -> None:
        async def main() -> None:
            await asyncio.gather(*(storage.awrite(KEY, saying(f"{number}.{each}")) for each in range(10)))

        asyncio.run(main())

    threads = [threading.Thread(target=turn, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said(storage)) == sorted(f"{number}.{each}" for number in range(4) for each in range(10))


async def test_a_cancelled_write_is_whole_or_not_there(opens: Opens) -> None:
    storage = opens()
    for number in range(40):
        task = asyncio.create_task(storage.awrite(KEY, saying(str(number))))
        for _ in range(number % 4):
            await asyncio.sleep(0)  # lets the task begin
        if number % 4 == 3:
            await asyncio.sleep(0.0002 * (number % 8))  # at another point of the write each time
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await storage.awrite(KEY, saying("last"))
    assert said(storage)[-1] == "last"
    (entries,) = (found := storage.read(KEY, Query(("log",)))).lists.values()
    assert (entries[-1].position, len(entries)) == (found.position, len(said(storage)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_uses_connections_of_its_own(opens: Opens) -> None:
    storage = opens()
    storage.write(KEY, saying("parent"))
    before = {*idle(storage)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads.
        child = os.fork()
    if child == 0:
        code = 1
        try:
            storage.write(KEY, saying("child"))
            asyncio.run(storage.awrite(KEY, saying("child's loop")))
            fine = said(storage) == ["parent", "child", "child's loop"]
            code = 0 if fine and before.isdisjoint(idle(storage)) else 2
            storage.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert said(storage) == ["parent", "child", "child's loop"]
    storage.write(KEY, saying("parent again"))
    assert said(opens())[-1] == "parent again"


def test_a_fork_waits_for_a_connection_that_is_lent_but_not_for_ever(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = opens()
    storage.write(KEY, saying("before"))
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        assert len(waits) < 1_000, "it waits for ever"

    # Each wait takes a second, and the timeout is 30.
    monkeypatch.setattr(
        connecting, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + len(waits), sleep=sleep)
    )
    with lent(storage):
        close_connections_as_for_a_fork(storage)
    assert waits
    storage.write(KEY, saying("after"))
    assert said(storage) == ["before", "after"]


def test_a_storage_that_is_forgotten_lets_go_of_its_file(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "s.db")
    storage.write(KEY, saying("hello"))
    del storage
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


async def test_a_call_that_begins_while_another_thread_closes_the_storage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SQLiteStorage(tmp_path / "s.db")
    started = Executor._started

    def overtaken(executor: Executor) -> Any:
        found = started(executor)
        storage.close()
        return found

    monkeypatch.setattr(Executor, "_started", overtaken)
    with pytest.raises(StorageError, match="closed"):
        await storage.aread(KEY, Query())


def test_a_connection_that_comes_back_while_another_thread_closes_is_closed_as_well(tmp_path: Path) -> None:
    connections = Connections(str(tmp_path / "sessions.db"), durable=False, timeout=1.0)
    connections.open_first()

    class Closing(deque[sqlite3.Connection]):
        def append(self, connection: sqlite3.Connection) -> None:
            connections.close()
            super().append(connection)

    connection = connections.take()
    connections._idle = Closing()
    connections.give(connection)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
