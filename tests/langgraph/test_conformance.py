"""LangGraph's own conformance suite, through the async methods and through the sync ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.testing import Clock
from tests.shared.fixtures import OTHERS, STORAGES, StorageCase


class SyncAsAsync(BaseCheckpointSaver[Any]):
    """Answers every async method by the sync one of another saver."""

    def __init__(self, saver: Any) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self._saver.get_next_version(current, channel)

    async def aget_tuple(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self._saver.get_tuple, *args, **kwargs)

    async def alist(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for each in self._saver.list(*args, **kwargs):
            yield each

    async def aput(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self._saver.put, *args, **kwargs)

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self._saver.put_writes, *args, **kwargs)

    async def adelete_thread(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self._saver.delete_thread, *args, **kwargs)

    async def adelete_for_runs(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self._saver.delete_for_runs, *args, **kwargs)

    async def acopy_thread(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self._saver.copy_thread, *args, **kwargs)

    async def aprune(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self._saver.prune, *args, **kwargs)


@pytest.mark.parametrize("methods", ["async", "sync"])
@pytest.mark.parametrize("where", [*{**STORAGES, **OTHERS}])
async def test_every_capability_is_detected_and_green(where: str, methods: str) -> None:
    case: StorageCase = {**STORAGES, **OTHERS}[where]
    opened: list[Any] = []

    @checkpointer_test(name=f"TTLCheckpointSaver ({methods})")
    async def ours() -> AsyncIterator[BaseCheckpointSaver[Any]]:
        opened.append(case.open(Clock()))
        saver = SessionBuffer(opened[-1]).checkpointer(user_id="u")
        yield saver if methods == "async" else SyncAsAsync(saver)

    report = await validate(ours)
    for storage in opened:
        await case.closed(storage)

    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert not failures, failures
    assert set(report.results) == {capability.value for capability in ALL_CAPABILITIES}
    for name, result in report.results.items():
        assert result.detected, f"{name} was not detected"
        assert result.passed is True, f"{name} was not green"
        assert result.tests_passed > 0
        assert result.tests_skipped == 0
    assert report.conformance_level() == "FULL"
