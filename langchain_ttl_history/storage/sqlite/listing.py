"""Pages of the sessions in a SQLite file, by the time of their last recorded use, and how much they are."""

from __future__ import annotations

import sqlite3
from ast import literal_eval
from typing import NamedTuple

from langchain_ttl_history.encoding.records import decoder
from langchain_ttl_history.errors import CorruptRecordError
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.storage.sqlite.lookup import key_of
from langchain_ttl_history.storage.sqlite.names import user_column
from langchain_ttl_history.storage.sqlite.row import bytes_of
from langchain_ttl_history.storage.types import Usage

__all__ = ["Listed", "page", "usage"]

# Sessions on a page.
_PAGE = 500

_LIST = """
    SELECT sessions.renewed, sessions.generation, sessions.key, body FROM sessions
    LEFT JOIN segments ON segments.generation = sessions.generation AND number = 0
    WHERE {} (deadline IS NULL OR deadline > ?) AND (renewed, sessions.generation) > (?, ?)
    ORDER BY renewed, sessions.generation LIMIT ?
"""
_LIST_ALL = _LIST.format("")
_LIST_USER = _LIST.format("user = ? AND")


_KEY = """
    SELECT sessions.key, body FROM sessions
    LEFT JOIN segments ON segments.generation = sessions.generation AND number = 0 WHERE sessions.generation = ?
"""


class Listed(NamedTuple):
    """A page of sessions."""

    keys: list[SessionKey]
    unread: list[CorruptRecordError]
    """What is wrong with those whose keys are damaged."""
    after: str | None
    """Where the next page begins; None after the last."""


def page(connection: sqlite3.Connection, user_id: str | None, after: str | None, now: float) -> Listed:
    """A page of a user's live sessions, or of everyone's."""
    renewed, _, generation = (after or "-inf 0").rpartition(" ")
    # The time of a damaged row may be a text or bytes.
    since = (now, literal_eval(renewed) if renewed.endswith(("'", '"')) else float(renewed), int(generation), _PAGE)
    if user_id is None:
        rows = connection.execute(_LIST_ALL, since).fetchall()
    else:
        rows = connection.execute(_LIST_USER, (user_column(user_id), *since)).fetchall()
    listed = Listed([], [], f"{rows[-1][0]!r} {rows[-1][1]}" if len(rows) == _PAGE else None)
    for _, _, name, body in rows:
        try:
            listed.keys.append(key_of(name, body))
        except CorruptRecordError as error:
            listed.unread.append(error)
    return listed


def usage(connection: sqlite3.Connection) -> tuple[Usage, list[CorruptRecordError]]:
    """How much is held, expired sessions that were not freed yet included, and what is wrong with rows left out."""
    rows = connection.execute("SELECT generation, head FROM sessions").fetchall()
    sizes: list[int] = []
    unread: list[CorruptRecordError] = []
    for generation, counts in rows:
        try:
            sizes.append(_size(counts))
        except CorruptRecordError as error:
            unread.append(CorruptRecordError(f"{_which(connection, generation)}: {error}"))
    return Usage(len(sizes), sum(sizes)), unread


_size = decoder("its row")(bytes_of)


def _which(connection: sqlite3.Connection, generation: int) -> str:
    """The name of the session with this generation, if its key can be read."""
    ((name, body),) = connection.execute(_KEY, (generation,))
    try:
        return label(key_of(name, body))
    except CorruptRecordError:
        return f"the session of generation {generation}"
