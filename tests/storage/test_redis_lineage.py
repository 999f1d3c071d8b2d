"""What a process remembers of a session in Redis, where the server it asks may know another history of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis import replies
from langchain_ttl_history.storage.redis.lineage import later, newest
from langchain_ttl_history.storage.redis.mirror import Mirror
from langchain_ttl_history.storage.redis.mirrors import Found, Mirrors
from langchain_ttl_history.storage.types import Blob, Change, Query, Status
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import MESSAGES, TURN, another_worker, begin, context_of, keys_of, sending, told


def requests(*names: str) -> bytes:
    """Requests as a server remembers them, the newest first."""
    return b"".join(name.encode() + position.to_bytes(8, "big") for position, name in enumerate(names))


OLD = requests("request1", "request0")
NEW = requests("request3", "request2", "request1", "request0")
FORK = requests("requestF", "request1", "request0")


def test_of_two_answers_of_one_history_one_is_the_later() -> None:
    assert newest(NEW) == b"request3"
    assert later(OLD, NEW) == later(NEW, OLD) == NEW
    assert later(OLD, FORK) == later(FORK, OLD) == FORK
    assert later(NEW, NEW) == NEW
    assert later(NEW, FORK) is None
    assert later(requests("request9"), OLD) is None


def restored(storage: RedisStorage, admin: Any, change: Change, since: Change, by: RedisStorage | None = None) -> None:
    """Make the server forget what `change` wrote, which is read, and write something else, by another worker."""
    _, session = keys_of(storage)
    before = admin.dump(session)
    assert (by or storage).write(KEY, change).status is Status.STORED
    told(storage)
    admin.restore(session, admin.pttl(session), before, replace=True)
    other = another_worker(storage)
    assert other.write(KEY, since).status is Status.STORED
    other.close()


LOST = Change(
    LEASE, blobs={"mlost": Blob(b"lost"), "c2": Blob(b"", ("m1", "mlost"))}, append=[("log", b"", ("mlost",))]
)
TWO = Change(LEASE, blobs={"mtwo": Blob(b"two"), "c3": Blob(b"", ("m1", "mtwo"))}, append=[("log", b"", ("mtwo",))])


@pytest.mark.parametrize("own", [True, False], ids=["own", "another's"])
@pytest.mark.parametrize("query", [TURN, Query(outline=True), Query(("log",), ("m",))])
def test_what_a_server_lost_is_not_taken_for_what_it_was_told_since(
    storage: RedisStorage, admin: Any, another: Any, query: Query, *, own: bool
) -> None:
    begin(storage)
    told(storage)
    restored(storage, admin, LOST, TWO, storage if own else another())
    expected, whole = told(another(), query)
    assert told(storage, query) == (expected, whole), "all of it is sent"
    assert "mlost" not in expected.blobs
    assert told(storage, query)[0] == expected


def test_what_is_written_to_a_server_that_lost_something_refers_to_what_it_says(
    storage: RedisStorage, admin: Any, another: Any
) -> None:
    begin(storage)
    told(storage)
    restored(storage, admin, LOST, TWO)
    refused = storage.write(KEY, Change(LEASE, append=[("log", b"", ("mlost",))]))
    assert (refused.status, refused.missing) == (Status.MISSING, {"mlost"})
    assert storage.write(KEY, Change(LEASE, append=[("log", b"", ("m1",))])).status is Status.STORED
    # What a write learns does not make true again what was known before it.
    found = told(storage)[0]
    assert found == told(another())[0]
    assert [entry.refs for entry in found.lists["log"]] == [("m1",), ("mtwo",), ("m1",)]
    assert storage.write(KEY, Change(LEASE, append=[("log", b"", ("mlost",))])).status is Status.MISSING


def test_a_worker_that_missed_more_requests_than_a_server_remembers_is_sent_everything_once(
    storage: RedisStorage, another: Any
) -> None:
    begin(storage)
    _, whole = told(storage)
    other = another()
    for _ in range(75):
        other.write(KEY, Change(LEASE, append=[("log", b"", ("m1",))]))
    found, sent = told(storage)
    assert found == told(another())[0]
    assert sent > whole
    assert told(storage)[1] < 0.3 * whole
    for _ in range(75):
        other.write(KEY, Change(LEASE, append=[("log", b"", ("m1",))]))
    assert storage.write(KEY, Change(LEASE, blobs={"c2": Blob(b"", tuple(MESSAGES))})).status is Status.STORED
    assert told(storage)[0] == told(another())[0]


def test_a_read_is_done_anew_if_another_threads_answer_was_of_another_history(
    storage: RedisStorage, another: Any
) -> None:
    begin(storage)
    expected, _ = told(storage)
    mirror = context_of(storage).mirrors.of(KEY)
    assert isinstance(mirror, Mirror)
    sent = 0

    def overtaken(send: Callable[[Any], Any], request: Any) -> Any:
        """Stands in for a thread that is faster."""
        nonlocal sent
        sent += 1
        reply = send(request)
        mirror.requests = FORK
        return reply

    with sending(storage, overtaken):
        assert storage.read(KEY, TURN) == expected
    assert sent == 2


def test_nothing_is_added_to_what_another_thread_was_told_of_another_history() -> None:
    mirrors, mirror = Mirrors(), Mirror(1, 1, FORK)
    mirrors.after_read(KEY, Found(mirror, NEW, {"m": Blob(b"lost")}, {"m": 1}), 0)
    assert (mirror.requests, mirror.blobs) == (FORK, {})


def test_an_answer_that_is_older_than_another_threads_hides_no_loss_of_what_that_told(
    storage: RedisStorage, admin: Any, another: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(storage)
    storage.read(KEY, TURN)
    _, session = keys_of(storage)
    kept: list[bytes] = []

    def overtaken(one: bytes, other: bytes) -> bytes | None:
        found = later(one, other)
        kept.append(admin.dump(session))
        name = f"mlost{len(kept)}"
        storage.write(KEY, Change(LEASE, blobs={name: Blob(b"lost")}, append=[("log", b"", (name,))]))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(replies, "later", overtaken)
        storage.read(KEY, TURN)
    admin.restore(session, admin.pttl(session), kept[-1], replace=True)
    another().write(KEY, TWO)
    assert storage.read(KEY, TURN).blobs == another().read(KEY, TURN).blobs


def test_what_is_remembered_of_a_lost_history_makes_room_for_the_one_there_is(
    storage: RedisStorage, admin: Any
) -> None:
    begin(storage)
    told(storage)
    restored(storage, admin, Change(LEASE, drop=["m30", "m31"]), TWO)
    told(storage)
    assert told(storage)[1] < 2_000
