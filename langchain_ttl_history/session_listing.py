"""Lists of sessions, read one by one. One that cannot be read raises an error, and hides none of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from langchain_ttl_history.errors import (
    ConfigurationError,
    CorruptRecordError,
    StorageError,
    TTLHistoryError,
    TypeNotAllowedError,
)
from langchain_ttl_history.flow import Flow, Page, arun, run
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.session_info import SessionInfo, info
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.types import UnreadablePageError

__all__ = ["AsyncListing", "Listing", "readable"]


class _Walk:
    """A walk through the live sessions of a user, or of everyone, which can go on after an error.

    Args:
        sessions: What sessions have in common.
        user_id: Whose sessions; None for everyone's.
    """

    def __init__(self, sessions: Sessions, user_id: str | None) -> None:
        self._sessions = sessions
        self._user_id = user_id
        self._keys: deque[SessionKey] = deque()
        # What was wrong with those on the page that cannot be read.
        self._unread: deque[CorruptRecordError] = deque()
        self._after: str | None = None
        self._is_last_page = False
        self._is_read = False

    def step(self) -> Flow[SessionInfo | None]:
        """The next session's metadata; None at the end. If this fails or is cancelled, the walk is where it was."""
        while self._unread or self._keys or not self._is_last_page:
            if self._unread:
                raise self._unread[0]
            if not self._keys:
                try:
                    keys, self._after = yield Page(self._user_id, self._after)
                except UnreadablePageError as error:
                    keys, self._after = error.keys, error.after
                    self._unread.extend(error.unread)
                self._keys.extend(keys)
                self._is_last_page = self._after is None
                continue
            found = yield from info(self._sessions, self._keys[0])
            self._keys.popleft()
            if found is not None:
                return found
        return None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One step at a time. Afterwards the walk goes on behind what cannot be read."""
        if self._is_read:
            raise ConfigurationError("this list of sessions is being read already: each reader needs one of its own")
        self._is_read = True
        try:
            yield
        except StorageError:
            raise
        except TTLHistoryError:
            if self._unread:
                self._unread.popleft()
            elif self._keys:
                self._keys.popleft()
            else:
                # Behind a page that cannot be read nobody knows the way.
                self._is_last_page = True
            raise
        finally:
            self._is_read = False


class Listing(Iterator[SessionInfo]):
    """The live sessions of a user, or of everyone."""

    def __init__(self, storage: Storage, sessions: Sessions, user_id: str | None) -> None:
        self._storage = storage
        self._walk = _Walk(sessions, user_id)

    def __next__(self) -> SessionInfo:
        with self._walk.reading():
            found = run(self._storage, self._walk.step())
        if found is None:
            raise StopIteration
        return found


class AsyncListing(AsyncIterator[SessionInfo]):
    """Async `Listing`."""

    def __init__(self, storage: Storage, sessions: Sessions, user_id: str | None) -> None:
        self._storage = storage
        self._walk = _Walk(sessions, user_id)

    async def __anext__(self) -> SessionInfo:
        with self._walk.reading():
            found = await arun(self._storage, self._walk.step())
        if found is None:
            raise StopAsyncIteration
        return found


def readable(
    found: Iterator[SessionInfo], unread: list[TTLHistoryError], most: int | None = None
) -> Iterator[SessionInfo]:
    """The sessions of a listing that can be read.

    Args:
        found: The listing.
        unread: The errors of the others are added here.
        most: After how many errors to stop.
    """
    while True:
        try:
            yield next(found)
        except StopIteration:
            return
        except (CorruptRecordError, TypeNotAllowedError) as error:
            unread.append(error)
            if len(unread) == most:
                return
