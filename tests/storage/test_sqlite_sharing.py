"""What another worker wrote to a SQLite file is seen at once, and its locks are waited for."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from langchain_ttl_history.errors import CorruptRecordError, StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite import mirrored_sessions, mirrors
from langchain_ttl_history.storage.sqlite.lookup import load
from langchain_ttl_history.storage.sqlite.mirror import Fence, Mirror
from langchain_ttl_history.storage.sqlite.mirrors import Mirrors
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.storage.sqlite.transactions import Transactions
from langchain_ttl_history.storage.sqlite.updates import LARGE
from langchain_ttl_history.storage.types import Blob, Change, Entry, Guard, Lease, Query, Snapshot, Status
from langchain_ttl_history.testing import Clock
from tests.shared.one_session import KEY, LEASE
from tests.shared.sqlite_cases import Opens, bytes_remembered, remembered, said, saying


def test_what_another_worker_wrote_is_seen_at_once(opens: Opens) -> None:
    one, two = opens(), opens()
    for number in range(12):
        (one, two)[number % 2].write(KEY, saying(str(number)))
        for storage in (one, two):
            assert said(storage) == [str(each) for each in range(number + 1)]
    two.write(KEY, Change(LEASE, drop=["m3"], trim={"log": frozenset({4})}))
    two.write(KEY, Change(LEASE, blobs={"m5": Blob(b"5")}, place=[("log", Entry(5, b"5", ("m5",)))]))
    assert one.read(KEY, Query(outline=True)) == two.read(KEY, Query(outline=True))
    assert "3" not in said(one)


def test_a_session_that_another_worker_made_anew_is_not_taken_for_the_old_one(opens: Opens, clock: Clock) -> None:
    one, two = opens(), opens()
    one.write(KEY, saying("old"))
    two.delete(*KEY, 60.0)
    two.write(KEY, saying("new"))
    assert said(one) == ["new"]
    clock.advance(200)
    two.write(KEY, saying("newer"))
    assert said(one) == ["newer"]


@pytest.mark.parametrize("size", [10, 2_000])
@pytest.mark.parametrize("others", [0, 2, 5, 9, 40])
def test_a_backup_that_is_brought_back_into_the_open_file_is_what_everybody_sees(
    opens: Opens, tmp_path: Path, others: int, size: int
) -> None:
    def words(what: str, count: int) -> list[str]:
        return [f"{what} {number} {'x' * size}" for number in range(count)]

    storage = opens()
    for each in words("before", 20):
        storage.write(KEY, saying(each))
    with closing(sqlite3.connect(tmp_path / "s.db")) as file, closing(sqlite3.connect(":memory:")) as backup:
        file.backup(backup)
        for each in words("lost", 5):
            storage.write(KEY, saying(each))
        backup.backup(file)
    other = opens()
    expected = words("before", 20) + words("after", others)
    for each in expected[20:]:
        other.write(KEY, saying(each))
    assert said(storage) == said(other) == expected
    storage.write(KEY, saying("on", drop=["mbefore 3 " + "x" * size], trim={"log": frozenset({4})}))
    del expected[3]
    assert said(storage) == said(other) == said(opens()) == [*expected, "on"]


def test_a_backup_that_went_on_with_more_and_shorter_writes_is_what_everybody_sees(
    opens: Opens, tmp_path: Path
) -> None:
    storage = opens()
    storage.write(KEY, saying("before"))
    with closing(sqlite3.connect(tmp_path / "s.db")) as file, closing(sqlite3.connect(":memory:")) as backup:
        file.backup(backup)
        for number in range(4):
            storage.write(KEY, saying(f"lost {number} {'x' * (LARGE - 100)}"))
        backup.backup(file)
    other = opens()
    after = [f"after {number}" for number in range(10)]
    for each in after:
        other.write(KEY, saying(each))
    (of_lost,), (of_file,) = remembered(storage).values(), remembered(other).values()
    assert of_lost.row.segment > of_file.row.segment
    assert of_lost.row.version < of_file.row.version
    assert said(storage) == said(other) == ["before", *after]


def test_a_backup_that_went_on_with_a_large_payload_of_the_same_name_and_size_is_what_everybody_sees(
    opens: Opens, clock: Clock, tmp_path: Path
) -> None:
    storage = opens()
    storage.write(KEY, saying("before"))
    lost, after = (Change(LEASE, blobs={"large": Blob(letter * LARGE)}) for letter in (b"l", b"a"))
    with closing(sqlite3.connect(tmp_path / "s.db")) as file, closing(sqlite3.connect(":memory:")) as backup:
        file.backup(backup)
        storage.write(KEY, lost)
        storage.read(KEY, Query(outline=True))
        backup.backup(file)
    clock.advance(1)
    other = opens()
    other.write(KEY, after)
    assert storage.read(KEY, Query(("large",))).blobs == other.read(KEY, Query(("large",))).blobs == after.blobs


@pytest.mark.parametrize("others", [0, 1, 5])
def test_a_backup_that_went_on_like_what_it_replaces_is_what_everybody_sees(
    opens: Opens, tmp_path: Path, others: int
) -> None:
    storage = opens()
    for number in range(60):
        storage.write(KEY, saying(f"{number} {'x' * 1_500}"))
    gone = [f"m{number} {'x' * 1_500}" for number in (1, 2)]
    with closing(sqlite3.connect(tmp_path / "s.db")) as file, closing(sqlite3.connect(":memory:")) as backup:
        file.backup(backup)
        storage.write(KEY, Change(LEASE, drop=[gone[0]]))
        backup.backup(file)
    other = opens()
    other.write(KEY, Change(LEASE, drop=[gone[1]]))
    for number in range(others):
        other.write(KEY, saying(f"after {number}"))
    for each in (storage, other, opens()):
        found = each.read(KEY, Query(outline=True)).blobs
        assert [name in found for name in gone] == [True, False]
        assert len(found) == 59 + others


def test_what_is_remembered_of_sessions_is_bounded(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "_SESSIONS", 3)
    monkeypatch.setattr(mirrors, "_BYTES", 30_000)
    storage = opens()
    for number in range(20):
        key = SessionKey("ada", f"s{number % 7}")
        storage.write(
            key, Change(LEASE, blobs={f"m{number}": Blob(b"x" * 1_500)}, append=[("log", b"", (f"m{number}",))])
        )
        assert len(storage.read(key, Query(("log",), ("m",))).blobs) == number // 7 + 1
        held = remembered(storage)
        assert len(held) <= 3
        assert bytes_remembered(storage) == sum(mirror.size for mirror in held.values()) <= 30_000


def test_references_count_in_what_is_remembered(opens: Opens) -> None:
    writer, reader = opens(), opens()
    for refs in ((), ("m1",) * 1_000, ("m1",) * 500):
        writer.write(KEY, Change(LEASE, blobs={"m1": Blob(b""), "h": Blob(b"", refs)}, append=[("log", b"", refs)]))
        reader.read(KEY, Query(outline=True))
    for storage in (writer, reader, opens()):
        storage.read(KEY, Query(outline=True))
        (mirror,) = remembered(storage).values()
        assert mirror.session.references == 500 + 1_500
        assert bytes_remembered(storage) == mirror.size > 2_000 * 8


def test_what_one_thread_changes_is_hidden_from_others_until_it_is_put_back() -> None:
    held, row = Mirrors(), Row.new(1, 0.0)
    held.put(KEY, Mirror(row))
    taken = held.take(KEY)
    assert taken is not None
    assert held.take(KEY) is None
    assert held.answer(KEY, row, Query(), 0.0, 0, held.moment()) is None
    held.put(KEY, taken)
    assert held.answer(KEY, row, Query(), 0.0, 0, held.moment()) is not None
    assert held.take(KEY) is taken


def test_what_one_thread_changes_is_waited_for() -> None:
    held, row, until = Mirrors(), Row.new(1, 0.0), time.monotonic() + 60
    held.put(KEY, Mirror(row))
    for wait in (partial(held.answer, KEY, row, Query(), 0.0, 0, held.moment(), until), partial(held.take, KEY, until)):
        taken = held.take(KEY)
        assert taken is not None
        with ThreadPoolExecutor(1) as others:
            waiting = others.submit(wait)
            time.sleep(0.01)
            assert not waiting.done()
            held.put(KEY, taken)
            assert waiting.result() is not None


def test_a_read_is_answered_from_what_was_current_at_some_moment_of_it() -> None:
    held, row = Mirrors(), Row.new(1, 0.0)
    began = held.moment()
    newer = Mirror(replace(row, version=1, deadline=9.0))
    newer.fence = Fence(7, 5.0)

    def answer(now: float = 0.0, began: int = began, lease: Lease | None = None) -> Snapshot | None:
        return held.answer(KEY, row, Query(lease=lease), now, 3, began)

    held.put(KEY, newer)
    assert answer() is None  # nobody has looked at the file
    assert held.is_changing(KEY, began)
    assert not held.is_changing(KEY, held.moment())
    held.put(KEY, newer, held.moment())
    found, later = answer(), answer(now=5.0)
    assert found is not None
    assert later is not None
    assert (found.fence, later.fence) == (7, 0)  # its own, while the tombstone stands
    assert answer(lease=LEASE) is None  # its deadline is not that of a use now
    assert answer(now=9.0) is None  # it has expired
    assert answer(began=held.moment()) is None  # another process may have written since
    assert held.answer(KEY, newer.row, Query(), 0.0, 0, held.moment()) is not None


def test_what_is_remembered_is_not_replaced_by_what_an_earlier_read_found() -> None:
    held, row = Mirrors(), Row.new(2, 0.0)
    newer = Mirror(replace(row, version=3))
    held.put(KEY, newer)
    for older in (replace(row, version=2), replace(row, generation=1, version=4)):
        held.put(KEY, Mirror(older))
        assert held.take(KEY) is newer
        held.put(KEY, newer)
    # One with as many writes is of a backup that went on.
    other = Mirror(replace(row, version=3))
    held.put(KEY, other)
    assert held.take(KEY) is other


@pytest.mark.parametrize("reads", [True, False])
def test_the_sessions_used_last_are_remembered(opens: Opens, monkeypatch: pytest.MonkeyPatch, *, reads: bool) -> None:
    monkeypatch.setattr(mirrors, "_SESSIONS", 2)
    storage = opens()
    first, second, third = [SessionKey("ada", f"s{number}") for number in range(3)]
    for key in (first, second):
        storage.write(key, saying("hello"))
    if reads:
        assert said(storage, first) == ["hello"]
    else:
        storage.write(first, saying("again"))
    storage.write(third, saying("hello"))
    assert remembered(storage).keys() == {first, third}


def test_a_session_that_is_larger_than_all_that_is_remembered_is_so_while_it_is_the_newest(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "_BYTES", 1)
    storage = opens()
    for name in ("s1", "s2"):
        key = SessionKey("ada", name)
        storage.write(key, saying("hello"))
        assert remembered(storage).keys() == {key}
    storage.delete("ada", None, 60.0)
    assert (remembered(storage), bytes_remembered(storage)) == ({}, 0)


def test_what_each_part_of_a_session_takes_is_counted(opens: Opens) -> None:
    storage = opens()
    storage.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(b"x" * 30) for number in range(100)}))
    (mirror,) = remembered(storage).values()
    least = 100 * (30 + 600) + len(mirror.tail.body)
    assert least <= bytes_remembered(storage) == mirror.size < least + 10_000


def test_an_idle_time_that_another_worker_set_stays(opens: Opens, clock: Clock) -> None:
    one, two = opens(), opens()
    one.write(KEY, saying("first"))
    two.write(KEY, Change(LEASE, idle_ttl=None, upkeep=True))
    clock.advance(50)
    one.write(KEY, saying("second"))
    clock.advance(1_000)
    assert said(one) == said(two) == ["first", "second"]


def test_what_is_read_while_it_is_deleted_is_not_remembered(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, reader = opens(), opens()
    storage.write(KEY, saying("secret"))
    put = Mirrors.put

    def deleting(held: Mirrors, *arguments: Any) -> None:
        monkeypatch.undo()
        assert reader.delete(KEY.user_id, None, 60.0) == 1
        put(held, *arguments)

    monkeypatch.setattr(Mirrors, "put", deleting)
    assert said(reader) == ["secret"]
    assert remembered(reader) == {}


def test_a_session_that_another_process_deleted_is_not_remembered_once_it_was_looked_for(opens: Opens) -> None:
    one, two = opens(), opens()
    one.write(KEY, saying("secret"))
    assert said(two) == ["secret"]
    one.delete(*KEY, 60.0)
    assert remembered(two)
    assert said(two) == []
    assert remembered(two) == {}
    two.write(KEY, saying("anew"))
    assert said(two) == ["anew"]
    assert remembered(two)


def test_a_session_that_a_read_ends_for_its_age_is_not_remembered(opens: Opens, clock: Clock) -> None:
    storage = opens()
    storage.write(KEY, saying("secret"))
    clock.advance(50)
    assert remembered(storage)
    assert storage.read(KEY, Query(("log",), lease=Lease(1_000.0, 10.0))).generation == 0
    assert remembered(storage) == {}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows of sessions that are read whole from the file."""
    found: list[Row] = []

    def counted(connection: sqlite3.Connection, row: Row, mirror: Mirror | None) -> Mirror:
        if mirror is None:
            found.append(row)
        return load(connection, row, mirror)

    monkeypatch.setattr(mirrored_sessions, "load", counted)
    return found


