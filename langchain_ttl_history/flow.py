"""Operations as flows: written once, run sync or async.

A flow is a generator that yields requests to a storage and is sent their answers. It does no I/O
itself; `run` and `arun` do it, and are the only place where sync and async differ.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar

from langchain_ttl_history.errors import CorruptRecordError, StorageError, TypeNotAllowedError
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.storage.base import Storage
from langchain_ttl_history.storage.types import Change, Query

__all__ = [
    "Delete",
    "Flow",
    "Page",
    "Read",
    "Request",
    "Write",
    "arun",
    "every_key",
    "run",
]

T = TypeVar("T")
_WAY_OUT = "; if a newer version wrote it, upgrade this one, otherwise restore the storage or delete the session"


class Read(NamedTuple):
    """A request to read."""

    key: SessionKey
    query: Query


class Write(NamedTuple):
    """A request to write."""

    key: SessionKey
    change: Change


class Page(NamedTuple):
    """A request for a page of a user's sessions, or of everyone's."""

    user_id: str | None
    after: str | None


class Delete(NamedTuple):
    """A request to delete a session, or all of a user's."""

    user_id: str
    session_id: str | None
    tombstone_ttl: float


Request: TypeAlias = Read | Write | Page | Delete
Flow: TypeAlias = Generator[Request, Any, T]


def every_key(user_id: str | None) -> Flow[list[SessionKey]]:
    """The sessions of a user, or everyone's, least recently used first."""
    keys: list[SessionKey] = []
    after: str | None = None
    while True:
        page, after = yield Page(user_id, after)
        keys += page
        if after is None:
            return keys


def run(storage: Storage, flow: Flow[T]) -> T:
    """Run a flow, blocking.

    Raises:
        CorruptRecordError: A record cannot be read; the message names the session.
        TypeNotAllowedError: A type may not be stored or rebuilt; the message names the session.
    """
    request: Request | None = None
    try:
        request = next(flow)
        while True:
            try:
                answer: Any
                if isinstance(request, Write):
                    answer = storage.write(request.key, request.change)
                elif isinstance(request, Read):
                    answer = storage.read(request.key, request.query)
                elif isinstance(request, Page):
                    answer = storage.sessions(*request)
                else:
                    answer = storage.delete(*request)
            except (StorageError, CorruptRecordError) as error:
                request = flow.throw(error)  # It may go on without the answer.
            else:
                request = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
    except (CorruptRecordError, TypeNotAllowedError) as error:
        _name_session(error, request)
        raise


async def arun(storage: Storage, flow: Flow[T]) -> T:
    """Async `run`."""
    request: Request | None = None
    try:
        request = next(flow)
        while True:
            try:
                answer: Any
                if isinstance(request, Write):
                    answer = await storage.awrite(request.key, request.change)
                elif isinstance(request, Read):
                    answer = await storage.aread(request.key, request.query)
                elif isinstance(request, Page):
                    answer = await storage.asessions(*request)
                else:
                    answer = await storage.adelete(*request)
            except (StorageError, CorruptRecordError) as error:
                request = flow.throw(error)
            else:
                request = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
    except (CorruptRecordError, TypeNotAllowedError) as error:
        _name_session(error, request)
        raise


def _name_session(error: CorruptRecordError | TypeNotAllowedError, request: Request | None) -> None:
    """Raise the error again, with the session's name before its message and a way out behind it.

    Does nothing if the message names the session already, or if the request was not about one session.
    """
    if not isinstance(request, (Read, Write)) or str(error).startswith(label(request.key)):
        return
    told = isinstance(error, TypeNotAllowedError) or error.tells_way_out
    # Of the same class, which may be a storage's own.
    named = type(error)(f"{label(request.key)}: {error}{'' if told else _WAY_OUT}")
    if isinstance(named, CorruptRecordError):
        named.tells_way_out = True
    raise named from error
