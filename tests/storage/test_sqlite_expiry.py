"""When sessions in a SQLite file expire, and how what expired is freed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.sqlite import freeing
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.storage.types import Blob, Change, Lease, Query, Status
from langchain_ttl_history.testing import Clock
from tests.shared.one_session import KEY, LEASE
from tests.shared.sqlite_cases import Opens, lent, said, saying


def test_most_reads_write_nothing(opens: Opens, clock: Clock) -> None:
    storage, onlooker = opens(), opens()
    storage.write(KEY, saying("hello"))
    for _ in range(10):
        with lent(onlooker) as connection:
            before = connection.execute("PRAGMA data_version").fetchone()
        clock.advance(1)
        assert said(storage) == ["hello"]
        storage.read(KEY, Query(("log",), lease=LEASE))
        with lent(onlooker) as connection:
            assert connection.execute("PRAGMA data_version").fetchone() == before
    clock.advance(1)
    assert storage.read(KEY, Query(lease=LEASE)).last_used_at == clock.now


@pytest.mark.parametrize("max_age", [None, 1_000.0, 130.0])
def test_reading_at_any_pace_a_session_lives_no_shorter_and_a_tenth_longer_at_most(
    opens: Opens, clock: Clock, max_age: float | None
) -> None:
    storage, lease = opens(), Lease(100.0, max_age)
    for pace in (1.0, 7.0, 9.99, 10.0, 10.01, 50.0, 99.99):
        key = SessionKey("ada", f"at {pace}")
        storage.write(key, Change(lease))
        born = clock.now
        last = born
        while clock.now + pace < born + min(300.0, max_age or 300.0):
            clock.advance(pace)
            last = clock.now
            assert storage.read(key, Query(lease=lease)).generation, "gone too early"
        ends = storage.read(key, Query()).expires_at
        assert ends is not None
        idle_end, age_end = last + 100.0, born + (max_age or 1e9)
        assert min(idle_end, age_end) - 1e-6 <= ends <= min(idle_end + 10.0, age_end) + 1e-6


def test_a_shorter_idle_time_of_its_own_forgets_no_read(opens: Opens, clock: Clock) -> None:
    storage = opens()
    storage.write(KEY, Change(LEASE))
    clock.advance(9)
    storage.read(KEY, Query(lease=LEASE))
    storage.write(KEY, Change(LEASE, idle_ttl=5.0, upkeep=True))
    clock.advance(4.9)
    assert storage.read(KEY, Query()).generation


@pytest.mark.parametrize("max_age", [None, 1_000.0])
def test_without_an_idle_time_a_use_moves_a_session_once_a_minute(max_age: float | None) -> None:
    row, lease = Row.new(1, 0.0), Lease(None, max_age)
    assert row.use(0.0, lease) is (max_age is not None)
    assert [row.is_due(now, lease) for now in (0.0, 0.25)] == [False, True]
    assert [row.use(now, lease) for now in (0.25, 60.0, 60.25, 120.0)] == [False, False, True, False]


def test_tombstones_are_freed_when_they_end(opens: Opens, clock: Clock) -> None:
    storage = opens()

    def standing() -> int:
        with lent(storage) as connection:
            (count,) = connection.execute("SELECT count(*) FROM tombstones").fetchone()
        return int(count)

    frees: list[Callable[[], object]] = [
        storage.sweep,
        lambda: storage.write(SessionKey("ada", f"at {clock.now}"), Change(LEASE)),
        lambda: storage.delete("bob", "s1", 0.0),
    ]
    for free in frees:
        storage.delete("ada", None, 60.0)
        clock.advance(59)
        free()
        assert standing() >= 1
        clock.advance(1)
        free()
        assert standing() == 0, free


def test_writes_free_what_expired_and_the_file_stays_small(opens: Opens, clock: Clock, tmp_path: Path) -> None:
    storage = opens()
    sizes = []
    for number in range(600):
        storage.write(
            SessionKey("u", f"s{number}"), Change(LEASE, blobs={f"m{n}": Blob(b"x" * 3_000) for n in range(8)})
        )
        clock.advance(5)
        sizes.append((tmp_path / "s.db").stat().st_size + (tmp_path / "s.db-wal").stat().st_size)
    assert storage.usage().sessions < 40
    assert max(sizes[300:]) <= 1.3 * max(sizes[:300])


def test_writes_give_pages_back_while_they_free_a_large_session(
    opens: Opens, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freeing, "_SPARE", 100)
    storage = opens()
    storage.write(SessionKey("u", "large"), Change(LEASE, blobs={f"m{n}": Blob(b"x" * 9_000) for n in range(400)}))

    def pages() -> int:
        with lent(storage) as connection:
            (count,) = connection.execute("PRAGMA page_count").fetchone()
        return int(count)

    before = pages()
    clock.advance(1_000)
    for number in range(30):
        storage.write(SessionKey("u", f"s{number}"), Change(LEASE))
    assert storage.usage().sessions == 30
    assert pages() < before - 500


def test_writes_to_a_session_that_is_remembered_free_what_expired_as_well(opens: Opens, clock: Clock) -> None:
    storage = opens()
    storage.write(SessionKey("bob", "s1"), saying("expires"))
    storage.write(KEY, saying("stays", idle_ttl=None))
    clock.advance(1_000)
    for _ in range(64):
        storage.write(KEY, Change(LEASE))
    assert storage.usage().sessions == 1


def test_a_sweep_gives_many_pages_back_in_each_transaction(
    opens: Opens, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = opens()
    storage.write(KEY, Change(LEASE, blobs={f"m{n}": Blob(b"x" * 9_000) for n in range(400)}))
    clock.advance(1_000)
    transactions: list[bool] = []

    def counted(connection: sqlite3.Connection) -> bool:
        transactions.append(vacuum(connection))
        return transactions[-1]

    vacuum = freeing.vacuum
    monkeypatch.setattr(freeing, "vacuum", counted)
    assert storage.sweep() == 1
    assert len(transactions) <= 3


@pytest.mark.parametrize("size", [8_000, 20_000])
def test_a_session_that_is_partly_freed_stays_over(opens: Opens, clock: Clock, size: int) -> None:
    late = Clock(clock.now)
    writer, reader, other = opens(), opens(), opens(clock=late)
    for number in range(200):
        writer.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(bytes(size))}))
    late.advance(1_000.0)
    other.write(SessionKey("bob", "s1"), saying("frees a part"))
    with lent(other) as connection:
        rows = connection.execute("SELECT count(*), count(DISTINCT generation) FROM segments").fetchone()
    assert rows[0] > 10  # a part of the first session, since one write frees less
    assert rows[1] == 2
    # For these two the time has not come, as after the clock was set back, or to a write that waited for its turn.
    assert not reader.read(KEY, Query(outline=True)).generation
    outcome = writer.write(KEY, saying("anew"))
    assert outcome.status is Status.STORED
    assert outcome.bytes == 2 * len("anew")
    assert said(writer) == said(reader) == ["anew"]
    assert writer.sweep() == 0
    late.advance(1_000.0)
    assert other.sweep() == 2
    assert writer.usage() == (0, 0)


def test_a_sweep_frees_all_at_once_and_gives_the_pages_back(opens: Opens, clock: Clock, tmp_path: Path) -> None:
    storage = opens()
    storage.sweep()
    empty = (tmp_path / "s.db").stat().st_size
    for number in range(300):
        storage.write(SessionKey("u", f"s{number}"), Change(LEASE, blobs={"m": Blob(b"x" * 5_000)}))
        storage.delete("u", "gone", 50.0)
    storage.write(KEY, saying("hello", idle_ttl=None))
    clock.advance(1_000)
    assert storage.sweep() == 300 == 301 - storage.usage().sessions
    assert (tmp_path / "s.db").stat().st_size <= empty + 8 * 1024
    assert (tmp_path / "s.db-wal").stat().st_size == 0
    assert said(storage) == ["hello"]


def test_a_sweep_ends_where_an_operator_rebuilt_the_file_so_that_it_gives_back_no_page(
    opens: Opens, clock: Clock, tmp_path: Path
) -> None:
    with closing(opens()) as storage:
        storage.write(KEY, Change(LEASE, blobs={"m": Blob(b"x" * 50_000)}))
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA auto_vacuum = NONE", "VACUUM"):
            connection.execute(statement)
    clock.advance(1_000)
    storage = opens()
    with ThreadPoolExecutor(1) as pool:
        swept = pool.submit(storage.sweep)
        try:
            assert swept.result(10.0) == 1
        finally:
            storage.close()