def test_a_read_that_meets_a_write_reads_nothing_from_the_file(
    opens: Opens, loads: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrored_sessions, "_PATIENCE", 60.0)
    storage = opens()
    storage.write(KEY, saying("first"))
    swap, answer, asked = Transactions.swap, Mirrors.answer, threading.Event()
    reads: list[Future[list[str]]] = []

    def answering(*arguments: Any) -> Snapshot | None:
        asked.set()
        return answer(*arguments)

    with ThreadPoolExecutor(1) as others:

        def swapping(*arguments: Any) -> bool:
            asked.clear()
            reads.append(others.submit(said, storage))
            assert asked.wait(60)
            return swap(*arguments)

        monkeypatch.setattr(Mirrors, "answer", answering)
        monkeypatch.setattr(Transactions, "swap", swapping)
        for number in range(20):
            storage.write(KEY, saying(str(number)))
            assert reads[-1].result() == ["first", *map(str, range(number + 1))]
    assert loads == []


def test_a_write_that_is_refused_reads_nothing_from_the_file(opens: Opens, loads: list[Row]) -> None:
    storage = opens()
    storage.write(KEY, saying("first"))
    assert storage.write(KEY, saying("new", new=True)).status is Status.MOVED
    assert loads == []
    assert said(storage) == ["first"]


