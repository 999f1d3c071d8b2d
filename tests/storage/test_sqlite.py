"""SQLite keeps the storage contract, and its promises about the file, other workers and failure."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
import resource
import sqlite3
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.errors import ConfigurationError, CorruptRecordError, SessionDeletedError, StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.base import Blob, Change, Entry, Guard, Lease, Query, Status, Storage
from langchain_ttl_history.storage.sqlite import freeing, listing, lookup, updates
from langchain_ttl_history.storage.sqlite import mirror as mirrors
from langchain_ttl_history.storage.sqlite.schema import _NEW, FORMAT
from langchain_ttl_history.storage.sqlite.transactions import Transactions
from langchain_ttl_history.testing import Clock, StorageContract
from tests.storage.interrupts import interrupted
from tests.storage.sqlite_cases import (
    Opens,
    bytes_remembered,
    close_connections_as_for_a_fork,
    idle,
    lent,
    remembered,
    traces,
)

FIXTURES = Path(__file__).parent / "fixtures"


class TestSQLite(StorageContract):
    slack = 0.1

    def make(self, clock: Callable[[], float]) -> Storage:
        self.folder = tempfile.TemporaryDirectory()
        return SQLiteStorage(Path(self.folder.name) / "s.db", clock=clock)

    def make_broken(self, clock: Callable[[], float]) -> Storage:
        path = Path(self.folder.name) / "broken.db"
        broken = SQLiteStorage(path, clock=clock)
        with lent(broken) as connection:
            for table in ("state", "sessions", "segments", "tombstones"):
                connection.execute(f"DROP TABLE {table}")
        return broken

    def teardown_method(self) -> None:
        super().teardown_method()
        self.folder.cleanup()


class TestSQLiteAsync(TestSQLite):
    asynchronous = True


class TestSQLiteInMemory(StorageContract):
    slack = 0.1

    def make(self, clock: Callable[[], float]) -> Storage:
        return SQLiteStorage(":memory:", clock=clock)


class TestSQLiteInMemoryAsync(TestSQLiteInMemory):
    asynchronous = True


KEY = SessionKey("ada", "s1")
LEASE = Lease(100.0, None)


def saying(text: str, **change: Any) -> Change:
    return Change(
        LEASE, blobs={f"m{text}": Blob(text.encode())}, append=[("log", text.encode(), (f"m{text}",))], **change
    )


def said(storage: SQLiteStorage, key: SessionKey = KEY) -> list[str]:
    found = storage.read(key, Query(("log",), ("m",)))
    assert {name[1:] for name in found.blobs} == {entry.payload.decode() for entry in found.lists.get("log", ())}
    return [entry.payload.decode() for entry in found.lists.get("log", ())]


# --- what others wrote ------------------------------------------------------------------------


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


# --- expiry -----------------------------------------------------------------------------------


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


# --- deletion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["one", "user"])
def test_nothing_of_what_was_deleted_is_in_the_bytes_of_any_file(opens: Opens, tmp_path: Path, how: str) -> None:
    storage = opens()
    rng = random.Random(7)
    users = [f"USER-{number:03d}-" for number in range(12)]
    # Much of many sessions, written in any order, changed and dropped, so that the tables' pages
    # are split and joined, which leaves copies of rows behind.
    for number in range(2_500):
        user = rng.choice(users)
        word = user.encode()
        key = SessionKey(user, f"SESSION-of-{user}")
        blobs = {f"m{rng.getrandbits(96):024x}-of-{user}": Blob(word * rng.choice([1, 4, 30, 80, 300]))}
        drop = [f"m{number % 40}-{user}"] if number % 3 else []
        blobs[f"m{number % 50}-{user}"] = Blob(word * rng.randrange(60))
        storage.write(key, Change(LEASE, blobs=blobs, append=[(f"w{user}", word, tuple(blobs))], drop=drop))
    for user in users[:11]:
        assert traces(tmp_path, user.encode())
        storage.delete(user, f"SESSION-of-{user}" if how == "one" else None, 60.0)
        assert traces(tmp_path, user.encode()) == {}
    assert traces(tmp_path, users[11].encode())


def test_what_a_reader_keeps_from_being_wiped_the_next_write_of_any_worker_wipes(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    storage.write(KEY, saying("SECRET"))
    reader = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM sessions").fetchone()
    assert storage.delete(*KEY, 60.0) == 1
    assert traces(tmp_path, b"SECRET")
    reader.execute("COMMIT")
    opens().write(SessionKey("bob", "s2"), saying("hello"))
    assert traces(tmp_path, b"SECRET") == {}
    reader.close()


def test_what_a_reader_keeps_from_being_wiped_a_sweep_wipes(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    storage.write(KEY, saying("SECRET"))
    reader = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM sessions").fetchone()
    storage.delete(*KEY, 60.0)
    reader.execute("COMMIT")
    storage.sweep()
    assert traces(tmp_path, b"SECRET") == {}
    reader.close()


# --- the file ---------------------------------------------------------------------------------


def test_a_file_it_makes_is_its_owners_alone(opens: Opens, tmp_path: Path) -> None:
    opens().write(KEY, saying("hello"))
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "s.db": 0o600,
        "s.db-wal": 0o600,
        "s.db-shm": 0o600,
    }


def test_a_file_made_through_a_link_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "s.db")
    storage = SQLiteStorage(tmp_path / "link.db")
    storage.write(KEY, saying("hello"))
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "real").iterdir()} == {0o600}
    storage.close()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_what_would_be_written_to_a_file_that_is_gone_is_refused(opens: Opens, tmp_path: Path, how: str) -> None:
    storage, path = opens(), tmp_path / "s.db"
    storage.write(KEY, saying("hello"))
    if how == "deleted":
        path.unlink()
    else:
        path.rename(tmp_path / "elsewhere.db")
    if how == "replaced":
        path.touch()
    for _ in range(2):
        with pytest.raises(StorageError, match="no longer the file"):
            storage.write(KEY, saying("again"))
    assert path.exists() == (how == "replaced")
    if how == "moved":
        (tmp_path / "elsewhere.db").rename(path)
        assert storage.write(KEY, saying("again")).status is Status.STORED


@pytest.mark.parametrize("name", ["n" * 300, "\ud800"], ids=["too long", "no name"])
def test_a_name_the_system_refuses_is_said_so(tmp_path: Path, name: str) -> None:
    with pytest.raises((StorageError, ConfigurationError)):
        SQLiteStorage(f"{tmp_path}/{name}.db")


def test_a_relative_path_stays_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = SQLiteStorage("here.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    storage.close()
    again = SQLiteStorage(tmp_path / "here.db")
    again.close()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["here.db"]


def test_another_programs_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program's"):
        SQLiteStorage(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["other.db"]


@pytest.mark.parametrize("trace", ["PRAGMA journal_mode = WAL", "VACUUM", "CREATE TABLE x (y); DROP TABLE x"])
def test_another_programs_file_without_tables_is_refused_and_left_as_it_is(tmp_path: Path, trace: str) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(trace)
    before = path.read_bytes()
    assert before
    with pytest.raises(ConfigurationError, match="another program's"):
        SQLiteStorage(path)
    assert path.read_bytes() == before


def test_a_file_whose_maker_was_killed_before_it_had_tables_is_used(opens: Opens, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        for pragma in (*_NEW, "PRAGMA journal_mode = WAL"):
            connection.execute(pragma)
    assert (tmp_path / "s.db").stat().st_size
    opens().write(KEY, saying("hello"))
    assert said(opens()) == ["hello"]


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


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"Dear diary, " * 500)
    with pytest.raises(StorageError, match=r"notes\.txt"):
        SQLiteStorage(path)
    assert path.read_bytes() == b"Dear diary, " * 500


def test_a_file_of_a_newer_format_is_refused(opens: Opens, tmp_path: Path) -> None:
    opens().close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    with pytest.raises(StorageError, match=f"format {FORMAT + 1}, newer than {FORMAT}"):
        opens()


@pytest.mark.parametrize("length", [20, 3_000, 200_000])
def test_a_text_that_changed_on_the_disk_is_an_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "s.db"
    with closing(SQLiteStorage(path)) as storage:
        SessionBuffer(storage).history("ada", "s1").add_messages([HumanMessage("x" * length), AIMessage("y" * length)])
    raw = path.read_bytes()
    # Within a page, since others lie in between.
    assert b"yyyyyyyyyy" in raw
    path.write_bytes(raw.replace(b"yyyyyyyyyy", b"yyyyyyyyyz", 1))
    with closing(SQLiteStorage(path)) as storage, pytest.raises(CorruptRecordError, match="s1"):
        _ = SessionBuffer(storage).history("ada", "s1").messages


@pytest.mark.parametrize("version", range(1, FORMAT + 1))
def test_a_file_of_every_released_format_is_read(tmp_path: Path, version: int) -> None:
    path = tmp_path / "old.db"
    path.write_bytes((FIXTURES / f"format-{version}.db").read_bytes())
    with closing(SQLiteStorage(path)) as storage:
        buffer = SessionBuffer(storage)
        assert [info.session_id for info in buffer.sessions("ada")] == ["s1"]
        history = buffer.history("ada", "s1")
        assert [message.content for message in history.messages] == ["Where is my parcel?", "On its way.", "billing 📦"]
        saver = buffer.checkpointer(user_id="ada")
        saved = saver.get_tuple({"configurable": {"thread_id": "s1"}})
        assert saved is not None
        assert [message.content for message in saved.checkpoint["channel_values"]["messages"]][:1] == [
            "Where is my parcel?"
        ]
        history.add_system_message("still writable")
        assert history.messages[-1].content == "still writable"
        with pytest.raises(SessionDeletedError):
            run_late(buffer)


def run_late(buffer: SessionBuffer) -> None:
    """A turn that began before the deletion that the fixture remembers."""
    outcome = buffer._storage.write(SessionKey("ada", "gone"), Change(LEASE, guard=Guard(1)))
    if outcome.status is Status.DELETED:
        raise SessionDeletedError


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/such/folder/s.db", "no folder"),
        (".", "is a folder"),
        ("", "must name a file"),
        ("a\0b", "must name a file"),
        (b"s.db", "string or a path"),
        (None, "string or a path"),
        (3, "string or a path"),
    ],
)
def test_a_path_that_names_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        SQLiteStorage(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("timeout", [0, -1, True, "3", float("nan"), float("inf"), None])
def test_a_timeout_is_a_number_of_seconds(tmp_path: Path, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        SQLiteStorage(tmp_path / "s.db", timeout=timeout)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:", "sqlite://host/x.db", "sqlite:///x.db?mode=ro", "sqlite:x"]
)
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        SessionBuffer(url)


def test_urls_name_files_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///relative.db", f"sqlite:///{tmp_path}/absolute.db"):
        with SessionBuffer(url) as buffer:
            buffer.history("ada", "s1").add_system_message("kept")
        with SessionBuffer(url) as buffer:
            assert [each.content for each in buffer.history("ada", "s1").messages] == ["kept"]
    with SessionBuffer("sqlite:///:memory:") as buffer:
        assert buffer.history("ada", "s1").messages == []
        assert buffer._storage.private
    assert sorted(path.name for path in tmp_path.iterdir()) == ["absolute.db", "relative.db"]


# --- failure ----------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_and_leaves_what_was_there(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    storage.write(KEY, saying("before"))
    with lent(storage) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")
    with pytest.raises(StorageError, match="full") as raised:
        storage.write(KEY, Change(LEASE, blobs={"m": Blob(b"x" * 100_000)}, append=[("log", b"lost", ())]))
    assert isinstance(raised.value.__cause__, sqlite3.Error)
    for each in (storage, opens()):
        assert said(each) == ["before"]
    storage.write(KEY, saying("after"))
    assert said(opens()) == ["before", "after"]


def leave_a_log(path: str) -> None:
    """Write more than stands in the file itself, and end as a process does that is killed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        storage = SQLiteStorage(path)
        storage.write(KEY, saying("before"))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM state").fetchall()
        for number in range(60):
            storage.write(KEY, saying(f"{number} {'x' * 10_000}"))
        os._exit(0)


