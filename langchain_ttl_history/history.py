"""The chat history: a session as LangChain's `BaseChatMessageHistory`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, get_buffer_string

from langchain_ttl_history.chat_history.writes import add_messages, guard_of, replace_conversation
from langchain_ttl_history.display import Portrait, history_card
from langchain_ttl_history.errors import SessionDeletedError, TypeNotAllowedError, brief
from langchain_ttl_history.flow import Flow, arun, run
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.session_info import portrait
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.views import Turn

__all__ = ["TTLChatMessageHistory"]


class TTLChatMessageHistory(BaseChatMessageHistory):
    """One session's conversation, as a chain sees it.

    Made by `SessionBuffer.history` (always live) or by `SessionBuffer.get_session_history` (for one turn: it shows what
    its first read found, until its next `add_messages`).
    """

    def __init__(
        self,
        storage: Storage,
        sessions: Sessions,
        key: SessionKey,
        *,
        repeatable: bool,
    ) -> None:
        super().__init__()
        self._storage = storage
        self._sessions = sessions
        self._key = key
        self._repeatable = repeatable
        self._turn: Turn | None = None

    def __repr__(self) -> str:
        return f"TTLChatMessageHistory(user_id={self._key.user_id!r}, session_id={self._key.session_id!r})"

    def __str__(self) -> str:
        turn = self._turn
        if turn is not None:
            return get_buffer_string(turn.messages)
        found = self._portrait()
        return "" if found is None else get_buffer_string([found.messages[place] for place in sorted(found.shown)])

    def _repr_html_(self) -> str:
        return history_card(*self._key, self._portrait())

    def _portrait(self) -> Portrait | None:
        # Displaying a session is not a use of it, and does not begin a turn.
        return run(self._storage, portrait(self._sessions, self._key))

    @property
    def user_id(self) -> str:
        """Whose session it is."""
        return self._key.user_id

    @property
    def session_id(self) -> str:
        """Which of the user's sessions it is."""
        return self._key.session_id

    @property
    def messages(self) -> list[BaseMessage]:
        """The conversation within the window, oldest first. Setting it replaces the conversation.

        Raises:
            StorageError: The storage could not be reached. When set: or others kept freeing messages that the new and
                the old conversation share.
            CorruptRecordError: A record of the session cannot be read.
            ConfigurationError: The token counter failed. When set: or a message's id has over 1,024 characters.
            TypeNotAllowedError: A message is of a class that is not allow-listed here. When set: or one is not a
                message, or would not come back as it went in.
            SessionDeletedError: When set, and only on a history from `get_session_history`: the session was deleted
                since this turn read it.
        """
        turn = self._turn  # Looked up once: another thread may end the turn.
        return self._read(run(self._storage, self._sessions.turn(self._key))) if turn is None else list(turn.messages)

    @messages.setter
    def messages(self, messages: Sequence[BaseMessage]) -> None:
        run(self._storage, self._replacing(messages))

    async def aget_messages(self) -> list[BaseMessage]:
        """Async `messages`."""
        if self._turn is None:
            return self._read(await arun(self._storage, self._sessions.turn(self._key)))
        return list(self._turn.messages)

    async def aset_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Async: set `messages`."""
        await arun(self._storage, self._replacing(messages))

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, or update them: one whose id is known replaces that message, a `RemoveMessage` removes it.

        The messages are stored together or not at all. A message without an id gets one, on the stored copy only.

        Raises:
            TypeNotAllowedError: One is not a message, or holds a value that would not come back as it went in.
            ConfigurationError: The id of a message has over 1,024 characters.
            SessionDeletedError: Only on a history from `get_session_history`: the session was deleted since this turn
                read it.
            StorageError: The storage could not be reached.
            CorruptRecordError: A record cannot be read. Only tool results and removals may need to read any, to find
                their place.
        """
        run(self._storage, self._ending(add_messages(self._sessions, self._key, messages, self._turn)))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Async `add_messages`."""
        await arun(self._storage, self._ending(add_messages(self._sessions, self._key, messages, self._turn)))

    def add_system_message(self, text: str | list[str | dict[Any, Any]]) -> None:
        """Append a system message, such as an event in the app, without calling a model.

        The next turn sees it, be it a chain's or an agent's.

        Args:
            text: The content: a string, or a list of content blocks.

        Raises:
            TypeNotAllowedError: `text` is something else.
            SessionDeletedError: Only on a history from `get_session_history`: the session was deleted since this turn
                read it.
            StorageError: The storage could not be reached.
        """
        self.add_messages([self._message(SystemMessage, text)])

    async def aadd_system_message(self, text: str | list[str | dict[Any, Any]]) -> None:
        """Async `add_system_message`."""
        await self.aadd_messages([self._message(SystemMessage, text)])

    def add_user_message(self, message: HumanMessage | str) -> None:
        """Append a question; see `add_messages`.

        Raises:
            TypeNotAllowedError: It is neither a `HumanMessage` nor the content of one.
        """
        self.add_messages([message if isinstance(message, HumanMessage) else self._message(HumanMessage, message)])

    def add_ai_message(self, message: AIMessage | str) -> None:
        """Append an answer; see `add_messages`.

        Raises:
            TypeNotAllowedError: It is neither an `AIMessage` nor the content of one.
        """
        self.add_messages([message if isinstance(message, AIMessage) else self._message(AIMessage, message)])

    def _message(self, kind: type[BaseMessage], content: Any) -> BaseMessage:
        if isinstance(content, (str, list)):
            with suppress(ValueError):  # A list of something other than content blocks.
                return kind(content)
        raise TypeNotAllowedError(
            f"{label(self._key)}: {kind.__name__} takes text or a list of content blocks, not {brief(content)}"
        )

    def clear(self) -> None:
        """Delete the session, its graph state included.

        Raises:
            StorageError: The storage could not be reached.
        """
        self._turn = None
        run(self._storage, self._sessions.delete(*self._key))

    async def aclear(self) -> None:
        """Async `clear`."""
        self._turn = None
        await arun(self._storage, self._sessions.delete(*self._key))

    def _replacing(self, messages: Sequence[BaseMessage]) -> Flow[None]:
        return self._ending(replace_conversation(self._sessions, self._key, messages, guard_of(self._turn)))

    def _ending(self, write: Flow[None]) -> Flow[None]:
        """A write, which ends the turn, unless it fails and may be tried again."""
        try:
            yield from write
        except SessionDeletedError:
            self._turn = None
            raise
        self._turn = None

    def _read(self, turn: Turn) -> list[BaseMessage]:
        if self._repeatable:
            self._turn = turn.noted(self._sessions.codec)
        return list(turn.messages)
