"""What a process remembers of sessions in Redis spares work, and is never told where it is no longer true."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.redis import mirrors as mirrors_module
from langchain_ttl_history.storage.redis import requests as requests_module
from langchain_ttl_history.storage.redis.commands import Eval
from langchain_ttl_history.storage.types import Blob, Change, Entry, Lease, Query, Status
from langchain_ttl_history.testing import Clock
from tests.shared.one_session import KEY, LEASE
from tests.shared.redis_cases import MESSAGES, TURN, assert_counts, begin, context_of, keys_of, reply_to, sending, told


def test_a_write_that_refers_to_what_is_known_is_one_look_and_one_change(
    storage: RedisStorage, admin: redis.Redis
) -> None:
    begin(storage)
    change = Change(
        LEASE,
        blobs={"m40": Blob(b"new"), "c2": Blob(b"two", (*MESSAGES, "m40")), "h": Blob(b"", ("c2",))},
        append=[("log", b"", ("m40",)), ("w2", b"", ("c2",)), ("log", b"", ())],
    )
    storage.write(KEY, change)
    admin.config_resetstat()
    storage.write(KEY, change)
    used = {name: each["calls"] for name, each in admin.info("commandstats").items()}
    assert {name: used.get(f"cmdstat_{name}", 0) for name in ("evalsha", "hmget", "hset")} == {
        "evalsha": 1, "hmget": 1, "hset": 1,
    }  # fmt: skip
    assert not {"cmdstat_hget", "cmdstat_pexpire", "cmdstat_hdel", "cmdstat_eval", "cmdstat_hincrby"} & {*used}
    found = storage.read(KEY, TURN)
    assert found.blobs["c2"].refs == (*MESSAGES, "m40")
    assert [entry.refs for entry in found.lists["log"]] == [("m1",), ("m40",), (), ("m40",), ()]


def test_a_write_moves_deadlines_once_a_tenth_of_the_idle_time_is_over(
    storage: RedisStorage, clock: Clock, admin: redis.Redis
) -> None:
    begin(storage)
    for seconds, moves in ((9.0, False), (1.5, True), (0.5, False)):
        clock.advance(seconds)
        admin.config_resetstat()
        storage.write(KEY, Change(LEASE, append=[("log", b"", ())]))
        assert ("cmdstat_pexpire" in admin.info("commandstats")) == moves
        found = storage.read(KEY, Query())
        assert found.expires_at is not None
        assert clock.now + 100 <= found.expires_at <= clock.now + 110
        assert clock.now - 10 <= found.last_used_at <= clock.now
    clock.advance(20)
    storage.write(SessionKey("ada", "s2"), Change(LEASE))
    assert [key.session_id for key in storage.sessions("ada")[0]] == ["s1", "s2"]


def test_a_read_is_not_sent_what_this_process_read_or_wrote(storage: RedisStorage, another: Any) -> None:
    begin(storage)
    first, whole = told(storage)
    assert whole > 20_000
    again, rest = told(storage)
    assert rest < 500
    assert again == first
    storage.write(KEY, Change(LEASE, blobs={"m40": Blob(b"x" * 900), "c2": Blob(b"", (*MESSAGES, "m40"))}))
    storage.write(KEY, Change(LEASE, blobs={"h": Blob(b"", ("c2",), 1)}, append=[("log", b"", ("m40",))]))
    found, rest = told(storage)
    assert rest < 500
    other = another()
    assert told(other)[0] == found
    assert {*found.blobs} == {"h", "c2", *MESSAGES, "m40"}
    # What others write is sent, and nothing else.
    other.write(KEY, Change(LEASE, append=[("log", b"", ("m41",))], blobs={"m41": Blob(b"y" * 900)}))
    found, rest = told(storage)
    assert 900 < rest < 2_000
    assert found.blobs["m41"].payload == b"y" * 900


def test_an_outline_is_not_sent_it_either(storage: RedisStorage, another: Any) -> None:
    begin(storage)
    everything = Query(outline=True)
    expected, whole = told(another(), everything)
    told(storage)
    found, rest = told(storage, everything)
    assert found == expected
    assert rest < 0.2 * whole
    storage.write(KEY, Change(LEASE, drop=["m3", "c1"], blobs={"h": Blob(b"", ("m1",))}))
    storage.write(KEY, Change(LEASE, blobs={"m3": Blob(b"again"), "c3": Blob(b"", ("m3", "m4"))}))
    for query in (everything, Query(("c3",), ("m",)), everything):
        assert told(storage, query)[0] == told(another(), query)[0]


@pytest.mark.parametrize(
    "changes",
    [
        [{"drop": ["m7"]}],
        [{"drop": ["m7"]}, {"blobs": {"m7": Blob(b"again")}}],
        [{"drop": ["m7"]}, {"append": [("m7", b"a list by now", ())]}],
        [{"blobs": {"m7": Blob(b"another")}}],
        [{"blobs": {"m7": Blob(b"another")}}, {"blobs": {"m7": MESSAGES["m7"]}}],
        [{"blobs": {"c1": Blob(b"another", ("m3",))}}],
        [{"blobs": {"h": Blob(b"", ("c1",))}}, {"blobs": {"h": Blob(b"", ("m2",))}}],
        [{"drop": ["c1", "m1"]}, {"blobs": {"c1": Blob(b"one", ("m2",)), "m1": Blob(b"1")}}],
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_another_worker_changed_is_seen_at_once(
    storage: RedisStorage, another: Any, changes: list[dict[str, Any]], *, whole: bool
) -> None:
    begin(storage)
    storage.read(KEY, Query(outline=True) if whole else TURN)
    other = another()
    other.read(KEY, TURN)
    for change in changes:
        assert other.write(KEY, Change(LEASE, **change)).status is Status.STORED
        for query in (TURN, Query(outline=True), Query(("c1", "m7"), ("m",))):
            expected = another().read(KEY, query)
            assert storage.read(KEY, query) == expected
            assert other.read(KEY, query) == expected


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("drops", ["", "before", "after"])
def test_what_another_worker_set_anew_is_seen_at_once_whatever_else_it_dropped(
    storage: RedisStorage, another: Any, drops: str, *, by_name: bool
) -> None:
    storage.write(KEY, Change(LEASE, blobs={"m": Blob(b"old"), "x": Blob(b""), "c": Blob(b"", ("m",))}))
    query = Query(("c",), ("m",))
    assert storage.read(KEY, query).blobs["m"] == Blob(b"old")
    other = another()
    anew = Change(LEASE, blobs={"m": Blob(b"new")})
    dropped = Change(LEASE, drop=["x"])
    for change in {"": [anew], "before": [dropped, anew], "after": [anew, dropped]}[drops]:
        if by_name:
            context_of(other).numbers.forget(*KEY)
        else:
            other.read(KEY, query)
        other.write(KEY, change)
    assert storage.read(KEY, query).blobs["m"] == Blob(b"new")


@pytest.mark.parametrize("change", [{"drop": ["m7"]}, {"blobs": {"m7": Blob(b"another")}}], ids=["drop", "set"])
def test_what_another_worker_changed_is_seen_after_a_change_of_ones_own(
    storage: RedisStorage, another: Any, change: dict[str, Any]
) -> None:
    begin(storage)
    told(storage)
    another().write(KEY, Change(LEASE, **change))
    storage.write(KEY, Change(LEASE, blobs={"m8": Blob(b"anew")}))  # Begins the edition after the other one's.
    assert storage.read(KEY, TURN) == another().read(KEY, TURN)


@pytest.mark.parametrize("deletes", [False, True])
def test_what_another_worker_changed_is_sent_once(
    storage: RedisStorage, another: Any, clock: Clock, *, deletes: bool
) -> None:
    begin(storage)
    for name in ("m38", "m39"):
        storage.write(KEY, Change(LEASE, drop=[name]))
    _, whole = told(storage)
    other = another()
    if deletes:  # The next generation counts its editions anew.
        other.delete(*KEY, 60.0)
        clock.advance(1)
        begin(other)
    kept = [name for name in MESSAGES if name not in ("m7", "m20", "m38", "m39")]
    checkpoint = {"c2": Blob(b"two" * 300, tuple(kept)), "h": Blob(b"", ("c2",))}
    assert other.write(KEY, Change(LEASE, blobs=checkpoint, drop=["m7", "m20"])).status is Status.STORED
    sizes = [told(storage)[1] for _ in range(2)]
    assert sizes[0] > 0.8 * whole
    assert sizes[1] < 500


def test_what_is_set_anew_as_it_was_stays_remembered(storage: RedisStorage, another: Any) -> None:
    begin(storage)
    told(storage)
    for worker in (another(), storage):
        worker.write(KEY, Change(LEASE, blobs={"m1": MESSAGES["m1"], "c1": Blob(b"one", tuple(MESSAGES))}))
        assert told(storage)[1] < 500


def test_another_generation_is_not_taken_for_the_one_that_is_remembered(
    storage: RedisStorage, another: Any, clock: Clock
) -> None:
    begin(storage)
    told(storage)
    other = another()
    other.delete(*KEY, 60.0)
    clock.advance(1)
    other.write(KEY, Change(LEASE, blobs={name: Blob(b"new") for name in MESSAGES}))
    other.write(KEY, Change(LEASE, blobs={"c1": Blob(b"", ("m1", "m2")), "h": Blob(b"", ("c1",))}))
    assert {name: blob.payload for name, blob in storage.read(KEY, TURN).blobs.items()} == {
        "h": b"", "c1": b"", "m1": b"new", "m2": b"new",
    }  # fmt: skip


def test_what_a_query_does_not_follow_is_not_told(storage: RedisStorage) -> None:
    begin(storage)
    storage.read(KEY, TURN)
    assert {*storage.read(KEY, Query(("h",), ("c",))).blobs} == {"h", "c1"}
    assert {*storage.read(KEY, Query(("h",))).blobs} == {"h"}
    assert storage.read(KEY, Query(("c1",))).blobs["c1"].refs == tuple(MESSAGES)


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_is_remembered_of_what_was_deleted_or_is_over(
    storage: RedisStorage, clock: Clock, *, whole: bool
) -> None:
    for key in (KEY, SessionKey("ada", "s2"), SessionKey("bob", "s1"), SessionKey("bob", "s2")):
        storage.write(key, Change(LEASE, blobs=MESSAGES))
        storage.read(key, Query(outline=True))
    storage.delete("ada", None if whole else "s1", 60.0)
    mirrors = context_of(storage).mirrors
    expected = {SessionKey("bob", "s1"), SessionKey("bob", "s2")}
    assert {*mirrors._mirrors} == (expected if whole else expected | {SessionKey("ada", "s2")})
    clock.advance(200)
    storage.read(SessionKey("bob", "s1"), Query())
    assert SessionKey("bob", "s1") not in mirrors._mirrors
    numbers = context_of(storage).numbers
    assert {*numbers._known} == {*mirrors._mirrors}
    assert numbers._size == sum(10 + len(each.numbers) for each in numbers._known.values())
    assert mirrors._size == sum(mirrors._sizes.values()) == sum(each.size for each in mirrors._mirrors.values())


@pytest.mark.parametrize("session_id", ["s1", None], ids=["session", "user"])
@pytest.mark.parametrize("anew", [False, True])
def test_nothing_is_remembered_of_what_another_thread_deletes_while_it_is_read(
    storage: RedisStorage, session_id: str | None, anew: bool
) -> None:
    storage.write(KEY, Change(LEASE, blobs=MESSAGES))
    waiting = [True]

    def overtaken(send: Callable[[Any], Any], request: Any) -> Any:
        reply = send(request)
        if waiting:
            waiting.clear()
            storage.delete("ada", session_id, 60.0)
            if anew:
                storage.write(KEY, Change(LEASE, blobs={"mnew": Blob(b"new")}))
                storage.read(KEY, Query(outline=True))
        return reply

    with sending(storage, overtaken):
        assert storage.read(KEY, Query(outline=True)).blobs
    mirror = context_of(storage).mirrors.of(KEY)
    assert set(() if mirror is None else mirror.blobs) == ({"mnew"} if anew else set())
    storage.write(KEY, Change(LEASE, blobs=MESSAGES))
    assert storage.read(KEY, Query(outline=True)).blobs
    assert context_of(storage).mirrors.of(KEY)


def test_deleting_a_session_looks_at_nothing_that_is_remembered_of_others(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unscanned(OrderedDict[SessionKey, Any]):
        def __iter__(self) -> Iterator[SessionKey]:
            pytest.fail("it goes through all sessions")

    for name in ("s1", "s2"):
        storage.write(SessionKey("ada", name), Change(LEASE, blobs=MESSAGES))
        storage.read(SessionKey("ada", name), Query(outline=True))
    context = context_of(storage)
    for cache, name in ((context.mirrors, "_mirrors"), (context.numbers, "_known")):
        monkeypatch.setattr(cache, name, Unscanned(getattr(cache, name).items()))
    storage.delete("ada", "s1", 60.0)
    for cache in (context.mirrors, context.numbers):
        assert cache.of(SessionKey("ada", "s1")) is None
        assert cache.of(SessionKey("ada", "s2")) is not None


def test_what_is_remembered_is_bounded(storage: RedisStorage, another: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors_module, "_EACH", 60_000)
    monkeypatch.setattr(mirrors_module, "_BYTES", 150_000)
    keys = [SessionKey("ada", f"s{number}") for number in range(9)]
    mirrors = context_of(storage).mirrors
    for key in keys:
        storage.write(key, Change(LEASE, blobs=MESSAGES))
        storage.read(key, Query(outline=True))
    assert [*mirrors._mirrors] == keys[-len(mirrors._mirrors) :]
    assert 0 < mirrors._size <= 150_000
    storage.write(keys[-1], Change(LEASE, blobs={"big": Blob(b"x" * 60_000)}))
    assert keys[-1] not in mirrors._mirrors
    assert storage.read(keys[-1], Query(outline=True)).blobs == {**MESSAGES, "big": Blob(b"x" * 60_000)}
    assert mirrors._size == sum(each.size for each in mirrors._mirrors.values())
    other = another()
    other.write(keys[-3], Change(LEASE, blobs={"m40": Blob(b"x" * 15_000)}))
    storage.read(keys[-3], Query(outline=True))
    assert [*mirrors._mirrors] == [keys[-2], keys[-3]], "what was used last is at the end"
    assert mirrors._size == sum(each.size for each in mirrors._mirrors.values()), "what grows is counted"
    other.write(keys[-3], Change(LEASE, blobs={"m41": Blob(b"x" * 15_000)}))
    storage.read(keys[-3], Query(outline=True))
    assert [*mirrors._mirrors] == [keys[-2]], "it grew too large"


def test_what_is_remembered_of_sessions_without_blobs_is_bounded_as_well(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors_module, "_BYTES", 20_000)
    for number in range(30):
        key = SessionKey("ada", f"s{number}")
        storage.write(key, Change(LEASE, append=[("log", b"hello", ())]))
        storage.read(key, Query(("log",)))
    mirrors = context_of(storage).mirrors
    assert 0 < len(mirrors._mirrors) <= 10
    assert mirrors._size == sum(each.size for each in mirrors._mirrors.values()) <= 20_000


# --- writes that overlap ------------------------------------------------------------------------------


def sent_during(storage: RedisStorage, first: Change, then: Callable[[], Any], *, before: bool = False) -> list[Eval]:
    """All requests of a write, and of what happens between its being done and its answer being read, or before."""
    requests: list[Any] = []

    def interrupted(send: Callable[[Any], Any], request: Any) -> Any:
        requests.append(request)
        is_first = len(requests) == 1
        if is_first and before:
            then()
        reply = send(request)
        if is_first and not before:
            then()
        return reply

    with sending(storage, interrupted):
        assert storage.write(KEY, first).status is Status.STORED
    return requests


def test_a_write_that_overlaps_with_one_that_frees_is_one_request(storage: RedisStorage) -> None:
    """It counts on an epoch that has ended, but knows what ended it."""
    begin(storage)
    storage.write(KEY, Change(LEASE, blobs={"c2": Blob(b"", ("m1", "m2"))}))
    outcomes = []

    def meanwhile() -> None:
        change = Change(LEASE, blobs={"c3": Blob(b"", ("m1", "c2"))}, append=[("log", b"", ("m2",))])
        outcomes.append(storage.write(KEY, change))

    requests = sent_during(storage, Change(LEASE, drop=["m5", "m6"]), meanwhile)
    assert len(requests) == 2
    assert outcomes[0].status is Status.STORED
    # Nothing that was known before is forgotten.
    assert context_of(storage).numbers.of(KEY).numbers.keys() == {*MESSAGES, "c1", "c2", "c3", "h"} - {"m5", "m6"}
    found = storage.read(KEY, Query(("c3", "c1"), ("m",)))
    assert found.blobs["c3"].refs == ("m1", "c2")
    assert {"m5", "m6"}.isdisjoint(found.blobs)


def test_what_is_read_while_a_write_waits_for_its_answer_stays_remembered(storage: RedisStorage) -> None:
    begin(storage)
    sent_during(storage, Change(LEASE, drop=["m5"]), lambda: storage.read(KEY, TURN))
    assert told(storage)[1] < 500


@pytest.mark.parametrize("refs", [("m5", "m6"), ("m6", "m5")])
def test_a_write_that_overlaps_with_one_that_frees_what_some_of_it_needs_is_told(
    storage: RedisStorage, refs: tuple[str, ...]
) -> None:
    begin(storage)
    missing = []

    def meanwhile() -> None:
        blobs = {f"c-{ref}": Blob(b"", (ref,)) for ref in refs}
        changes = (Change(LEASE, append=[("log", b"", (ref,)) for ref in refs]), Change(LEASE, blobs=blobs))
        missing.extend(storage.write(KEY, change).missing for change in changes)

    sent_during(storage, Change(LEASE, drop=["m5"]), meanwhile)
    assert missing == [{"m5"}, {"m5"}]


@pytest.mark.parametrize("name", ["m5", "log"])
def test_a_write_that_overlaps_with_one_that_frees_what_it_needs_is_told(storage: RedisStorage, name: str) -> None:
    begin(storage)
    outcomes = []

    def meanwhile() -> None:
        refers = Change(LEASE, blobs={"c3": Blob(b"", ("m5",))})
        again = Change(LEASE, blobs={"m5": Blob(b"again"), "c3": Blob(b"", ("m5",))})
        outcomes.append(storage.write(KEY, refers if name == "m5" else again))

    sent_during(storage, Change(LEASE, drop=["m5"]), meanwhile)
    if name == "m5":
        assert outcomes[0].missing == {"m5"}
    else:
        assert outcomes[0].status is Status.STORED
        assert storage.read(KEY, Query(("c3",), ("m",))).blobs["m5"] == Blob(b"again")


@pytest.mark.parametrize("before", [True, False])
def test_another_workers_freeing_is_not_taken_for_ones_own(
    storage: RedisStorage, another: Any, *, before: bool
) -> None:
    begin(storage)
    outcomes = []

    def meanwhile() -> None:
        another().write(KEY, Change(LEASE, drop=["m1"]))
        outcomes.append(storage.write(KEY, Change(LEASE, blobs={"c3": Blob(b"", ("m1", "m2"))})))

    sent_during(storage, Change(LEASE, drop=["m5"]), meanwhile, before=before)
    assert outcomes[0].missing == {"m1"}


@pytest.mark.parametrize("before", [True, False])
def test_another_workers_freeing_is_noticed_by_a_write_that_refers_to_nothing(
    storage: RedisStorage, another: Any, *, before: bool
) -> None:
    begin(storage)

    def meanwhile() -> None:
        another().write(KEY, Change(LEASE, drop=["m1"]))
        storage.write(KEY, Change(LEASE, append=[("log", b"", ())]))

    sent_during(storage, Change(LEASE, drop=["m5"]), meanwhile, before=before)
    assert storage.write(KEY, Change(LEASE, blobs={"c3": Blob(b"", ("m1", "m2"))})).missing == {"m1"}


def test_another_workers_freeing_before_ones_own_is_not_taken_for_a_part_of_it(
    storage: RedisStorage, another: Any
) -> None:
    begin(storage)
    other, outcomes = another(), []

    def meanwhile() -> None:
        outcomes.append(storage.write(KEY, Change(LEASE, blobs={"c3": Blob(b"", ("m1", "m2"))})))

    other.write(KEY, Change(LEASE, drop=["m1"]))
    sent_during(storage, Change(LEASE, drop=["m5"]), meanwhile)
    assert outcomes[0].missing == {"m1"}


# --- names --------------------------------------------------------------------------------------------


def test_references_keep_their_names_when_names_that_nothing_needs_are_dropped(
    storage: RedisStorage, another: Any, admin: redis.Redis
) -> None:
    storage.write(KEY, Change(LEASE, blobs={f"m{number}": Blob(b"") for number in range(400)}))
    storage.write(
        KEY,
        Change(
            LEASE,
            blobs={"c": Blob(b"", ("m0", "m33", "m399"))},
            append=[("log", b"", ("m77", "m78")), ("log", b"1", ("m7",)), ("log", b"22", ("m200", "m55"))],
        ),
    )
    _, session = keys_of(storage)
    before = admin.hlen(session)
    storage.write(KEY, Change(LEASE, drop=[f"m{number}" for number in range(400)]))
    assert before - 400 > admin.hlen(session) - 20, "tables went"
    assert admin.hlen(session) < 20
    for each in (storage, another()):
        for query in (Query(("c", "log")), Query(("c", "log"), ("m",)), Query(outline=True)):
            found = each.read(KEY, query)
            assert {*found.blobs} == {"c"}
            assert found.blobs["c"].refs == ("m0", "m33", "m399")
            assert found.lists["log"] == [
                Entry(1, b"", ("m77", "m78")), Entry(2, b"1", ("m7",)), Entry(3, b"22", ("m200", "m55")),
            ]  # fmt: skip
    assert storage.write(KEY, Change(LEASE, blobs={"m0": Blob(b"again")})).status is Status.STORED
    assert another().read(KEY, Query(("c",), ("m",))).blobs["m0"].payload == b"again"


@pytest.mark.parametrize("letter", ["m", "é", "\0", "\x80", "🙂", "\ud800"])
def test_names_may_begin_with_anything(storage: RedisStorage, another: Any, letter: str) -> None:
    long = letter + "x" * 60
    blobs = {letter: Blob(b"1"), long: Blob(b"2"), f"{letter}3": Blob(b"3", (letter, long)), "è": Blob(b"4")}
    storage.write(KEY, Change(LEASE, blobs=blobs))
    storage.write(KEY, Change(LEASE, blobs={"c": Blob(b"", (f"{letter}3", long, "è"))}))
    for _ in range(2):
        for each in (storage, another()):
            found = each.read(KEY, Query(("c",), (letter,)))
            assert {*found.blobs} - {"è"} == {"c", f"{letter}3", letter, long}
            assert ("è" in found.blobs) == (letter == "è")
            assert each.read(KEY, Query(outline=True)).blobs == {**blobs, "c": found.blobs["c"]}


@pytest.mark.parametrize("second_first", [True, False])
def test_what_is_dropped_while_another_drop_begins_is_not_referred_to(
    storage: RedisStorage, *, second_first: bool
) -> None:
    """Plans are driven by hand, in an order that threads may take."""
    context = context_of(storage)
    storage.write(
        KEY, Change(LEASE, blobs={name: Blob(b"x") for name in ("ma", "mb", "mc")}, append=[("log", b"", ())])
    )
    storage.write(KEY, Change(LEASE, blobs={"md": Blob(b"x")}))

    def end(plan: Any, reply: Any) -> Any:
        with pytest.raises(StopIteration) as stop:
            plan.send(reply)
        return stop.value.value

    first = requests_module.write(context, KEY, Change(LEASE, drop=["ma"]))
    lean = requests_module.write(context, KEY, Change(LEASE, append=[("log", b"", ("mc",))]))
    second = requests_module.write(context, KEY, Change(LEASE, drop=["mb"]))
    dropped = reply_to(storage, next(first))
    written = reply_to(storage, next(lean))
    request = next(second)  # Begins before the answers of the others are here.
    assert end(lean, written).status is Status.STORED
    if second_first:
        end(second, reply_to(storage, request))
        end(first, dropped)
    else:
        end(first, dropped)
        end(second, reply_to(storage, request))
    refused = storage.write(KEY, Change(LEASE, append=[("log", b"", ("ma",))]))
    assert (refused.status, refused.missing) == (Status.MISSING, {"ma"})


def test_what_another_worker_dropped_first_is_not_known_after_a_read(
    storage: RedisStorage, another: Any, admin: redis.Redis
) -> None:
    begin(storage)
    told(storage)
    other = another()
    other.write(KEY, Change(LEASE, drop=["m3"], blobs={"c1": Blob(b"one", ("m1", "m2")), "h": Blob(b"", ("c1",))}))
    told(storage)
    refused = storage.write(KEY, Change(LEASE, append=[("log", b"", ("m3",))]))
    assert (refused.status, refused.missing) == (Status.MISSING, {"m3"})
    storage.write(KEY, Change(LEASE, blobs={"m3": Blob(b"again")}, append=[("log", b"", ("m3", "m4"))]))
    everything = Query(outline=True)
    assert storage.read(KEY, everything) == other.read(KEY, everything) == another().read(KEY, everything)
    assert_counts(admin.hgetall(keys_of(storage)[1]))


def test_an_outline_has_nothing_that_another_thread_wrote_since(storage: RedisStorage) -> None:
    begin(storage)
    told(storage)
    everything = Query(outline=True)
    expected, _ = told(storage, everything)
    faster = iter([Change(LEASE, blobs={"m99": Blob(b"later")})])

    def overtaken(send: Callable[[Any], Any], request: Any) -> Any:
        """Stands in for a thread that is faster."""
        reply = send(request)
        for change in faster:
            storage.write(KEY, change)
        return reply

    with sending(storage, overtaken):
        assert storage.read(KEY, everything) == expected


@pytest.mark.parametrize("seconds", [1e13, 1e300])
def test_an_idle_time_may_be_longer_than_a_server_can_count(
    storage: RedisStorage, clock: Clock, seconds: float
) -> None:
    storage.write(KEY, Change(Lease(seconds, seconds)))
    storage.write(KEY, Change(LEASE, idle_ttl=seconds))
    clock.advance(100 * 365 * 86_400.0)
    assert storage.read(KEY, Query()).generation
    assert storage.delete(*KEY, seconds) == 1