def read_on_a_full_disk(path: str, size: int) -> None:
    """Read while no file may grow over this size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    storage = SQLiteStorage(path)
    assert len(said(storage)) == 61
    with pytest.raises(StorageError):
        storage.write(KEY, saying("x" * 100_000))
    assert len(said(storage)) == 61


def test_what_is_stored_can_be_read_on_a_full_disk_by_a_process_that_starts_there(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    for work, *arguments in ((leave_a_log,), (read_on_a_full_disk, 64 * 1024)):
        process = multiprocessing.get_context("spawn").Process(target=work, args=(str(path), *arguments))
        process.start()
        process.join(60)
        assert process.exitcode == 0
    assert path.stat().st_size <= 64 * 1024 < path.with_name("s.db-wal").stat().st_size
    with closing(SQLiteStorage(path)) as storage:
        assert len(said(storage)) == 61


def test_a_write_that_is_stored_does_not_fail_because_it_could_not_finish_a_deletion(
    opens: Opens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = opens()
    storage.write(KEY, saying("SECRET"))
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM state").fetchall()
        storage.delete("ada", "s1", 60.0)

    def full(transactions: Transactions, *, wait: bool) -> bool:
        raise StorageError("s.db: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Transactions, "truncate", full)
        assert storage.write(KEY, saying("stored")).status is Status.STORED
    assert traces(tmp_path, b"SECRET")
    assert storage.write(KEY, saying("and the next")).status is Status.STORED
    assert not traces(tmp_path, b"SECRET")
    assert said(opens()) == ["stored", "and the next"]


def test_a_damaged_file_is_an_error_and_never_an_empty_session(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    for number in range(50):
        storage.write(SessionKey("ada", f"s{number}"), Change(LEASE, blobs={"m": Blob(b"x" * 4_000)}))
    storage.close()
    path = tmp_path / "s.db"
    content = path.read_bytes()
    path.write_bytes(content[: 16 * 1024] + bytes(len(content) - 16 * 1024))
    try:
        storage = opens()
        found = [storage.read(SessionKey("ada", f"s{number}"), Query(("m",))) for number in range(50)]
    except (StorageError, CorruptRecordError):
        return
    pytest.fail(f"read {sum(len(each.blobs) for each in found)} of 50 sessions")


# Python 3.10 keeps nothing of a message it cannot decode.
DAMAGED_NAME = r"s\.db: the database is damaged" + ("" if sys.version_info < (3, 11) else ".*sessions_of_.*ser")


def test_a_damaged_name_of_an_index_is_an_error_that_says_so(opens: Opens, tmp_path: Path) -> None:
    opens().close()
    path = tmp_path / "s.db"
    content = path.read_bytes().replace(b"sessions_of_user", b"sessions_of_\xf3ser")
    path.write_bytes(content.replace(b"CREATE INDEX sessions_of", b"CREATE INDEZ sessions_of"))
    with pytest.raises(StorageError, match=DAMAGED_NAME):
        opens()


def test_a_file_that_an_append_cannot_open_anew_is_an_error_that_names_it(opens: Opens, tmp_path: Path) -> None:
    """As after a fork, which closes the connections, when the process may open no more files."""
    storage = opens()
    history = SessionBuffer(storage).history("ada", "s1")
    history.add_system_message("one")
    close_connections_as_for_a_fork(storage)
    with (tmp_path / "s.db").open("r+b") as file:
        file.write(b"\xff" * 4_096)
    with pytest.raises(StorageError, match=r"s\.db: file is not a database"):
        history.add_system_message("two")


def test_a_row_that_is_cut_off_is_an_error_that_names_the_session(opens: Opens) -> None:
    storage = opens()
    SessionBuffer(storage).history("ada", "s1").add_system_message("hello")
    storage.close()
    storage = opens()
    with lent(storage) as connection:
        connection.execute("UPDATE sessions SET tail = substr(tail, 1, length(tail) - 1)")
    with pytest.raises(CorruptRecordError, match=r"session \('ada', 's1'\)"):
        _ = SessionBuffer(storage).history("ada", "s1").messages


DAMAGE = {
    "no state": "DELETE FROM state",
    "a state of text": "UPDATE state SET generation = 'text'",
    "a tombstone of text": "UPDATE tombstones SET fence = 'text'",
    "an end of text": "UPDATE tombstones SET until = 'text'",
    "a time of text": "UPDATE sessions SET created = 'text'",
    "a time before all": "UPDATE sessions SET created = -9e999",
    "a use of text": "UPDATE sessions SET renewed = 'text'",
    "a deadline of text": "UPDATE sessions SET deadline = ''",
    "an idle time of text": "UPDATE sessions SET idle = 'text'",
    "a short head": "UPDATE sessions SET head = substr(head, 2)",
    "a head that is a number": "UPDATE sessions SET head = 1",
    "a use at no time": "UPDATE sessions SET head = CAST(substr(head, 1, 40) || x'7ff8000000000000' AS BLOB)",
    "a tail that is a number": "UPDATE sessions SET tail = 1.5",
    "a short tail": "UPDATE sessions SET tail = substr(tail, 2)",
    "a short key": "UPDATE segments SET body = substr(body, 2) WHERE number = 0",
    "another key": "UPDATE segments SET body = CAST(replace(body, 'ada', 'adb') AS BLOB) WHERE number = 0",
    "no key": "DELETE FROM segments WHERE number = 0",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_stands_in_a_damaged_row_each_call_works_or_says_what_is_damaged(
    opens: Opens, tmp_path: Path, damage: str
) -> None:
    with closing(opens()) as storage:
        buffer = SessionBuffer(storage)
        buffer.history("ada", "s1").add_system_message("hello")
        buffer.delete("bob", "s1")
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as file:
        assert file.execute(DAMAGE[damage]).rowcount > 0
    buffer = SessionBuffer(opens())
    calls: dict[str, Callable[[], Any]] = {
        "read": lambda: [message.content for message in buffer.history("ada", "s1").messages],
        "get_tuple": lambda: buffer.checkpointer().get_tuple(buffer.config("ada", "s1")),
        "info": lambda: buffer.info("ada", "s1"),
        "sessions": lambda: [info.session_id for info in buffer.sessions("ada")],
        "all sessions": lambda: [info.session_id for info in buffer.sessions(all_users=True)],
        "stats": buffer.stats,
        "add": lambda: buffer.history("ada", "s1").add_system_message("hello"),
        "add to another": lambda: buffer.history("bob", "s1").add_system_message("hello"),
        "set_idle_ttl": lambda: buffer.set_idle_ttl("ada", "s1", 5),
        "aset_idle_ttl": lambda: asyncio.run(buffer.aset_idle_ttl("ada", "s1", 5)),
        "delete": lambda: buffer.delete("ada", "s1"),
        "forget": lambda: buffer.forget("bob"),
        "sweep": buffer.sweep,
    }
    failed = {}
    for name, call in calls.items():
        try:
            found = call()
        except CorruptRecordError as error:
            failed[name] = str(error)
        else:
            assert found == {"read": ["hello"], "sessions": ["s1"], "all sessions": ["s1"]}.get(name, found)
    assert failed
    for name, error in failed.items():
        assert "s.db" in error
        if name in ("read", "get_tuple", "info", "add", "set_idle_ttl", "aset_idle_ttl"):
            assert error.startswith("session ('ada', 's1')")
    if "state" not in damage:
        assert failed.keys().isdisjoint({"delete", "forget", "sweep"})


def test_a_closed_storage_says_so(opens: Opens) -> None:
    storage = opens()
    storage.close()
    storage.close()
    with pytest.raises(StorageError, match="closed"):
        storage.read(KEY, Query())


def test_a_lock_held_for_too_long_is_an_error(opens: Opens, tmp_path: Path) -> None:
    storage = opens(timeout=0.2)
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked") as raised:
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


# --- indexes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (listing._LIST_USER, "USING INDEX sessions_of_user"),
        (listing._LIST_ALL, "USING INDEX sessions_by_use"),
        (lookup.TO_WRITE, "sqlite_autoindex_sessions_1 (key=?)"),
        (lookup.TO_WRITE, "sessions_by_deadline (deadline<?)"),
        (lookup.TO_WRITE, "SEARCH users USING PRIMARY KEY (key=?)"),
        (freeing._EXPIRED, "sessions_by_deadline (deadline<?)"),
        (
            "SELECT generation, key, deadline IS NULL OR deadline > ? FROM sessions WHERE user = ?",
            "sessions_of_user (user=?)",
        ),
        (lookup._TAIL, "INTEGER PRIMARY KEY (rowid=?)"),
        (lookup._SEGMENTS, "PRIMARY KEY (generation=? AND number>?)"),
        (lookup._LARGE, "PRIMARY KEY (generation=? AND number=?)"),
        (updates.CHANGE, "INTEGER PRIMARY KEY (rowid=?)"),
        (updates.RENEW, "INTEGER PRIMARY KEY (rowid=?)"),
        (updates.REPLACE, "PRIMARY KEY (generation=? AND number=?)"),
        (updates.DELETE, "PRIMARY KEY (generation=? AND number=?)"),
    ],
)
def test_what_is_looked_up_is_found_by_an_index(opens: Opens, statement: str, index: str) -> None:
    asked = [b"x"] * statement.count("?")
    with lent(opens()) as connection:
        plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, asked)]
    assert any(index in step for step in plan), plan
    # The one row of `state` is all that may be scanned.
    assert [step for step in plan if step.startswith("SCAN") and "state" not in step and "INDEX" not in step] == []
    assert not any("TEMP B-TREE" in step for step in plan), plan


# --- threads, loops and forks -----------------------------------------------------------------


def test_the_loop_is_not_blocked_while_a_write_waits(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None, check_same_thread=False)

    async def main() -> None:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(storage.awrite(KEY, saying("hello")))
        for _ in range(20):
            await asyncio.sleep(0)
        read = await asyncio.wait_for(storage.aread(KEY, Query()), 60)
        assert (read.generation, write.done()) == (0, False)
        other.execute("ROLLBACK")
        assert (await write).status is Status.STORED

    asyncio.run(main())
    other.close()


def test_reads_of_a_loop_do_not_wait_for_its_writes(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None, check_same_thread=False)

    async def main() -> None:
        other.execute("BEGIN IMMEDIATE")
        writes = [asyncio.create_task(storage.awrite(KEY, saying("hello"))) for _ in range(10)]
        await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.wait_for(storage.aread(KEY, Query()), 60)
        assert not any(write.done() for write in writes)
        other.execute("ROLLBACK")
        assert {(await write).status for write in writes} == {Status.STORED}

    asyncio.run(main())
    other.close()


@pytest.mark.parametrize("path", ["s.db", ":memory:"])
def test_a_call_that_is_interrupted_anywhere_leaves_the_storage_usable(path: str, tmp_path: Path) -> None:
    storage = SQLiteStorage(path if path == ":memory:" else tmp_path / path, timeout=5)
    storage.write(KEY, saying("first"))
    storage.write(KEY, saying("second"))
    write, read = partial(storage.write, KEY, saying("more")), partial(storage.read, KEY, Query(("log",)))
    for verb in (write, read):
        step = 0
        while interrupted(verb, step, "transactions.py", "connections.py"):
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
            await asyncio.sleep(0)
        if number % 4 == 3:
            await asyncio.sleep(0.0002 * (number % 8))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await storage.awrite(KEY, saying("last"))
    assert said(storage)[-1] == "last"
    assert storage.read(KEY, Query()).position == len(said(storage))


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


def test_a_storage_that_is_forgotten_lets_go_of_its_file(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "s.db")
    storage.write(KEY, saying("hello"))
    del storage
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


def test_a_durable_storage_waits_for_the_disk(opens: Opens) -> None:
    for durable, level in ((True, 2), (False, 1)):
        with lent(opens(durable=durable)) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)


def test_what_it_is_given_need_not_be_valid_unicode(opens: Opens) -> None:
    key = SessionKey("\ud800", "s\udfff")
    blob = Blob(b"", ("m\ud800",), 3, ("w\udc00",))
    opens().write(
        key, Change(LEASE, blobs={"c\ud800": blob, "m\ud800": Blob(b"1")}, append=[("w\udc00", b"", ("m\ud800",))])
    )
    found = opens().read(key, Query(("c\ud800",), ("m", "w")))
    assert found.blobs == {"c\ud800": blob, "m\ud800": Blob(b"1")}
    assert list(found.lists["w\udc00"]) == [Entry(1, b"", ("m\ud800",))]
    assert opens().sessions(key.user_id)[0] == [key]
