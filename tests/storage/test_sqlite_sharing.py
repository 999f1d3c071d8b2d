"""What another worker wrote to a SQLite file is seen at once, and its locks are waited for."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from langchain_ttl_history.errors import StorageError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.base import Blob, Change, Entry, Query
from langchain_ttl_history.storage.sqlite import mirror as mirrors
from langchain_ttl_history.storage.sqlite.row import Row
from langchain_ttl_history.testing import Clock
from tests.storage.sqlite_cases import KEY, LEASE, Opens, bytes_remembered, remembered, said, saying


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
    held, row = mirrors.Mirrors(), Row.new(1, 0.0)
    held.put(KEY, mirrors.Mirror(row))
    taken = held.take(KEY)
    assert taken is not None
    assert held.take(KEY) is None
    assert held.answer(KEY, row, Query(), 0.0, 0) is None
    held.put(KEY, taken)
    assert held.answer(KEY, row, Query(), 0.0, 0) is not None
    assert held.take(KEY) is taken


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
