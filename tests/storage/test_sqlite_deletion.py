"""Nothing of what was deleted is left in a SQLite file."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from langchain_ttl_history.errors import StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite.transactions import Transactions
from langchain_ttl_history.storage.types import Blob, Change, Status
from tests.shared.one_session import KEY, LEASE
from tests.shared.sqlite_cases import Opens, lent, said, saying, traces


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


def reading(folder: Path) -> sqlite3.Connection:
    """Another connection that reads the file, until it commits."""
    reader = sqlite3.connect(folder / "s.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM sessions").fetchone()
    return reader


def unwiped(storage: SQLiteStorage) -> int:
    """The deletion that is still to be wiped."""
    with lent(storage) as connection:
        (fence,) = connection.execute("SELECT unwiped FROM state").fetchone()
    return int(fence)


def test_what_a_reader_keeps_from_being_wiped_the_next_write_of_any_worker_wipes(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    storage.write(KEY, saying("SECRET"))
    with closing(reading(tmp_path)) as reader:
        assert storage.delete(*KEY, 60.0) == 1
        assert traces(tmp_path, b"SECRET")
        reader.execute("COMMIT")
        opens().write(SessionKey("bob", "s2"), saying("hello"))
        assert traces(tmp_path, b"SECRET") == {}
        assert unwiped(storage) == 0


def test_what_a_reader_keeps_from_being_wiped_a_sweep_wipes(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    storage.write(KEY, saying("SECRET"))
    with closing(reading(tmp_path)) as reader:
        storage.delete(*KEY, 60.0)
        assert traces(tmp_path, b"SECRET")
        reader.execute("COMMIT")
        storage.sweep()
        assert traces(tmp_path, b"SECRET") == {}
        assert unwiped(storage) == 0


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
