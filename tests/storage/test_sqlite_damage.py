"""A full disk and a damaged SQLite file are errors, and never an empty session."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.errors import CorruptRecordError, StorageError, TTLHistoryError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.session_listing import readable
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite import listing
from langchain_ttl_history.storage.types import Blob, Change, Query, UnreadablePageError
from tests.shared.one_session import KEY, LEASE
from tests.shared.sqlite_cases import Opens, close_connections_as_for_a_fork, lent, said, saying

Call = Callable[..., Any]


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


@pytest.mark.parametrize("length", [20, 3_000, 200_000])
def test_a_blob_that_changed_on_the_disk_is_an_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "s.db"
    with closing(SQLiteStorage(path)) as storage:
        storage.write(KEY, Change(LEASE, blobs={"m": Blob(b"y" * length)}))
    raw = path.read_bytes()
    assert b"yyyyyyyyyy" in raw
    path.write_bytes(raw.replace(b"yyyyyyyyyy", b"yyyyyyyyyz", 1))
    with closing(SQLiteStorage(path)) as storage, pytest.raises(CorruptRecordError, match="not what was written"):
        storage.read(KEY, Query(("m",)))


def test_a_full_disk_is_an_error_and_leaves_what_was_there(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    storage.write(KEY, saying("before"))
    with lent(storage) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")
    with pytest.raises(StorageError, match=r"is full; make some megabytes of room") as raised:
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
    import resource  # Windows has none.

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    storage = SQLiteStorage(path)
    assert len(said(storage)) == 61
    with pytest.raises(StorageError):
        storage.write(KEY, saying("x" * 100_000))
    assert len(said(storage)) == 61


@pytest.mark.skipif(sys.platform == "win32", reason="Windows bounds the size of no file")
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


def test_a_segment_that_stands_in_the_place_of_another_is_an_error(opens: Opens) -> None:
    storage = opens()
    for number in range(10):
        storage.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(bytes([number]) * 8_000)}))
    with lent(storage) as connection:
        # The last full segment, where a session's row now says that its tail is.
        connection.execute("UPDATE segments SET number = number + 1 WHERE number = (SELECT max(number) FROM segments)")
    with pytest.raises(CorruptRecordError, match="is gone"):
        opens().read(KEY, Query(outline=True))


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
    "a time after all": "UPDATE sessions SET created = 9e999",
    "a use of text": "UPDATE sessions SET renewed = 'text'",
    "a deadline of text": "UPDATE sessions SET deadline = ''",
    "an idle time of text": "UPDATE sessions SET idle = 'text'",
    "a short head": "UPDATE sessions SET head = substr(head, 2)",
    "a head that is a number": "UPDATE sessions SET head = 1",
    "a use at no time": "UPDATE sessions SET head = CAST(substr(head, 1, 40) || x'7ff8000000000000' AS BLOB)",
    "a use after all": "UPDATE sessions SET head = CAST(substr(head, 1, 40) || x'7ff0000000000000' AS BLOB)",
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


@pytest.mark.parametrize("damage", ["a short key", "another key", "no key"])
@pytest.mark.parametrize("user", ["ada", None])
def test_a_damaged_key_hides_none_of_the_others_in_a_list(
    opens: Opens, tmp_path: Path, call: Call, damage: str, user: str | None
) -> None:
    with closing(opens()) as storage:
        for number in range(4):
            SessionBuffer(storage).history("ada", f"s{number}").add_system_message("hello")
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as file:
        statement = DAMAGE[damage]
        second = "generation = (SELECT generation FROM sessions ORDER BY generation LIMIT 1 OFFSET 1)"
        file.execute(f"{statement} {'AND' if 'WHERE' in statement else 'WHERE'} {second}")
    found: list[str] = []
    told: list[TTLHistoryError] = []
    listing = SessionBuffer(opens()).sessions(user, all_users=user is None)
    found += [info.session_id for info in readable(listing, told)]
    assert found == ["s0", "s2", "s3"]
    assert ["s.db" in str(each) for each in told] == [True]


@pytest.mark.parametrize("damage", ["a short key", "another key", "no key"])
def test_a_damaged_key_is_an_error_in_a_list_though_there_is_no_other(
    opens: Opens, tmp_path: Path, damage: str
) -> None:
    with closing(opens()) as storage:
        SessionBuffer(storage).history("ada", "s1").add_system_message("hello")
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as file:
        file.execute(DAMAGE[damage])
    told: list[TTLHistoryError] = []
    assert list(readable(SessionBuffer(opens()).sessions("ada"), told)) == []
    assert ["s.db" in str(each) for each in told] == [True]


@pytest.mark.parametrize(
    ("damage", "name"), [("a short head", "session ('ada', 's0')"), ("a head that is a number", "")]
)
async def test_a_damaged_row_keeps_no_others_from_being_counted(
    opens: Opens, tmp_path: Path, call: Call, caplog: pytest.LogCaptureFixture, damage: str, name: str
) -> None:
    with closing(opens()) as storage:
        for number in range(4):
            SessionBuffer(storage).history("ada", f"s{number}").add_system_message("hello")
        whole = storage.usage()
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as file:
        file.execute(DAMAGE[damage] + " WHERE generation = (SELECT min(generation) FROM sessions)")
        if not name:
            file.execute("DELETE FROM segments WHERE number = 0")
    assert await call(SessionBuffer(opens()), "stats") == (3, whole.bytes * 3 // 4)
    (message,) = caplog.messages
    assert message.startswith("stats() left out")
    assert "s.db" in message
    assert (name or "generation") in message


@pytest.mark.parametrize("time_of_use", ["it's no time", b"\x01"])
def test_a_list_ends_though_a_page_ends_with_a_damaged_time_of_use(tmp_path: Path, time_of_use: str | bytes) -> None:
    path = tmp_path / "s.db"
    with closing(SQLiteStorage(path)) as storage:
        for number in range(listing._PAGE):
            storage.write(SessionKey("ada", f"s{number}"), saying("x"))
    with closing(sqlite3.connect(path)) as connection:
        last = "generation = (SELECT max(generation) FROM sessions)"
        connection.execute(f"UPDATE sessions SET renewed = ? WHERE {last}", (time_of_use,))
        connection.commit()
    with closing(SQLiteStorage(path)) as storage:
        keys, after = storage.sessions("ada")
        assert len(keys) == listing._PAGE
        assert storage.sessions("ada", after) == ([], None)


def test_an_error_about_a_page_goes_from_one_process_to_another() -> None:
    error = UnreadablePageError([CorruptRecordError("first"), CorruptRecordError("second")], [KEY], "7")
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.keys, copied.after) == ("first, and 1 more like it", [KEY], "7")
