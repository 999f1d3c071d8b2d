"""What storages tell of sessions that they cannot read, where others are asked for as well."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from langchain_ttl_history.errors import CorruptRecordError

__all__ = ["warn_of"]

logger: logging.Logger = logging.getLogger(__name__)

# How many of them a line of the log names.
_NAMED = 5


def warn_of(verb: str, unread: Sequence[CorruptRecordError]) -> None:
    """Log what a verb left out, if anything."""
    if unread:
        more = f"; and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
        logger.warning("%s left out what cannot be read: %s%s", verb, "; ".join(map(str, unread[:_NAMED])), more)
