"""The storage contract's tests, put together: those of contents and of lives, and what is left."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest

from langchain_ttl_history.errors import StorageError
from langchain_ttl_history.storage.types import Blob, Change, Lease, Query
from langchain_ttl_history.testing.cases import IDLE, KEY, LEASE, OTHERS
from langchain_ttl_history.testing.contents import Contents
from langchain_ttl_history.testing.lives import Lives

__all__ = ["StorageContract"]


class StorageContract(Contents, Lives):
    """What every storage promises, one sentence per test.

    Override `make`; override `make_broken` if the storage can be out of reach.

    Attributes:
        asynchronous: Whether the async twins are tested instead of the sync verbs.
        lateness: By which fraction of its idle time a session may live longer; 0.1 is a tenth.
    """

    async def test_sessions_are_listed_least_recently_used_first(self) -> None:
        for key in (KEY, *OTHERS):
            await self.write(key)
            self.clock.advance(IDLE / 5)
        await self.read(lease=LEASE)
        assert await self.listed() == [*OTHERS, KEY]
        assert await self.listed("ada") == [OTHERS[0], KEY]
        assert await self.listed("nobody") == []

    async def test_a_use_counts_in_the_order_though_it_cannot_put_off_the_end(self) -> None:
        lease = Lease(IDLE, IDLE)
        for key in (KEY, *OTHERS):
            await self.write(key, lease=lease)
            self.clock.advance(IDLE / 5)
        await self.read(lease=lease)
        assert await self.listed() == [*OTHERS, KEY]

    async def test_usage_counts_and_a_sweep_frees_what_expired(self) -> None:
        await self.write(lease=Lease(None, None), blobs={"b": Blob(b"123")})
        for key in OTHERS:
            await self.write(key, blobs={"b": Blob(b"123456")})
        used = await self.call("usage")
        assert (used.sessions, used.bytes >= 15) == (3, True)
        self.clock.advance(2 * IDLE)
        used = await self.call("usage")
        assert await self.call("sweep") == used.sessions - 1
        left = await self.call("usage")
        assert (left.sessions, left.bytes >= 3, left.bytes <= used.bytes) == (1, True, True)
        assert await self.call("sweep") == 0
        assert await self.listed() == [KEY]

    async def test_a_storage_that_cannot_answer_never_looks_empty(self) -> None:
        broken = self.make_broken(self.clock)
        if broken is None:
            raise SkipTest("make_broken gives no storage that cannot answer")
        calls: list[tuple[Any, ...]] = [
            ("read", KEY, Query()),
            ("write", KEY, Change(LEASE)),
            ("delete", *KEY, 60.0),
        ]
        for call in [*calls, ("sessions", None), ("usage",), ("sweep",)]:
            try:
                answer = await self.call(*call, of=broken)
            except StorageError as error:
                assert error.__cause__ is not None  # noqa: PT017  # a suite that needs no pytest
            else:
                raise AssertionError(f"{call[0]} answered {answer!r}")

    async def test_what_was_stored_can_be_changed_by_its_reader_without_changing_it(self) -> None:
        await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ())])
        for outline in (True, False):
            found: Any = await self.read("b", "l", outline=outline)
            for each in (found.blobs, found.lists["l"]):
                if hasattr(each, "clear"):  # It may as well be one that cannot be changed.
                    each.clear()
        found = await self.read("b", "l")
        assert (len(found.blobs), len(found.lists["l"])) == (1, 1)

    async def test_it_says_who_writes_to_it_and_how_far_it_lets_a_session_grow(self) -> None:
        assert type(self.storage.private) is bool
        assert 1 < self.storage.slack < 3

    async def test_it_closes(self) -> None:
        await self.write(blobs={"b": Blob(b"1")})
        assert await self.call("close") is None
