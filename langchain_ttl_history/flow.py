"""Operations as flows: written once, run sync or async.

A flow is a generator that yields requests to a storage and is sent their answers. It does no I/O
itself; `run` and `arun` do it, and are the only place where the two colours differ.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from langchain_ttl_history.errors import (
    CorruptRecordError,
    TTLHistoryError,
    TypeNotAllowedError,
)
from langchain_ttl_history.keys import SessionKey, label
from langchain_ttl_history.storage.base import Change, Outcome, Query, Snapshot, Storage

__all__ = ["Flow", "Read", "Request", "Write", "arun", "reading", "run", "writing"]

T = TypeVar("T")


class Read(NamedTuple):
    """A request to read."""

    key: SessionKey
    query: Query


class Write(NamedTuple):
    """A request to write."""

    key: SessionKey
    change: Change


Request = Read | Write
Flow = Generator[Request, Any, T]


def reading(key: SessionKey, query: Query) -> Flow[Snapshot]:
    """Read; typed."""
    snapshot: Snapshot = yield Read(key, query)
    return snapshot


def writing(key: SessionKey, change: Change) -> Flow[Outcome]:
    """Write; typed."""
    outcome: Outcome = yield Write(key, change)
    return outcome


def run(storage: Storage, flow: Flow[T]) -> T:
    """Run a flow, blocking.

    Raises:
        CorruptRecordError: It met such a record; the message names the session.
        TypeNotAllowedError: It met a type that may not be stored or rebuilt; likewise.
    """
    request: Request | None = None
    try:
        request = next(flow)
        while True:
            if isinstance(request, Read):
                request = flow.send(storage.read(request.key, request.query))
            else:
                request = flow.send(storage.write(request.key, request.change))
    except StopIteration as stop:
        result: T = stop.value
        return result
    except (CorruptRecordError, TypeNotAllowedError) as error:
        named = _named(error, request)
        if named is error:
            raise
        raise named from error


async def arun(storage: Storage, flow: Flow[T]) -> T:
    """Async :func:`run`."""
    request: Request | None = None
    try:
        request = next(flow)
        while True:
            if isinstance(request, Read):
                request = flow.send(await storage.aread(request.key, request.query))
            else:
                request = flow.send(await storage.awrite(request.key, request.change))
    except StopIteration as stop:
        result: T = stop.value
        return result
    except (CorruptRecordError, TypeNotAllowedError) as error:
        named = _named(error, request)
        if named is error:
            raise
        raise named from error


def _named(error: CorruptRecordError | TypeNotAllowedError, request: Request | None) -> TTLHistoryError:
    """The error with the session's name in front, where it has none yet."""
    if request is None or str(error).startswith("session "):
        return error
    return type(error)(f"{label(request.key)}: {error}")
