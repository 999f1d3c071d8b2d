"""The class of chat histories, imported when one is asked for: its base class goes in langchain-core 2.0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_ttl_history.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_ttl_history.history import TTLChatMessageHistory

__all__ = ["import_history"]


def import_history() -> type[TTLChatMessageHistory]:
    """The class; everything else in this package works without it.

    Raises:
        ConfigurationError: langchain-core no longer has chat histories.
    """
    try:
        from langchain_ttl_history.history import TTLChatMessageHistory
    except ImportError as error:
        if error.name != "langchain_core.chat_history":  # Gone is the module, or only the class in it.
            raise
        raise ConfigurationError(
            "chat histories need langchain-core < 2; the checkpointer and the administration work without them, "
            "and agent.update_state(config, ...) reports an event to an agent"
        ) from error
    return TTLChatMessageHistory
