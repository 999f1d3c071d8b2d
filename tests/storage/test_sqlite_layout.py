"""How a session lies in a SQLite file: what a write costs, what is freed, and where text may stand."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite import appends, segments
from langchain_ttl_history.storage.sqlite import mirror as mirror_module
from langchain_ttl_history.storage.sqlite.lookup import TO_READ, find_session, load
from langchain_ttl_history.storage.sqlite.mirror import Mirror
from langchain_ttl_history.storage.sqlite.overflow import FILLING, OVERFLOW, PAGE, body_of
from langchain_ttl_history.storage.sqlite.packs import _SIZES, _SUM, _SUMMED, Large, decode, encode, sealed
from langchain_ttl_history.storage.sqlite.tail import SEGMENT, Tail
from langchain_ttl_history.storage.sqlite.updates import LARGE, OUTDATED
from langchain_ttl_history.storage.types import Blob, Change, Entry, Lease, Outcome, Query, Status
from tests.shared.one_session import FOREVER, KEY
from tests.shared.sqlite_cases import Opens, bytes_remembered, idle, is_unread, lent, remembered, traces


def write(storage: SQLiteStorage, key: SessionKey = KEY, **change: Any) -> Outcome:
    outcome = storage.write(key, Change(FOREVER, **change))
    assert outcome.status is Status.STORED
    return outcome


def outline(storage: SQLiteStorage) -> tuple[dict[str, Blob], dict[str, list[Entry]], int]:
    found = storage.read(KEY, Query(outline=True))
    return dict(found.blobs), {name: list(entries) for name, entries in found.lists.items()}, found.bytes


def rows(storage: SQLiteStorage, where: str = "number > 0") -> int:
    """How many rows of segments there are."""
    with lent(storage) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM segments WHERE {where}").fetchone()
    return int(count)


def pages(storage: SQLiteStorage) -> int:
    with lent(storage) as connection:
        (count,) = connection.execute("PRAGMA page_count").fetchone()
    return int(count)


@contextmanager
def traced(storage: SQLiteStorage) -> Iterator[list[str]]:
    """The statements that a storage executes."""
    seen: list[str] = []
    (connection,) = idle(storage)
    connection.set_trace_callback(seen.append)
    yield seen
    connection.set_trace_callback(None)


# --- what a write costs -----------------------------------------------------------------------


def test_a_write_is_one_statement_that_changes_a_row_in_place(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    # The row grows by doubling; the first write that looks comes after 63 others.
    for _ in range(34):
        write(storage, append=[("log", b"x" * 500, ())])
    wal, before, allocated = tmp_path / "s.db-wal", (tmp_path / "s.db-wal").stat().st_size, pages(storage)
    with traced(storage) as seen:
        for number in range(10):
            write(storage, blobs={f"m{number}": Blob(b"y" * 300)}, append=[("log", b"", (f"m{number}",))])
    assert [each.split()[0] for each in seen] == ["UPDATE"] * 10
    # The page of the row, and one or two of those set aside.
    assert wal.stat().st_size - before <= 10 * 3 * (PAGE + 24)
    assert pages(storage) == allocated


def test_a_write_that_refers_to_much_takes_what_is_new(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    names = [f"m{number:060d}" for number in range(1_000)]
    write(storage, blobs={name: Blob(b"1") for name in names})
    for number in range(20):
        write(storage, blobs={f"c{number}": Blob(b"", tuple(names))})
    started = (tmp_path / "s.db-wal").stat().st_size
    for number in range(20, 60):
        write(storage, blobs={f"c{number}": Blob(b"x" * 500, tuple(names))})
    # Numbers take three bytes each, where the names take 61.
    assert (tmp_path / "s.db-wal").stat().st_size - started < 40 * (20 * PAGE)
    assert storage.read(KEY, Query(("c30",), ("m",))).blobs.keys() == {"c30", *names}
    # And what is left of a segment does not spell them out for each.
    started = (tmp_path / "s.db-wal").stat().st_size
    write(storage, drop=[f"c{number}" for number in range(0, 40, 2)])
    assert outline(opens()) == outline(storage)
    assert pages(storage) < 2_000


def test_a_write_that_finds_no_room_defines_its_names_in_the_next_segment(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appends, "OUTDATED", 0)
    monkeypatch.setattr(segments, "OUTDATED", 0)
    storage = opens()
    for number in range(400):
        blobs = {f"m{number}": Blob(b"x" * 100, (), 1, (f"w{number}-{'n' * 100}",)), "h": Blob(b"", (), number)}
        write(storage, blobs=blobs)
        if number % 20 == 0:
            assert outline(opens()) == outline(storage)


def test_the_segment_that_is_written_to_grows_by_doubling_up_to_what_it_holds() -> None:
    tail, pages = Tail(1), []

    def pages_of(tail: Tail) -> int:
        count, rest = divmod(len(tail.body) - FILLING, OVERFLOW)
        assert rest == 0
        return count

    while tail.length < SEGMENT:
        tail.add(bytes(OVERFLOW // 2))
        pages.append(pages_of(tail))
    assert [*dict.fromkeys(pages)] == [2, 4, 8, 16, 24]
    full = Tail(1)
    full.add(bytes(4 * OVERFLOW))
    assert pages_of(full) == 4
    # One that begins with a large pack holds more; the next begins as the others.
    full.restart(2)
    full.add(bytes(30 * OVERFLOW))
    assert (pages_of(full), full.room) == (32, 120 * OVERFLOW)
    full.restart(3)
    full.add(b"small")
    assert (pages_of(full), full.room) == (24, SEGMENT)


def test_a_worker_goes_on_with_the_segment_of_another_up_to_the_same_size(opens: Opens) -> None:
    one, two = opens(), opens()
    write(one, blobs={f"m{number:0500d}": Blob(b"1") for number in range(60)})
    outline(two)
    rooms = {mirror.tail.room for storage in (one, two) for mirror in remembered(storage).values()}
    assert len(rooms) == 1
    assert rooms.pop() > 4 * 60 * 500 > SEGMENT


def test_what_is_stored_already_is_not_written_again(opens: Opens) -> None:
    storage = opens()
    write(storage, blobs={"m": Blob(b"x" * 500, (), 3, ("w",))})
    held = storage.read(KEY, Query()).bytes
    for _ in range(200):
        assert write(storage, blobs={"m": Blob(b"x" * 500, (), 3, ("w",))}).bytes == held
    assert rows(storage) == 0
    (mirror,) = remembered(storage).values()
    assert mirror.tail.length < 700


def test_what_another_worker_appended_is_read_without_what_was_there_before(opens: Opens) -> None:
    one, two = opens(), opens()
    for number in range(200):
        write(one, append=[("log", b"%d" % number * 200, ())])
    assert outline(one) == outline(two)
    assert rows(one) > 2
    write(one, blobs={"m": Blob(b"new")}, append=[("log", b"newest", ("m",))])
    with traced(two) as seen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mirror, "counted_bytes", property(lambda _: pytest.fail("it counts what was there before")))
        assert outline(two) == outline(one)
    assert not any("FROM segments" in each for each in seen)
    # Also where a segment was put aside in between.
    for number in range(100):
        write(one, append=[("log", b"%d" % number * 200, ())])
    learnt: list[int] = []
    learn = Mirror.learn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mirror, "learn", lambda self, at, body: (learnt.append(at), learn(self, at, body)))
        assert outline(two) == outline(one)
    assert learnt[0] > 2


def test_a_worker_that_others_outrun_looks_first_and_then_trusts_its_memory_again(opens: Opens) -> None:
    one, two = opens(), opens()
    for storage in (one, two):
        write(storage, append=[("log", b"", ())])
    with traced(one) as seen:
        for _ in range(80):
            write(one, append=[("log", b"", ())])
    kinds = [each.split()[0] for each in seen if each.startswith(("BEGIN", "UPDATE"))]
    # The first attempt is in vain, the next ones look first, the last ones do not.
    assert kinds[0] == "UPDATE"
    assert 20 < kinds.count("BEGIN") < 40
    # But for one that looks whether there is anything to free.
    assert kinds[-30:].count("BEGIN") <= 1
    assert len(outline(two)[1]["log"]) == 82


# --- what is freed ----------------------------------------------------------------------------


def test_what_is_dropped_trimmed_or_replaced_is_in_no_file_after_a_sweep(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    rng = random.Random(3)
    words = [b"<%06d>" % number for number in range(400)]
    gone = set()
    for number, word in enumerate(words):
        text = word * rng.choice([1, 5, 60, 3_000 if number % 40 == 0 else 200])
        position = write(storage, blobs={f"m{number}": Blob(text)}, append=[("log", text, ())]).position
        old = rng.randrange(number + 1)
        if number % 3 == 0:
            write(storage, drop=[f"m{old}"], trim={"log": frozenset({old + 1})})
            gone.add(words[old])
        elif number % 3 == 1:
            write(storage, blobs={f"m{number}": Blob(b"other")}, place=[("log", Entry(position, b"other"))])
            gone.add(word)
    storage.sweep()
    kept = [word for word in words if word not in gone]
    assert len(gone) > 150
    assert traces(tmp_path, *gone) == {}
    assert set(traces(tmp_path, *kept)) == set(kept)
    # A worker that remembers nothing finds the same.
    assert outline(opens()) == outline(storage)


def test_what_was_set_anew_leaves_nothing_of_what_it_was(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    write(storage, blobs={"m": Blob(b"SECRET"), "n": Blob(b"kept")})
    write(storage, blobs={"m": Blob(b"other")})
    storage.sweep()
    assert set(traces(tmp_path, b"SECRET", b"kept", b"other")) == {b"kept", b"other"}


def test_a_full_segment_is_closed_by_any_write(opens: Opens) -> None:
    storage = opens()
    for number in range(8):
        write(storage, append=[("log", bytes(SEGMENT // 3 - 100), ())], idle_ttl=float(number + 1))
    with lent(storage) as connection:
        (longest,) = connection.execute("SELECT max(length(tail)) FROM sessions").fetchone()
    assert longest < 2 * SEGMENT


def test_a_session_at_its_caps_keeps_its_size_in_the_file(opens: Opens) -> None:
    storage = opens()
    sizes = []
    for number in range(1_500):
        old = number - 100
        write(
            storage,
            blobs={f"m{number}": Blob(b"x" * 900), "h": Blob(b"", (f"m{number}",))},
            append=[("log", b"y" * 80, (f"m{number}",))],
        )
        if number % 25 == 0 and old > 0:
            write(
                storage,
                drop=[f"m{each}" for each in range(max(0, old - 25), old)],
                trim={"log": frozenset(range(max(0, old - 24), old + 1))},
            )
        sizes.append((pages(storage), rows(storage)))
    assert len(outline(storage)[0]) < 130
    assert max(sizes[750:]) <= max(sizes[:750])
    # At most twice what the session holds.
    assert sizes[-1][0] * PAGE < 2 * 130 * 1_000 + 3 * SEGMENT


def test_a_pointer_that_moves_for_ever_leaves_nothing_behind(opens: Opens) -> None:
    storage = opens()
    write(storage, blobs={"m": Blob(b"text")})
    for number in range(100 * OUTDATED):
        write(storage, blobs={"h": Blob(b"", ("m",), number)})
    assert rows(storage) <= 1
    assert outline(opens())[0] == {"m": Blob(b"text"), "h": Blob(b"", ("m",), 100 * OUTDATED - 1)}


def test_what_stands_beside_a_pointer_that_moves_is_kept_when_its_segment_is_written_anew(opens: Opens) -> None:
    storage = opens()
    positions = [
        write(storage, blobs={"h": Blob(b"", (), number)}, append=[("log", b"x" * 100, ())]).position
        for number in range(10 * OUTDATED)
    ]
    for each in (storage, opens()):
        blobs, lists, _ = outline(each)
        assert blobs == {"h": Blob(b"", (), 10 * OUTDATED - 1)}
        assert [entry.position for entry in lists["log"]] == positions


@pytest.mark.parametrize("more", [{}, {"idle_ttl": None}], ids=["appends", "changes"])
@pytest.mark.parametrize("is_another", [False, True], ids=["its own", "another's"])
def test_what_stood_under_a_dropped_name_before_does_not_come_back(
    opens: Opens, more: dict[str, Any], *, is_another: bool
) -> None:
    storage = opens()
    write(storage, blobs={"m": Blob(b"text")})
    for number in range(60):
        write(storage, blobs={"h": Blob(b"", ("m",), number)}, append=[("log", b"x" * 1_500, ())], **more)
    assert rows(storage) > 2
    write(opens() if is_another else storage, drop=["h"])
    for each in (storage, opens()):
        assert "h" not in outline(each)[0]
    write(storage, blobs={"h": Blob(b"", (), 1)})
    for each in (storage, opens()):
        assert outline(each)[0]["h"] == Blob(b"", (), 1)


def test_what_replaced_another_stays_in_front_of_it_when_its_segment_is_written_anew(opens: Opens) -> None:
    storage = opens()
    for number in range(200):
        blobs = {f"m{number}": Blob(b"x" * 900)}
        if number in (80, 140):
            blobs["h"] = Blob(b"", (), number)
        write(storage, blobs=blobs)
    (mirror,) = remembered(storage).values()
    (ghost,) = mirror.ghosts["h"]
    assert mirror.homes["m0"] < ghost < mirror.homes["h"] < mirror.tail.number
    # Both go to one segment, and the one in between stays.
    write(storage, drop=[f"m{number}" for number in (*range(1, 20), *range(141, 160))])
    assert mirror.homes["h"] > ghost
    assert outline(opens()) == outline(storage)
    assert outline(storage)[0]["h"].mark == 140


def test_what_is_left_of_segments_takes_fewer(opens: Opens) -> None:
    storage = opens()
    for number in range(100):
        write(storage, blobs={f"m{number}": Blob(b"x" * 1_000)})
    before = rows(storage)
    write(storage, drop=[f"m{number}" for number in range(80) if number % 4])
    assert rows(storage) <= before / 2
    assert set(outline(opens())[0]) == {f"m{number}" for number in range(100) if number % 4 == 0 or number >= 80}
    write(storage, drop=[f"m{number}" for number in range(100)])
    assert rows(storage) == 0


# --- large payloads ---------------------------------------------------------------------------


def test_a_large_payload_is_read_where_it_is_asked_for_alone(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = opens()
    large = Blob(b"L" * LARGE, ("m",), 3, ("w",))
    write(storage, blobs={"m": Blob(b"small"), "v": large})
    write(storage, blobs={"v2": Blob(b"K" * (LARGE - 1)), "v3": Blob(b"J" * LARGE)})
    assert rows(storage, "number < 0") == 2
    monkeypatch.setattr(mirror_module, "_EACH", LARGE // 2)  # Too little to remember it.
    for each in (opens(), storage):
        with traced(each) as seen:
            assert set(each.read(KEY, Query(("m",))).blobs) == {"m"}
        assert not any("number = -" in statement for statement in seen)
        assert each.read(KEY, Query(("v",), ("m",))).blobs == {"v": large, "m": Blob(b"small")}
        assert each.read(KEY, Query(("v3",))).blobs == {"v3": Blob(b"J" * LARGE)}
        assert each.read(KEY, Query(outline=True)).bytes == 3 * LARGE + 4
        with traced(each) as seen:
            assert set(each.read(KEY, Query(("m",))).blobs) == {"m"}
        assert len(seen) == 1, "what is in memory is read anew for one that is not"


def test_a_large_payload_that_was_read_is_remembered(opens: Opens) -> None:
    write(opens(), blobs={"v": Blob(b"L" * LARGE)})
    reader = opens()
    assert reader.read(KEY, Query(("v",))).blobs == {"v": Blob(b"L" * LARGE)}
    with traced(reader) as seen:
        assert reader.read(KEY, Query(("v",))).blobs == {"v": Blob(b"L" * LARGE)}
    assert len(seen) == 1


@pytest.mark.parametrize("remembered", [True, False])
def test_a_large_payload_goes_with_its_blob(
    opens: Opens, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, remembered: bool
) -> None:
    if not remembered:
        monkeypatch.setattr(mirror_module, "_EACH", 0)
    storage = opens()
    for number in range(6):
        write(storage, blobs={f"v{number}": Blob(b"<%d>" % number * LARGE)})
    write(storage, blobs={"v0": Blob(b"<a>" * LARGE), "v1": Blob(b"small")}, drop=["v2"])
    write(storage, blobs={"v3": Blob(b"gone at once" * LARGE)}, drop=["v3"])
    assert rows(storage, "number < 0") == 3
    assert outline(storage)[2] == 9 * LARGE + 5
    assert outline(opens()) == outline(storage)
    storage.sweep()
    assert set(traces(tmp_path, *(b"<%d><" % number for number in range(6)), b"gone")) == {b"<4><", b"<5><"}


def test_what_is_remembered_of_large_payloads_is_bounded(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_EACH", 10 * LARGE)
    storage = opens()
    for number in range(30):
        write(storage, blobs={f"v{number}": Blob(b"x" * LARGE)})
        assert storage.read(KEY, Query((f"v{number // 2}",))).blobs[f"v{number // 2}"].payload == b"x" * LARGE
    assert 2 * LARGE < bytes_remembered(storage) <= 10 * LARGE + 30 * 600
    assert outline(storage)[2] == 30 * LARGE


# --- where text may stand ---------------------------------------------------------------------


def table_pages(path: Path) -> Iterator[bytes]:
    """Every page of the file that is a table's own: by the map that auto-vacuum keeps."""
    held = path.read_bytes()
    usable = PAGE // 5 + 1
    for number in range(3, len(held) // PAGE + 1):
        at, of = divmod(number - 2, usable)
        if of:
            kind = held[(1 + at * usable) * PAGE + (of - 1) * 5]
            if kind in (1, 5):
                yield held[(number - 1) * PAGE : number * PAGE]
            else:
                assert kind in (2, 3, 4), f"page {number} is of kind {kind}"


def test_text_names_and_ids_stand_outside_of_the_tables_own_pages(opens: Opens, tmp_path: Path) -> None:
    storage = opens()
    rng = random.Random(5)
    for number in range(1_200):
        key = SessionKey(f"WORD{number % 9}", f"WORD{number % 23}" * rng.choice([1, 30]))
        idle = None if number % 5 else 1_000.0
        name = f"mWORD{rng.randrange(40)}"
        blobs = {name: Blob(b"WORD" * rng.choice([1, 90, 255, 260, 700, 3_000]), mark=rng.randrange(1 << 40))}
        write(storage, key, blobs=blobs, append=[("WORD", b"WORD" * rng.randrange(500), (name,))], idle_ttl=idle)
        if number % 7 == 0:
            storage.write(key, Change(Lease(50.0, 70.0), drop=[f"mWORD{rng.randrange(40)}"], idle_ttl=1.5))
        if number % 31 == 0:
            storage.delete(f"WORD{number % 8}", None, 60.0)
    assert is_unread(storage)
    found = list(table_pages(tmp_path / "s.db"))
    assert len(found) > 30
    assert b"WORD" in (tmp_path / "s.db").read_bytes()
    assert not any(b"WORD" in page for page in found)


# --- packs ------------------------------------------------------------------------------------


def test_a_pack_gives_back_what_it_was_given() -> None:
    names: dict[str, int] = {}
    named = [("m", Blob(b"1"), None), ("c", Blob(b"22", ("m", "x"), 7, ("w",)), None), ("v", Blob(b""), Large(3, 99))]
    listed = [("w", Entry(4, b"", ("m",))), ("c", Entry(1 << 40, b"333"))]
    body = encode(names, named, listed) + encode(names, [("m2\ud800", Blob(b"4", ("m",)), None)], [])
    known: list[str] = []
    assert decode(body, 0, known) == ([*named, ("m2\ud800", Blob(b"4", ("m",)), None)], listed)
    assert {name: number for number, name in enumerate(known)} == names


def as_in_format_1(pack: bytes) -> bytes:
    """A pack as it was written before packs had checksums."""
    size, header = _SIZES.unpack_from(pack)
    start = _SIZES.size + _SUM.size
    return _SIZES.pack(size - _SUM.size, header & ~_SUMMED) + pack[start:]


def test_a_pack_without_a_checksum_that_is_cut_off_or_takes_in_the_next_is_an_error() -> None:
    names: dict[str, int] = {}
    first, second = [as_in_format_1(encode(names, [], [("log", Entry(at, b"text"))])) for at in (1, 2)]
    assert [entry.position for _, entry in decode(first + second, 0, [])[1]] == [1, 2]
    size, header = _SIZES.unpack_from(first)
    longer = _SIZES.pack(size + len(second), header) + first[_SIZES.size :]
    for damaged in (first + second[:-1], first + second[:-4], first + second[:5], longer + second):
        with pytest.raises(CorruptRecordError):
            decode(damaged, 0, [])


@pytest.mark.parametrize("has_checksum", [True, False])
def test_a_large_payload_that_is_cut_off_is_an_error(opens: Opens, *, has_checksum: bool) -> None:
    payload = bytes(range(256)) * (LARGE // 200)
    write(opens(), blobs={"v": Blob(payload)})

    def store(content: bytes) -> None:
        with lent(opens()) as connection:
            connection.execute("UPDATE segments SET body = ? WHERE number < 0", (body_of(content),))

    store(sealed(payload) if has_checksum else payload)
    assert opens().read(KEY, Query(("v",))).blobs["v"].payload == payload
    for damaged in (payload[:-1], payload[:-1] + sealed(payload)[-4:], payload + b"more"):
        store(damaged)
        with pytest.raises(CorruptRecordError, match="a large payload is not what was written"):
            opens().read(KEY, Query(("v",)))


def load_anew(connection: sqlite3.Connection) -> None:
    """Load the session as a process does that remembers nothing of it."""
    row = find_session(connection, TO_READ, KEY, 0.0).row
    assert row is not None
    load(connection, row, None)


@pytest.mark.parametrize("where", ["head", "tail", "segments"])
def test_what_is_cut_off_or_overwritten_is_an_error(opens: Opens, where: str) -> None:
    storage = opens()
    for number in range(60):
        write(storage, append=[("log", b"%d" % number * 400, ())])
    table = "segments" if where == "segments" else "sessions"
    column = "body" if where == "segments" else where
    damages = [f"substr({column}, 1, length({column}) - 1)", f"substr({column}, 1, 30)", "x''"]
    if where != "head":
        damages.append(f"zeroblob(length({column}))")
    for damage in damages:
        with lent(storage) as connection:
            connection.execute("BEGIN")
            connection.execute(f"UPDATE {table} SET {column} = {damage}")
            with pytest.raises(CorruptRecordError):
                load_anew(connection)
            connection.execute("ROLLBACK")
    assert len(outline(opens())[1]["log"]) == 60


def test_a_reference_to_what_was_dropped_is_missed_though_its_blob_is_stored_as_it_is(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "x.db")
    storage.write(KEY, Change(FOREVER, blobs={"m1": Blob(b"1"), "c": Blob(b"", ("m1",))}))
    storage.write(KEY, Change(FOREVER, drop=["m1"]))
    refused = storage.write(KEY, Change(FOREVER, blobs={"c": Blob(b"", ("m1",))}))
    assert (refused.status, refused.missing) == (Status.MISSING, {"m1"})
    storage.close()


@pytest.mark.parametrize("number", ["> 0", "< 0"])
def test_a_part_that_is_gone_is_said_to_be(tmp_path: Path, number: str) -> None:
    storage = SQLiteStorage(tmp_path / "x.db")
    storage.write(KEY, Change(FOREVER, blobs={"large": Blob(b"x" * 50_000)}))
    for each in range(40):
        storage.write(
            KEY, Change(FOREVER, blobs={f"m{each}": Blob(b"y" * 2_000)}, append=[("log", b"", (f"m{each}",))])
        )
    storage.close()
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        (segments,) = connection.execute(f"SELECT count(*) FROM segments WHERE number {number}").fetchone()
        assert segments, "there is something to be gone"
        connection.execute(f"DELETE FROM segments WHERE number {number}")
    storage = SQLiteStorage(tmp_path / "x.db")
    with pytest.raises(CorruptRecordError, match=r"(a part of a session|a large payload) is gone"):
        storage.read(KEY, Query(outline=True))
    storage.close()
