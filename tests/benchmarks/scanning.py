"""The buffer this project grew out of, as far as its costs go: every write looks at every session."""

from __future__ import annotations

import threading
import time

from langchain_core.messages import BaseMessage


class ScanningBuffer:
    """A dict of message lists with a lock; stale sessions are searched for on every ``set``."""

    def __init__(self, idle_ttl: float = 1800, max_messages: int = 80) -> None:
        self._idle_ttl = idle_ttl
        self._max_messages = max_messages
        self._sessions: dict[tuple[str, str], tuple[float, list[BaseMessage]]] = {}
        self._lock = threading.Lock()

    def get(self, user_id: str, session_id: str) -> list[BaseMessage]:
        """The session's messages; reading keeps it alive."""
        with self._lock:
            used, messages = self._sessions.get((user_id, session_id), (0.0, []))
            if time.monotonic() - used > self._idle_ttl:
                self._sessions.pop((user_id, session_id), None)
                return []
            self._sessions[user_id, session_id] = (time.monotonic(), messages)
            return list(messages)

    def set(self, user_id: str, session_id: str, messages: list[BaseMessage]) -> None:
        """Replace the session's messages, once all stale sessions are gone."""
        with self._lock:
            now = time.monotonic()
            stale = [key for key, (used, _) in self._sessions.items() if now - used > self._idle_ttl]
            for key in stale:
                del self._sessions[key]
            self._sessions[user_id, session_id] = (now, messages[-self._max_messages :])

    def append(self, user_id: str, session_id: str, message: BaseMessage) -> None:
        """Add one message; this one does not look for stale sessions."""
        with self._lock:
            _, messages = self._sessions.get((user_id, session_id), (0.0, []))
            self._sessions[user_id, session_id] = (
                time.monotonic(),
                [*messages, message][-self._max_messages :],
            )
