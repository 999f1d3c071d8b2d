"""What a buffer's owner asks of its sessions: to look, to list, to delete. None of it is a use of a session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import EllipsisType

from langchain_ttl_history import session_info
from langchain_ttl_history.errors import ConfigurationError, MissingUserError, brief
from langchain_ttl_history.flow import Flow, Write, arun, run
from langchain_ttl_history.keys import Id, SessionKey, valid_id
from langchain_ttl_history.retention import Duration, seconds
from langchain_ttl_history.session_info import SessionInfo
from langchain_ttl_history.session_listing import AsyncListing, Listing
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.types import Change, Outcome, Status, Usage

__all__ = ["Administration"]


class Administration:
    """The part of a buffer that administers sessions."""

    _storage: Storage
    _sessions: Sessions
    _default_user: str | None

    def info(self, user_id: Id | None = None, session_id: Id | None = None) -> SessionInfo | None:
        """A session's metadata, or None if there is no such session. Does not extend its life.

        Raises:
            MissingUserError: No user is named, and there is no default user.
            ConfigurationError: No session is named, or an id is not valid; or the token counter failed.
            StorageError: The storage could not be reached.
            CorruptRecordError: A record of the session cannot be read.
            TypeNotAllowedError: It holds a message of a class that is not allow-listed here.
        """
        return run(self._storage, session_info.info(self._sessions, self._key(user_id, session_id)))

    async def ainfo(self, user_id: Id | None = None, session_id: Id | None = None) -> SessionInfo | None:
        """Async `info`."""
        return await arun(self._storage, session_info.info(self._sessions, self._key(user_id, session_id)))

    def sessions(self, user_id: Id | None = None, *, all_users: bool = False) -> Iterator[SessionInfo]:
        """The live sessions of a user, least recently used first; read one by one as you iterate.

        A session that cannot be read raises a `CorruptRecordError` or `TypeNotAllowedError` in its place, and `next`
        then goes on with the others; so does what lists a user's sessions. While the storage is out of reach, `next`
        raises a `StorageError` each time.

        Args:
            user_id: Whose sessions; the default user's if left out.
            all_users: List the sessions of all users instead: an operator's call.

        Raises:
            MissingUserError: No user is named, and there is no default user.
            ConfigurationError: Both `user_id` and `all_users` are given, or `all_users` is no bool; while iterating:
                the token counter failed, or two threads or tasks read the list at once.
            StorageError: While iterating: the storage could not be reached.
            CorruptRecordError: Likewise: a record of a session cannot be read.
            TypeNotAllowedError: Likewise: one holds a message of a class that is not allow-listed here.
        """
        return Listing(self._storage, self._sessions, self._scope(user_id, all_users=all_users))

    def asessions(self, user_id: Id | None = None, *, all_users: bool = False) -> AsyncIterator[SessionInfo]:
        """Async `sessions`."""
        return AsyncListing(self._storage, self._sessions, self._scope(user_id, all_users=all_users))

    def delete(self, user_id: Id | None = None, session_id: Id | None = None) -> bool:
        """Delete a session for good; a turn that still runs cannot bring it back.

        Returns:
            Whether there was such a session. One that cannot be read counts as one.

        Raises:
            MissingUserError: No user is named, and there is no default user.
            ConfigurationError: No session is named, or an id is not valid.
            StorageError: The storage could not be reached.
            CorruptRecordError: On Redis: the user's key holds something else; it says what to do.
        """
        return bool(run(self._storage, self._sessions.delete(*self._key(user_id, session_id))))

    async def adelete(self, user_id: Id | None = None, session_id: Id | None = None) -> bool:
        """Async `delete`."""
        return bool(await arun(self._storage, self._sessions.delete(*self._key(user_id, session_id))))

    def forget(self, user_id: Id) -> int:
        """Delete all sessions of a user for good. The default user, too, has to be named.

        Returns:
            How many live sessions there were.

        Raises:
            ConfigurationError: The user is not named, or the id is not valid.
            StorageError: The storage could not be reached.
            CorruptRecordError: On Redis: the user's key holds something else; it says what to do.
        """
        return run(self._storage, self._sessions.delete(valid_id("user_id", user_id)))

    async def aforget(self, user_id: Id) -> int:
        """Async `forget`."""
        return await arun(self._storage, self._sessions.delete(valid_id("user_id", user_id)))

    def set_idle_ttl(
        self, user_id: Id | None = None, session_id: Id | None = None, idle_ttl: Duration | EllipsisType = ...
    ) -> bool:
        """Give one session an idle time of its own, counted from its last use.

        Args:
            user_id: Whose session; the default user's if left out.
            session_id: Which of the user's sessions.
            idle_ttl: Seconds or a `timedelta`; it has to be given. None pins the session: then only `max_age` ends it.

        Returns:
            Whether there is such a session.

        Raises:
            MissingUserError: No user is named, and there is no default user.
            ConfigurationError: An id or the idle time is not valid.
            StorageError: The storage could not be reached.
        """
        return run(self._storage, _written(*self._idle_change(user_id, session_id, idle_ttl)))

    async def aset_idle_ttl(
        self, user_id: Id | None = None, session_id: Id | None = None, idle_ttl: Duration | EllipsisType = ...
    ) -> bool:
        """Async `set_idle_ttl`."""
        return await arun(self._storage, _written(*self._idle_change(user_id, session_id, idle_ttl)))

    def _idle_change(
        self, user_id: object, session_id: object, idle_ttl: Duration | EllipsisType
    ) -> tuple[SessionKey, Change]:
        key = self._key(user_id, session_id)
        if isinstance(idle_ttl, EllipsisType):
            raise ConfigurationError("idle_ttl is missing: pass seconds, a timedelta, or None to pin the session")
        own = seconds("idle_ttl", idle_ttl)
        return key, Change(self._sessions.lease, idle_ttl=own, upkeep=True)

    def stats(self) -> Usage:
        """How many sessions and bytes the storage holds, including expired sessions that are not freed yet.

        What cannot be read is left out, and named by a warning in the log.

        Raises:
            StorageError: The storage could not be reached.
        """
        return self._storage.usage()

    async def astats(self) -> Usage:
        """Async `stats`."""
        return await self._storage.ausage()

    def sweep(self) -> int:
        """Free all expired sessions now; they are invisible in any case.

        What cannot be read is left as it is, and named by a warning in the log.

        Returns:
            How many were freed.

        Raises:
            StorageError: The storage could not be reached.
        """
        return self._storage.sweep()

    async def asweep(self) -> int:
        """Async `sweep`."""
        return await self._storage.asweep()

    # Who and which

    def _user(self, user_id: object) -> str:
        if user_id is not None:
            return valid_id("user_id", user_id)
        if self._default_user is None:
            raise MissingUserError(
                "no user is named: pass user_id, which RunnableWithMessageHistory does with "
                "history_factory_config=buffer.history_factory_config, or make the buffer with "
                "SessionBuffer(default_user=...)"
            )
        return self._default_user

    def _key(self, user_id: object, session_id: object) -> SessionKey:
        if session_id is None:
            raise ConfigurationError("no session is named: pass session_id; a single argument is the user's id")
        return SessionKey(self._user(user_id), valid_id("session_id", session_id))

    def _scope(self, user_id: object, *, all_users: bool) -> str | None:
        if type(all_users) is not bool:
            # Most likely a user's id, and nobody else's sessions are meant.
            raise ConfigurationError(
                f"all_users must be True or False, not {brief(all_users)}; pass user_id for one user"
            )
        if not all_users:
            return self._user(user_id)
        if user_id is not None:
            raise ConfigurationError("pass either user_id or all_users=True, not both")
        return None


def _written(key: SessionKey, change: Change) -> Flow[bool]:
    """Write a change; whether it was stored."""
    outcome: Outcome = yield Write(key, change)
    return outcome.status is Status.STORED
