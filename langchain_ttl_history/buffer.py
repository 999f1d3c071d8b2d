"""The buffer: a storage and a retention; hands out both doors and administers sessions."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING

from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig

from langchain_ttl_history.checkpointer import TTLCheckpointSaver
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.display import buffer_card
from langchain_ttl_history.errors import ConfigurationError, MissingUserError
from langchain_ttl_history.flow import arun, run, writing
from langchain_ttl_history.keys import SessionKey, valid_id
from langchain_ttl_history.retention import Duration, Retention, seconds
from langchain_ttl_history.sessions import SessionInfo, Sessions
from langchain_ttl_history.storage.base import Change, Status, Storage, Usage
from langchain_ttl_history.urls import opened

if TYPE_CHECKING:
    from langchain_ttl_history.codec import Serializer
    from langchain_ttl_history.history import TTLChatMessageHistory

__all__ = ["SessionBuffer", "default_buffer"]

_DAY = 86_400.0
# So many sessions are listed where a notebook shows a buffer.
_LISTED = 20


class SessionBuffer:
    """Bounded, expiring sessions, each one conversation for chains and graphs alike.

    Args:
        storage: Where sessions are kept: a URL (`memory://`, `sqlite:///path.db`, `redis://host:6379/0`) or
            a `Storage`; this process's memory by default.
        retention: How long and how much of a session is kept.
        default_user: The user wherever none is named, for programs with a single one.
        allow_types: Classes that may be rebuilt from stored bytes, besides messages and
            LangGraph's safe types.
        serde: Seals every stored payload, messages included; an `EncryptedSerializer`, say.

    Raises:
        ConfigurationError: An argument is wrong.
    """

    def __init__(
        self,
        storage: str | Storage | None = None,
        *,
        retention: Retention | None = None,
        default_user: object = None,
        allow_types: Iterable[type] = (),
        serde: Serializer | None = None,
    ) -> None:
        self._owns_storage = storage is None or isinstance(storage, str)
        self._storage = opened(storage) if storage is None or isinstance(storage, str) else storage
        if not hasattr(self._storage, "aread"):
            raise ConfigurationError(f"storage must be a URL like 'memory://' or a Storage, not {storage!r}")
        if retention is not None and not isinstance(retention, Retention):
            raise ConfigurationError(f"retention must be a Retention, not {retention!r}")
        self._retention = retention or Retention()
        self._default_user = None if default_user is None else valid_id("default_user", default_user)
        codec = Codec(allowed=_classes(allow_types), learning=self._storage.private, cipher=serde)
        self._sessions = Sessions(codec, self._retention)
        self._tombstone_ttl = max(_DAY, self._retention.idle_seconds or _DAY)

    def __repr__(self) -> str:
        return f"SessionBuffer({self._storage!r}, retention={self._retention!r})"

    def _repr_html_(self) -> str:
        usage = self.stats()
        some = list(islice(self.sessions(all_users=True), _LISTED + 1))
        more = len(some) > _LISTED
        return buffer_card(repr(self._storage), self._retention, usage.sessions, usage.bytes, some[:_LISTED], more=more)

    @property
    def retention(self) -> Retention:
        """How long and how much of a session is kept."""
        return self._retention

    # The doors

    def history(self, user_id: object = None, session_id: object = None) -> TTLChatMessageHistory:
        """A session's chat history, always live."""
        return self._history(user_id, session_id, repeatable=False)

    def get_session_history(self, session_id: str, *, user_id: str | None = None) -> TTLChatMessageHistory:
        """A session's chat history for one call of `RunnableWithMessageHistory`.

        What its first read finds holds until its `add_messages`.
        """
        return self._history(user_id, session_id, repeatable=True)

    def _history(self, user_id: object, session_id: object, *, repeatable: bool) -> TTLChatMessageHistory:
        # Imported here, so that checkpointers and administration work without the classes of
        # langchain-core that go in 2.0.
        from langchain_ttl_history.history import TTLChatMessageHistory

        key = self._key(user_id, session_id)
        return TTLChatMessageHistory(self._storage, self._sessions, key, self._tombstone_ttl, repeatable=repeatable)

    @property
    def history_factory_config(self) -> list[ConfigurableFieldSpec]:
        """What `RunnableWithMessageHistory` must ask of a config for `get_session_history`."""
        session = ConfigurableFieldSpec(
            id="session_id",
            annotation=str,
            name="Session ID",
            description="Which of the user's sessions.",
            default="",
            is_shared=True,
        )
        if self._default_user is not None:
            return [session]
        user = ConfigurableFieldSpec(
            id="user_id",
            annotation=str,
            name="User ID",
            description="Whose session.",
            default="",
            is_shared=True,
        )
        return [user, session]

    def checkpointer(
        self,
        user_id: object = None,
        user_key: str = "user_id",
        messages_key: str = "messages",
        serde: Serializer | None = None,
    ) -> TTLCheckpointSaver:
        """A checkpointer for LangGraph on the same sessions.

        Args:
            user_id: Binds it to one user; a config that names another is refused.
            user_key: Where a config names the user.
            messages_key: The channel that is the conversation.
            serde: Serializes all other channels.
        """
        return TTLCheckpointSaver(
            self._storage,
            self._sessions,
            self._tombstone_ttl,
            user_id=None if user_id is None else valid_id("user_id", user_id),
            default_user=self._default_user,
            user_key=user_key,
            messages_key=messages_key,
            serde=serde,
        )

    def config(self, user_id: object = None, session_id: object = None) -> RunnableConfig:
        """The config of a session, for chains and graphs."""
        key = self._key(user_id, session_id)
        return {
            "configurable": {
                "user_id": key.user_id,
                "session_id": key.session_id,
                "thread_id": key.session_id,
            }
        }

    # Administration

    def info(self, user_id: object = None, session_id: object = None) -> SessionInfo | None:
        """What is known of a session; None if there is none. Not a use."""
        return run(self._storage, self._sessions.info(self._key(user_id, session_id)))

    async def ainfo(self, user_id: object = None, session_id: object = None) -> SessionInfo | None:
        """Async :meth:`info`."""
        return await arun(self._storage, self._sessions.info(self._key(user_id, session_id)))

    def sessions(self, user_id: object = None, *, all_users: bool = False) -> Iterator[SessionInfo]:
        """The live sessions of a user, or of everyone (an operator's call)."""
        return self._each_session(self._scope(user_id, all_users=all_users))

    def _each_session(self, user: str | None) -> Iterator[SessionInfo]:
        page: str | None = None
        while True:
            keys, page = self._storage.sessions(user, page)
            for key in keys:
                found = run(self._storage, self._sessions.info(key))
                if found is not None:
                    yield found
            if page is None:
                return

    def asessions(self, user_id: object = None, *, all_users: bool = False) -> AsyncIterator[SessionInfo]:
        """Async :meth:`sessions`."""
        return self._aeach_session(self._scope(user_id, all_users=all_users))

    async def _aeach_session(self, user: str | None) -> AsyncIterator[SessionInfo]:
        page: str | None = None
        while True:
            keys, page = await self._storage.asessions(user, page)
            for key in keys:
                found = await arun(self._storage, self._sessions.info(key))
                if found is not None:
                    yield found
            if page is None:
                return

    def delete(self, user_id: object = None, session_id: object = None) -> bool:
        """Delete a session for good. Returns whether there was one."""
        key = self._key(user_id, session_id)
        self._sessions.memo.drop(*key)
        return bool(self._storage.delete(key.user_id, key.session_id, self._tombstone_ttl))

    async def adelete(self, user_id: object = None, session_id: object = None) -> bool:
        """Async :meth:`delete`."""
        key = self._key(user_id, session_id)
        self._sessions.memo.drop(*key)
        return bool(await self._storage.adelete(key.user_id, key.session_id, self._tombstone_ttl))

    def forget(self, user_id: object) -> int:
        """Delete all sessions of a user, who must be named. Returns how many there were."""
        user = valid_id("user_id", user_id)
        self._sessions.memo.drop(user)
        return self._storage.delete(user, None, self._tombstone_ttl)

    async def aforget(self, user_id: object) -> int:
        """Async :meth:`forget`."""
        user = valid_id("user_id", user_id)
        self._sessions.memo.drop(user)
        return await self._storage.adelete(user, None, self._tombstone_ttl)

    def set_idle_ttl(self, user_id: object = None, session_id: object = None, idle_ttl: Duration = None) -> bool:
        """Give one session an idle time of its own, from its last use on; None pins it.

        Returns whether there is such a session.
        """
        key, change = self._idle_change(user_id, session_id, idle_ttl)
        return run(self._storage, writing(key, change)).status is Status.STORED

    async def aset_idle_ttl(self, user_id: object = None, session_id: object = None, idle_ttl: Duration = None) -> bool:
        """Async :meth:`set_idle_ttl`."""
        key, change = self._idle_change(user_id, session_id, idle_ttl)
        return (await arun(self._storage, writing(key, change))).status is Status.STORED

    def _idle_change(self, user_id: object, session_id: object, idle_ttl: Duration) -> tuple[SessionKey, Change]:
        key = self._key(user_id, session_id)
        own = seconds("idle_ttl", idle_ttl)
        return key, Change(self._sessions.lease, idle_ttl=own, upkeep=True)

    def stats(self) -> Usage:
        """How many sessions and bytes the storage holds."""
        return self._storage.usage()

    async def astats(self) -> Usage:
        """Async :meth:`stats`."""
        return await self._storage.ausage()

    def sweep(self) -> int:
        """Free everything that expired. Returns how many sessions that were."""
        return self._storage.sweep()

    async def asweep(self) -> int:
        """Async :meth:`sweep`."""
        return await self._storage.asweep()

    def close(self) -> None:
        """Close the storage if this buffer opened it."""
        if self._owns_storage:
            self._storage.close()

    async def aclose(self) -> None:
        """Async :meth:`close`."""
        if self._owns_storage:
            await self._storage.aclose()

    def __enter__(self) -> SessionBuffer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> SessionBuffer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # Who and which

    def _user(self, user_id: object) -> str:
        if user_id is not None:
            return valid_id("user_id", user_id)
        if self._default_user is None:
            raise MissingUserError(
                "no user is named: pass user_id, or make the buffer with SessionBuffer(default_user=...)"
            )
        return self._default_user

    def _key(self, user_id: object, session_id: object) -> SessionKey:
        if session_id is None:
            raise ConfigurationError("no session is named: pass session_id")
        return SessionKey(self._user(user_id), valid_id("session_id", session_id))

    def _scope(self, user_id: object, *, all_users: bool) -> str | None:
        if not all_users:
            return self._user(user_id)
        if user_id is not None:
            raise ConfigurationError("pass either user_id or all_users=True, not both")
        return None


def _classes(allow_types: Iterable[type]) -> Sequence[type]:
    classes = list(allow_types)
    for each in classes:
        if not isinstance(each, type):
            raise ConfigurationError(f"allow_types takes classes, not {each!r}")
    return classes


_default: SessionBuffer | None = None
_default_lock = Lock()


def default_buffer() -> SessionBuffer:
    """The process-wide buffer, made at the first call as `TTL_HISTORY_URL` says.

    Raises:
        ConfigurationError: The variable holds no usable URL.
    """
    global _default
    with _default_lock:
        if _default is None:
            _default = SessionBuffer(os.environ.get("TTL_HISTORY_URL") or None)
        return _default
