"""Which files SQLite's storage makes, opens and refuses."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.errors import ConfigurationError, SessionDeletedError, StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite.schema import _NEW, FORMAT
from langchain_ttl_history.storage.types import Change, Guard, Query, Status
from tests.shared.one_session import KEY, LEASE
from tests.shared.sqlite_cases import Opens, lent, said, saying

FIXTURES = Path(__file__).parent / "fixtures"


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
def test_a_file_that_is_gone_is_neither_written_to_nor_read(opens: Opens, tmp_path: Path, how: str) -> None:
    storage, path = opens(), tmp_path / "s.db"
    storage.write(KEY, saying("hello"))
    if how == "deleted":
        path.unlink()
    else:
        path.rename(tmp_path / "elsewhere.db")
    if how == "replaced":
        path.touch()
    for _ in range(2):
        # What is remembered is not shown either, so the first look is before a write.
        for look in (lambda: storage.read(KEY, Query()), lambda: storage.sessions(None), storage.usage):
            with pytest.raises(StorageError, match="no longer the file"):
                look()
        with pytest.raises(StorageError, match="no longer the file"):
            storage.write(KEY, saying("again"))
    assert path.exists() == (how == "replaced")
    if how == "moved":
        (tmp_path / "elsewhere.db").rename(path)
        assert storage.write(KEY, saying("again")).status is Status.STORED


@pytest.mark.parametrize(
    ("name", "error"), [("n" * 300, StorageError), ("\ud800", ConfigurationError)], ids=["too long", "no name"]
)
def test_a_name_the_system_refuses_is_said_so(tmp_path: Path, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
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
    with pytest.raises(ConfigurationError, match=r"another program's.*name a different one"):
        SQLiteStorage(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["other.db"]


@pytest.mark.parametrize(
    "trace",
    [
        "PRAGMA journal_mode = WAL",
        "VACUUM",
        "CREATE TABLE x (y); DROP TABLE x",
        "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL",
        "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL",
    ],
)
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


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"Dear diary, " * 500)
    with pytest.raises(StorageError, match=r"notes\.txt: file is not a database.*name a different file"):
        SQLiteStorage(path)
    assert path.read_bytes() == b"Dear diary, " * 500


def test_a_file_of_a_newer_format_is_refused(opens: Opens, tmp_path: Path) -> None:
    opens().close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    with pytest.raises(StorageError, match=f"format {FORMAT + 1}, newer than {FORMAT}"):
        opens()


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
        ("no/such/folder/s.db", "no folder.*make it first"),
        ("~/s.db", r"~ is not expanded.*expanduser"),
        ("no/~such/s.db", "make it first"),
        ("sqlite:///s.db", r"is a URL.*SessionBuffer\(\.\.\.\)"),
        ("sqlite:s.db", "is a URL"),
        ("file:s.db", "is a URL"),
        ("postgres://ada:secret@host/db", "what begins with postgres: is a URL; pass the path alone"),
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


def test_a_relative_path_is_refused_once_the_working_directory_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(ConfigurationError, match=r"s\.db is relative .* deleted .*; pass an absolute path"):
        SessionBuffer("sqlite:///s.db")
    with pytest.raises(ConfigurationError, match=r"there is no folder .*here for s\.db; make it first"):
        SessionBuffer(f"sqlite:///{tmp_path}/here/s.db")
    with SessionBuffer(f"sqlite:///{tmp_path}/s.db") as buffer:
        assert buffer.history("ada", "s1").messages == []


@pytest.mark.parametrize("timeout", [0, -1, True, "3", float("nan"), float("inf"), None])
def test_a_timeout_is_a_number_of_seconds(tmp_path: Path, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout must be more than 0 seconds and less than a day"):
        SQLiteStorage(tmp_path / "s.db", timeout=timeout)


@pytest.mark.parametrize("durable", ["no", 0, None])
def test_durable_is_true_or_false(tmp_path: Path, durable: Any) -> None:
    with pytest.raises(ConfigurationError, match="durable must be True or False"):
        SQLiteStorage(tmp_path / "s.db", durable=durable)
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:", "sqlite://host/x.db", "sqlite:///x.db?mode=ro", "sqlite:x"]
)
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        SessionBuffer(url)


def test_a_url_with_options_is_told_who_takes_them() -> None:
    with pytest.raises(ConfigurationError, match=r"without options; SQLiteStorage\(path, durable=\.\.\., timeout="):
        SessionBuffer("sqlite:///x.db?mode=ro")


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


def test_a_closed_storage_says_so(opens: Opens) -> None:
    storage = opens()
    storage.close()
    storage.close()
    with pytest.raises(StorageError, match=r"closed.*make a new SessionBuffer"):
        storage.read(KEY, Query())


def test_a_durable_storage_waits_for_the_disk(opens: Opens) -> None:
    for durable, level in ((True, 2), (False, 1)):
        with lent(opens(durable=durable)) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