def test_a_write_waits_for_what_another_thread_changes_and_reads_nothing_from_the_file(
    opens: Opens, loads: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrored_sessions, "_PATIENCE", 60.0)
    storage = opens(timeout=1_000.0)
    storage.write(KEY, saying("first"))
    held = storage._mirrors
    taken = held.take(KEY)
    assert taken is not None

    def put_back(until: float) -> bool:
        if time.monotonic() >= until:
            return False
        held.put(KEY, taken)
        return True

    monkeypatch.setattr(mirrors, "_pause", put_back)
    storage.write(KEY, saying("second"))
    assert loads == []
    assert said(storage) == ["first", "second"]


def test_a_read_that_meets_a_write_that_waits_for_another_process_is_answered_meanwhile(
    opens: Opens, tmp_path: Path
) -> None:
    storage = opens()
    storage.write(KEY, saying("first"))
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other, ThreadPoolExecutor(1) as others:
        other.execute("BEGIN IMMEDIATE")
        write = others.submit(storage.write, KEY, saying("second"))
        while KEY in remembered(storage):
            time.sleep(0.001)
        assert said(storage) == said(storage) == ["first"]
        assert not write.done()
        other.execute("ROLLBACK")
        write.result()
    assert said(storage) == ["first", "second"]


def test_nobody_waits_for_what_a_write_that_failed_has_left(
    opens: Opens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = opens(timeout=0.1)
    storage.write(KEY, saying("first"))
    monkeypatch.setattr(mirrors, "_pause", lambda _: pytest.fail("it waits"))
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            storage.write(KEY, saying("second"))
        assert said(storage) == ["first"]
        other.execute("ROLLBACK")
    storage.write(KEY, saying("third"))
    assert said(storage) == ["first", "third"]


def test_nobody_waits_for_what_was_remembered_of_a_session_that_is_over(
    opens: Opens, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = opens()
    storage.write(KEY, saying("first"))
    clock.advance(1_000)
    monkeypatch.setattr(mirrors, "_pause", lambda _: pytest.fail("it waits"))
    assert storage.write(KEY, saying("upkeep", upkeep=True)).status is Status.ABSENT
    assert remembered(storage) == {}
    storage.write(KEY, saying("second"))
    assert said(storage) == ["second"]


@pytest.mark.parametrize("verb", ["read", "read as a use", "write"])
def test_nobody_waits_for_what_a_call_that_failed_has_left(
    opens: Opens, clock: Clock, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    storage, other = opens(), opens()
    storage.write(KEY, saying("first"))
    clock.advance(50)
    other.write(KEY, Change(LEASE, blobs={"n": Blob(b"")}, upkeep=True))

    def damaged(*_: Any) -> Mirror:
        raise CorruptRecordError("a session is damaged")

    calls: dict[str, Callable[[], object]] = {
        "read": lambda: storage.read(KEY, Query()),
        "read as a use": lambda: storage.read(KEY, Query(lease=LEASE)),
        "write": lambda: storage.write(KEY, saying("second")),
    }
    with monkeypatch.context() as patch:
        patch.setattr(mirrored_sessions, "load", damaged)
        with pytest.raises(CorruptRecordError):
            calls[verb]()
    monkeypatch.setattr(mirrors, "_pause", lambda _: pytest.fail("it waits"))
    assert said(storage) == ["first"]


@pytest.mark.parametrize("is_use", [False, True])
def test_a_session_that_is_deleted_while_it_is_looked_for_is_not_there(
    opens: Opens, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, is_use: bool
) -> None:
    storage, other = opens(), opens()
    fence = other.write(KEY, saying("secret")).generation
    clock.advance(50)
    begin = Transactions.write if is_use else Transactions.read

    def deleted(transactions: Transactions, work: Any) -> Any:
        monkeypatch.undo()
        assert other.delete(*KEY, 60.0) == 1
        return begin(transactions, work)

    monkeypatch.setattr(Transactions, "write" if is_use else "read", deleted)
    found = storage.read(KEY, Query(("log",), lease=LEASE if is_use else None))
    assert (found.generation, found.lists) == (0, {})
    assert found.fence >= fence
    assert remembered(storage) == {}


@pytest.mark.parametrize("how", ["created", "written", "read", "used"])
def test_what_continues_a_deleted_session_is_refused_by_whoever_remembers_the_one_after_it(
    opens: Opens, clock: Clock, how: str
) -> None:
    one, two = opens(), opens()
    old = one.write(KEY, saying("old")).generation
    one.delete(*KEY, 90.0)
    one.write(KEY, saying("new"))
    clock.advance(50)
    if how == "written":
        two.write(KEY, Change(LEASE))
    elif how in ("read", "used"):
        two.read(KEY, Query(lease=LEASE if how == "used" else None))
    worker = one if how == "created" else two
    assert remembered(worker)
    assert worker.write(KEY, saying("late", guard=Guard(old))).status is Status.DELETED
    assert said(worker) == ["new"]


def test_no_read_misses_what_was_written_before_it_began(opens: Opens) -> None:
    one, two = opens(), opens()
    positions: list[int] = []

    def write(storage: SQLiteStorage, name: str) -> None:
        for number in range(150):
            outcome = storage.write(KEY, saying(f"{name} {number}"))
            positions.append(outcome.position)

    def read(storage: SQLiteStorage) -> None:
        while len(positions) < 450:
            before = [*positions]
            found = storage.read(KEY, Query(("log",), ("m",)))
            entries = found.lists.get("log", ())
            assert {entry.position for entry in entries}.issuperset(before)
            assert len(entries) == len(found.blobs)
            assert not entries or entries[-1].position == found.position

    with ThreadPoolExecutor(7) as threads:
        calls = [threads.submit(write, storage, name) for storage, name in ((one, "a"), (one, "b"), (two, "c"))]
        calls += [threads.submit(read, storage) for storage in (one, one, one, two)]
        for call in calls:
            call.result(60)


def test_what_another_thread_changes_is_waited_for_a_part_of_the_timeout_only(opens: Opens) -> None:
    """Whoever queues behind a reader that waits has the whole timeout, and no more."""
    assert opens()._sessions._patience == 0.25
    assert opens(timeout=0.2)._sessions._patience == 0.2 / 4


def test_a_lock_held_for_too_long_is_an_error(opens: Opens, tmp_path: Path) -> None:
    storage = opens(timeout=0.2)
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match=r"locked; another program .* larger timeout") as raised:
        storage.write(KEY, saying("hello"))
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
    assert said(storage) == []
    other.execute("ROLLBACK")
    other.close()
    storage.write(KEY, saying("hello"))


def test_a_lock_is_waited_for_as_long_as_the_timeout_says(opens: Opens, tmp_path: Path) -> None:
    storage = opens(timeout=1.0)
    storage.write(KEY, saying("remembered, so that the next write is one statement"))
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StorageError, match="locked"):
            storage.write(KEY, saying("hello"))
        assert 0.9 < time.monotonic() - began < 1.9
