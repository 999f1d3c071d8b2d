"""The sessions of a SQLite file are listed a page at a time, however many there are, in nobody's way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.session_info import SessionInfo
from langchain_ttl_history.storage import SQLiteStorage
from langchain_ttl_history.storage.sqlite import listing
from langchain_ttl_history.storage.types import Change, Lease, Query, Snapshot
from langchain_ttl_history.testing import Clock
from tests.shared.sqlite_cases import Opens, idle, is_unread

PAGE = 10
SESSIONS = 53

Listed = Callable[[SessionBuffer], AsyncIterator[SessionInfo]]


class Counted(SQLiteStorage):
    """A storage that counts what it is asked for."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path, clock=clock)
        self.pages: list[int] = []
        """How many keys were on each page."""
        self.looks = 0
        """How many sessions were read."""

    def sessions(self, user_id: str | None, after: str | None = None) -> tuple[list[SessionKey], str | None]:
        keys, more = super().sessions(user_id, after)
        self.pages.append(len(keys))
        return keys, more

    def read(self, key: SessionKey, query: Query) -> Snapshot:
        self.looks += 1
        return super().read(key, query)

    async def aread(self, key: SessionKey, query: Query) -> Snapshot:
        self.looks += 1
        return await super().aread(key, query)


@pytest.fixture
def storage(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """A file with so many sessions, s0 the least recently used."""
    monkeypatch.setattr(listing, "_PAGE", PAGE)
    storage = Counted(tmp_path / "s.db", clock)
    for number in range(SESSIONS):
        say(storage, f"s{number}")
        clock.advance(0.01)
    storage.looks = 0
    yield storage
    storage.close()


@pytest.fixture
def other(storage: Counted, opens: Opens) -> SQLiteStorage:
    """Another worker on the file, who does not wait for long."""
    return opens(timeout=0.5)


@pytest.fixture(params=["sync", "async"])
def listed(request: pytest.FixtureRequest) -> Listed:
    """Lists everyone's sessions, in either colour."""

    async def listed(buffer: SessionBuffer) -> AsyncIterator[SessionInfo]:
        if request.param == "async":
            async for info in buffer.asessions(all_users=True):
                yield info
        else:
            for info in buffer.sessions(all_users=True):
                yield info

    return listed


def say(storage: SQLiteStorage, session_id: str) -> None:
    SessionBuffer(storage).history("ada", session_id).add_messages([HumanMessage("hello")])


def test_sessions_come_in_pages_and_nothing_is_held_in_between(opens: Opens, clock: Clock) -> None:
    storage = opens()
    for number in range(1_203):
        storage.write(SessionKey(f"u{number % 2}", f"s{number}"), Change(Lease(100.0, None)))
        clock.advance(0.01)
    for user, expected in ((None, range(1_203)), ("u1", range(1, 1_203, 2)), ("nobody", ())):
        listed, pages, after = [], 0, None
        while True:
            page, after = storage.sessions(user, after)
            listed += [int(each.session_id[1:]) for each in page]
            pages += 1
            other = opens(timeout=1.0)
            other.write(SessionKey("ada", "s1"), Change(Lease(1e6, None), upkeep=True))
            assert is_unread(opens()), "a reader is left"
            if after is None:
                break
        assert listed == list(expected)
        assert pages == len(listed) // 500 + 1


async def test_sessions_are_read_as_they_are_asked_for(storage: Counted, listed: Listed) -> None:
    count = 0
    async for info in listed(SessionBuffer(storage)):
        assert (info.session_id, info.messages) == (f"s{count}", 1)
        count += 1
        assert (len(storage.pages), storage.looks) == (1 + (count - 1) // PAGE, count)
    assert storage.pages == [PAGE] * (SESSIONS // PAGE) + [SESSIONS % PAGE]
    assert count == SESSIONS


async def test_who_is_listed_to_holds_nothing_in_the_file(
    storage: Counted, other: SQLiteStorage, listed: Listed
) -> None:
    async for info in listed(SessionBuffer(storage)):
        say(other, "s0")
        assert is_unread(other), f"a reader is left at {info.session_id}"
        assert not any(each.in_transaction for each in idle(storage))
    storage.pages.clear()
    async for _ in listed(SessionBuffer(storage)):
        break
    say(other, "s0")
    assert is_unread(other), "a reader is left where somebody broke off"
    assert storage.pages == [PAGE]


async def test_what_comes_and_goes_meanwhile_is_not_told_twice_and_hides_no_other(
    storage: Counted, other: SQLiteStorage, listed: Listed, clock: Clock
) -> None:
    buffer = SessionBuffer(other)
    # Once the first of these is told, others go: told already or not yet, of the same page or of a later one; with s9
    # and s19 goes the one that the next page begins after.
    gone = {3: ("s1", "s4", "s25"), 9: ("s9", "s10"), 19: ("s18", "s19"), 39: ("s0", "s52")}
    told: list[str] = []
    made: list[str] = []
    async for info in listed(SessionBuffer(storage)):
        told.append(info.session_id)
        number = int(info.session_id[1:])
        clock.advance(0.01)
        if number < SESSIONS and number % 7 == 0:
            made.append(f"s{1_000 + number}")
            say(other, made[-1])
        if number == 2:
            say(other, "s33")  # One of a later page is used, so that its turn comes at the end.
        for each in gone.pop(number, ()):
            assert buffer.delete("ada", each)
    assert gone == {}
    stay: set[Any] = {f"s{number}" for number in range(SESSIONS)} - {"s4", "s10", "s25", "s33", "s52"}
    assert [each for each in told if each in stay] == sorted(stay, key=lambda each: int(each[1:]))
    assert sorted(each for each in told if each not in stay) == sorted([*made, "s33"])
