"""A storage between a buffer and the real one: it may be down, lie, or be open to others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from langchain_ttl_history import StorageError

Tamper = Callable[[bytes], bytes]


class Interposed:
    """Passes every verb on, unless told to fail; changes chosen payloads as they are read."""

    def __init__(self, storage: Any, *, private: bool | None = None) -> None:
        self._storage = storage
        self.private = storage.private if private is None else private
        self.down = False
        self.tampered: dict[str, Tamper] = {}
        """What to do to the payloads of a blob, by its name, or of a list's entry, "name/position"."""
        self.served: set[str] = set()
        """The records that were read."""

    def _refuse(self) -> None:
        if self.down:
            raise StorageError("the storage is down") from ConnectionError("refused")

    def _changed(self, name: str, record: Any) -> Any:
        self.served.add(name)
        tamper = self.tampered.get(name)
        return record if tamper is None else record._replace(payload=tamper(record.payload))

    def _lie(self, snapshot: Any) -> Any:
        return dataclasses.replace(
            snapshot,
            blobs={name: self._changed(name, blob) for name, blob in snapshot.blobs.items()},
            lists={
                name: [self._changed(f"{name}/{entry.position}", entry) for entry in entries]
                for name, entries in snapshot.lists.items()
            },
        )

    def __getattr__(self, verb: str) -> Any:
        self._refuse()
        return getattr(self._storage, verb)

    def read(self, *args: Any) -> Any:
        self._refuse()
        return self._lie(self._storage.read(*args))

    async def aread(self, *args: Any) -> Any:
        self._refuse()
        return self._lie(await self._storage.aread(*args))
