"""Many workers, each a process of its own, on one Redis."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.storage import RedisStorage
from tests import servers
from tests.shared.graphs import build_graph
from tests.shared.models import echo
from tests.shared.processes import process_context
from tests.shared.redis_cases import admin_of, assert_sound, kind_here, prefix_of
from tests.storage import redis_workers

WORKERS, APPENDS = 8, 100
PATIENCE = 60


@pytest.fixture
def storage(real: RedisStorage) -> RedisStorage:
    return real


@pytest.fixture
def where(storage: RedisStorage) -> tuple[str, str]:
    """What a worker needs to open the same storage."""
    return servers.shared(kind_here()).url, prefix_of(storage)


@pytest.fixture(scope="module")
def processes() -> Any:
    return process_context()


def finish(workers: list[Any]) -> None:
    """All of them end well."""
    for worker in workers:
        worker.join(PATIENCE)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


def test_appends_of_many_processes_all_arrive_once_and_each_in_one_piece(
    storage: RedisStorage, where: tuple[str, str], processes: Any
) -> None:
    workers = [
        processes.Process(target=redis_workers.append, args=(*where, number, APPENDS)) for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    finish(workers)
    history = SessionBuffer(storage, retention=redis_workers.UNBOUNDED).history("ada", "s1")
    said = [str(message.content) for message in history.messages]
    assert len(said) == len({*said}) == 2 * WORKERS * APPENDS
    assert said[0::2] == [each.replace("a", "q") for each in said[1::2]], "an append was torn apart"
    for worker in range(WORKERS):
        mine = [each for each in said if each.startswith(f"q{worker}-")]
        assert sorted(mine, key=lambda each: int(each.split("-")[1])) == [f"q{worker}-{n}" for n in range(APPENDS)]
        if worker % 2 == 0:
            assert mine == [f"q{worker}-{number}" for number in range(APPENDS)]
    assert_sound(servers.shared(kind_here()))


def test_turns_of_two_processes_that_overlap_are_both_kept(
    storage: RedisStorage, where: tuple[str, str], processes: Any
) -> None:
    buffer = SessionBuffer(storage)
    buffer.history("ada", "s1").add_system_message("opened")
    asked, released, answers = processes.Event(), processes.Event(), processes.Queue()
    others = processes.Process(target=redis_workers.turn, args=(*where, "theirs", asked, released, answers))
    others.start()
    assert asked.wait(PATIENCE)
    graph = build_graph("agent", buffer.checkpointer(), redis_workers.ScriptedModel(answer=echo), tools=[])
    graph.invoke({"messages": [("human", "mine")]}, buffer.config("ada", "s1"))
    released.set()
    assert answers.get(timeout=PATIENCE) == ["opened", "theirs", "re: theirs"]
    finish([others])
    said = [message.content for message in buffer.history("ada", "s1").messages]
    assert said[0] == "opened"
    assert sorted([tuple(said[1:3]), tuple(said[3:])]) == [("mine", "re: mine"), ("theirs", "re: theirs")]


def test_a_turn_of_another_process_cannot_bring_back_what_was_deleted(
    storage: RedisStorage, where: tuple[str, str], processes: Any
) -> None:
    buffer = SessionBuffer(storage)
    buffer.history("ada", "s1").add_system_message("a secret event")
    asked, released, answers = processes.Event(), processes.Event(), processes.Queue()
    others = processes.Process(target=redis_workers.turn, args=(*where, "a secret question", asked, released, answers))
    others.start()
    assert asked.wait(PATIENCE)
    assert buffer.delete("ada", "s1")
    released.set()
    assert "re: a secret question" in answers.get(timeout=PATIENCE)
    finish([others])
    assert buffer.info("ada", "s1") is None
    assert list(buffer.sessions("ada")) == []
    with admin_of(storage) as admin:
        held = b"\n".join(servers.dumped(admin))
        assert held
        assert b"secret" not in held
        assert b"ada" not in held
        assert b"secret" not in b"".join(admin.dump(key) for key in admin.scan_iter())
