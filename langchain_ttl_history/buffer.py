"""The buffer: a storage and a retention; hands out histories and checkpointers, and administers sessions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig

from langchain_ttl_history.administration import Administration
from langchain_ttl_history.checkpointer import TTLCheckpointSaver
from langchain_ttl_history.codec import Codec, check_serde
from langchain_ttl_history.display import buffer_card
from langchain_ttl_history.errors import ConfigurationError, TTLHistoryError, brief, type_of
from langchain_ttl_history.fork_safety import lock
from langchain_ttl_history.history_import import import_history
from langchain_ttl_history.keys import Id, valid_id
from langchain_ttl_history.retention import Retention
from langchain_ttl_history.session_listing import readable
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.urls import open_storage

if TYPE_CHECKING:
    from typing_extensions import Self

    from langchain_ttl_history.codec import Serializer
    from langchain_ttl_history.history import TTLChatMessageHistory

__all__ = ["SessionBuffer", "default_buffer"]

# How many sessions a notebook lists of a buffer.
_LISTED = 20
# What tells a storage from other objects.
_OF_A_STORAGE = [each for each in (*Storage.__annotations__, *vars(Storage)) if not each.startswith("_")]
# For each private storage the codec that was made for it first: what one buffer stores, another one reads.
_learning: WeakKeyDictionary[Storage, Codec] = WeakKeyDictionary()


class SessionBuffer(Administration):
    """Bounded, expiring sessions, each one conversation for chains and graphs alike.

    Args:
        storage: Where sessions are kept: a URL (`memory://`, `sqlite:///path.db`, `redis://host:6379/0`) or
            a `Storage`; this process's memory by default.
        retention: How long and how much of a session is kept.
        default_user: The user of every call that names none, for programs with a single user.
        allow_types: Classes that may be rebuilt from stored bytes, besides messages and
            LangGraph's safe types.
        serde: Seals every stored payload, messages included: LangGraph's `EncryptedSerializer`, for example.

    Raises:
        ConfigurationError: An argument is wrong.
        StorageError: The storage that a URL names cannot be opened.
    """

    def __init__(
        self,
        storage: str | Storage | None = None,
        *,
        retention: Retention | None = None,
        default_user: Id | None = None,
        allow_types: Iterable[type] = (),
        serde: Serializer | None = None,
    ) -> None:
        # Whatever is wrong is found before a file is made or a server is asked.
        if retention is not None and not isinstance(retention, Retention):
            raise ConfigurationError(f"retention must be a Retention, not {brief(retention)}")
        self._retention = retention or Retention()
        self._default_user = None if default_user is None else valid_id("default_user", default_user)
        check_serde(serde)
        allowed = _classes(allow_types)
        self._owns_storage = storage is None or isinstance(storage, str)
        self._storage = open_storage(storage) if storage is None or isinstance(storage, str) else storage
        lacks = [name for name in _OF_A_STORAGE if not hasattr(self._storage, name)]
        if lacks or isinstance(self._storage, type):
            what = f"; it lacks {', '.join(lacks)}" if 0 < len(lacks) < len(_OF_A_STORAGE) else ""
            raise ConfigurationError(
                f"storage must be a URL like 'memory://' or a Storage, not {type_of(storage)}; "
                f"SQLiteStorage(path) makes one of a path, RedisStorage(client) of a client{what}"
            )
        codec = Codec(allowed=allowed, learning=self._storage.private, cipher=serde)
        if self._storage.private:
            with suppress(TypeError):  # A storage without a hash; its buffers learn apart.
                codec.learn_with(_learning.setdefault(self._storage, codec))
        self._sessions = Sessions(codec, self._retention, self._storage.slack)

    def __repr__(self) -> str:
        return f"SessionBuffer({self._storage!r}, retention={self._retention!r})"

    def _repr_html_(self) -> str:
        usage = self.stats()
        unread: list[TTLHistoryError] = []
        some = list(islice(readable(self.sessions(all_users=True), unread, _LISTED + 1), _LISTED + 1))
        more = max(len(some), len(unread)) > _LISTED
        shown, failed = some[:_LISTED], unread[:_LISTED]
        return buffer_card(repr(self._storage), self._retention, usage.sessions, usage.bytes, shown, failed, more=more)

    @property
    def retention(self) -> Retention:
        """How long and how much of a session is kept."""
        return self._retention

    # Histories and checkpointers

    def history(self, user_id: Id | None = None, session_id: Id | None = None) -> TTLChatMessageHistory:
        """A session's chat history; every read shows the conversation as it is then.

        Give `RunnableWithMessageHistory` `get_session_history` instead: without `history_messages_key`, it counts the
        history's messages again when a call ends, and would drop the question if others had been added meanwhile.

        Args:
            user_id: Whose session; the default user if left out.
            session_id: Which of the user's sessions. It need not exist yet.

        Raises:
            MissingUserError: No user is named, and there is no default user.
            ConfigurationError: No session is named, an id is not valid, or langchain-core no longer has chat histories.
        """
        return self._history(user_id, session_id, repeatable=False)

    def get_session_history(self, session_id: Id, *, user_id: Id | None = None) -> TTLChatMessageHistory:
        """A session's chat history for one call of `RunnableWithMessageHistory`.

        Its first read freezes what it shows, until its `add_messages`: get another one for each call.

        Args:
            session_id: Which of the user's sessions. It need not exist yet.
            user_id: Whose session; the default user if left out.

        Raises:
            MissingUserError: No user is named, and there is no default user.
            ConfigurationError: An id is not valid, or langchain-core no longer has chat histories.
        """
        return self._history(user_id, session_id, repeatable=True)

    def _history(self, user_id: object, session_id: object, *, repeatable: bool) -> TTLChatMessageHistory:
        key = self._key(user_id, session_id)
        return import_history()(self._storage, self._sessions, key, repeatable=repeatable)

    @property
    def history_factory_config(self) -> list[ConfigurableFieldSpec]:
        """The fields that `RunnableWithMessageHistory` passes from a config to `get_session_history`.

        Pass it as `history_factory_config=`. With a default user it is the session id alone.
        """
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
        user_id: Id | None = None,
        user_key: str = "user_id",
        messages_key: str = "messages",
        serde: Serializer | None = None,
    ) -> TTLCheckpointSaver:
        """A checkpointer for LangGraph on the same sessions.

        Args:
            user_id: Binds it to one user; a config that names another is refused.
            user_key: The key in ``config["configurable"]`` that names the user.
            messages_key: The channel that holds the conversation.
            serde: Serializes the values of all other channels.

        Raises:
            ConfigurationError: An argument is not valid.
        """
        return TTLCheckpointSaver(
            self._storage,
            self._sessions,
            user_id=None if user_id is None else valid_id("user_id", user_id),
            default_user=self._default_user,
            user_key=user_key,
            messages_key=messages_key,
            serde=serde,
        )

    def config(self, user_id: Id | None = None, session_id: Id | None = None) -> RunnableConfig:
        """The config of a session, for chains and graphs.

        Args:
            user_id: Whose session; the default user if left out.
            session_id: Which of the user's sessions. It need not exist yet.

        Returns:
            `user_id`, `session_id` and `thread_id` under `configurable`; the thread id is the session id.

        Raises:
            MissingUserError: No user is named, and there is no default user.
            ConfigurationError: No session is named, or an id is not valid.
        """
        key = self._key(user_id, session_id)
        return {
            "configurable": {
                "user_id": key.user_id,
                "session_id": key.session_id,
                "thread_id": key.session_id,
            }
        }

    # Closing

    def close(self) -> None:
        """Close the storage if this buffer opened it; one that was passed in stays open.

        Afterwards SQLite refuses every call with a `StorageError`, Redis connects again when it is used, and memory
        keeps its sessions.
        """
        if self._owns_storage:
            self._storage.close()

    async def aclose(self) -> None:
        """Async `close`."""
        if self._owns_storage:
            await self._storage.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _classes(allow_types: Iterable[type]) -> Sequence[type]:
    if isinstance(allow_types, type) or not isinstance(allow_types, Iterable):
        raise ConfigurationError(f"allow_types takes a list of classes, not {brief(allow_types)}")
    classes = list(allow_types)
    for each in classes:
        if not isinstance(each, type):
            raise ConfigurationError(f"allow_types takes classes, not {brief(each)}")
    return classes


_default: SessionBuffer | None = None
_default_lock = lock()


def default_buffer() -> SessionBuffer:
    """The process-wide buffer, made at the first call as `TTL_HISTORY_URL` says.

    Raises:
        ConfigurationError: The variable holds no usable URL.
        StorageError: The storage that it names cannot be opened.
    """
    global _default
    if _default is None:
        # Without the lock, which may be held only for a moment: a fork waits for it.
        try:
            made = SessionBuffer(os.environ.get("TTL_HISTORY_URL") or None)
        except ConfigurationError as error:
            raise ConfigurationError(f"TTL_HISTORY_URL: {error}") from error
        with _default_lock:
            if _default is None:
                _default = made
        if _default is not made:
            made.close()
    return _default
