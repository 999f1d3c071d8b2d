"""What both Python and the Lua scripts know of how a session is stored is the same on both sides."""

from __future__ import annotations

import random
from importlib.resources import files
from typing import Any

import pytest
import redis

from langchain_ttl_history.keys import encoded
from langchain_ttl_history.storage.redis import batches, layout
from langchain_ttl_history.storage.redis.commands import request_id
from langchain_ttl_history.storage.redis.lineage import newest
from langchain_ttl_history.storage.redis.names import short_name
from langchain_ttl_history.storage.redis.references import KIND, TABLE, kind_of, refs_in, runs_of
from langchain_ttl_history.storage.types import Blob, Entry

READ_RUNS = """
local found = {}
each_run(ARGV[1], function(kind, first, count)
  for number = first, first + count - 1 do
    found[#found + 1] = pack('>I1I4', kind, number)
  end
end)
return table.concat(found)
"""
WRITE_RUNS = """
local numbers = {}
for at = 1, #ARGV[1], 5 do
  numbers[#numbers + 1] = sub(ARGV[1], at, at + 4)
end
return runs_of(numbers)
"""


def lua(admin: redis.Redis, program: str, *arguments: Any) -> Any:
    """What a program returns that knows all that the scripts share."""
    shared = files("langchain_ttl_history.storage.redis") / "lua" / "shared"
    parts = ("common", "layout", "numbers", "blobs", "lists", "positions", "requests")
    source = "".join((shared / f"{each}.lua").read_text("utf-8") for each in parts)
    return admin.eval(source + program, 1, "user", *arguments)


def stored(number: int) -> bytes:
    """A number as it is stored, its kind in front of it."""
    return number.to_bytes(5, "big")


def some_numbers(seed: int) -> list[int]:
    """Numbers in runs of any length, with gaps of any size."""
    rng = random.Random(seed)
    found: list[int] = []
    kind, after = 98, 0
    for _ in range(rng.randrange(1, 12)):
        if rng.random() < 0.3:
            kind, after = rng.choice([0, 98, 99, 255]), rng.randrange(1_000)
        first = max(0, after + rng.choice([-101, -100, -1, 1, 2, 154, 155, 156, 100_000]))
        after = first + rng.choice([1, 1, 2, 80, 255, 256, 257, 300])
        found += [kind << KIND | number for number in range(first, after)]
    return found


def test_python_and_lua_give_a_name_the_same_kind(admin: redis.Redis) -> None:
    names = [f"{chr(first)}{'x' * more}" for first in (0, 1, 65, 109, 127, 128, 233, 0xD800) for more in (0, 31, 32)]
    names += ["", "m" + "0123456789abcdef" * 2 + "run--1", "c\0" + "00000000-0000-0000-0000-000000000000"]
    short = [encoded(short_name(name)) for name in names]
    program = "local found = {} for at, name in ipairs(ARGV) do found[at] = kind_of(name) end return found"
    assert lua(admin, program, *short) == [kind_of(name) for name in names]


def test_python_and_lua_put_as_many_names_in_a_table(admin: redis.Redis) -> None:
    assert lua(admin, "return TABLE") == TABLE


@pytest.mark.parametrize("seed", [*range(20), None])
def test_python_and_lua_write_and_read_the_same_runs_of_references(admin: redis.Redis, seed: int | None) -> None:
    numbers = [*range(70_000)] if seed is None else some_numbers(seed)
    names = [f"m{number}" for number in numbers]
    made = runs_of(names, dict(zip(names, numbers, strict=True)), {}, 0)
    assert made is not None
    known = dict(zip(numbers, names, strict=True))
    joined = b"".join(map(stored, numbers))
    assert made[0] == lua(admin, WRITE_RUNS, joined)
    assert refs_in(made[0], known) == tuple(names)
    assert lua(admin, READ_RUNS, made[0]) == joined


def test_python_reads_what_lua_stores_of_a_blob(admin: redis.Redis) -> None:
    head = b"\0\0\0\0\0\0\0\7" + (10).to_bytes(4, "big") + (6).to_bytes(4, "big")
    refs, also = b"\xffm\0\0\0\3\0\2gA", b"\0\0\0\2w1"
    names = {109 << KIND | number: f"m{number}" for number in (*range(3, 5), *range(8, 73))}
    value = lua(admin, "return blob_of(nil, ARGV[1], ARGV[2], ARGV[3])", stored(5), head + refs + also, b"payload")
    assert layout.number_in(value) == 5
    assert layout.blob_in(value, names) == Blob(b"payload", refs_in(refs, names), 7, ("w1",))
    assert not value[0] & layout.SET_AGAIN
    assert lua(admin, "return {parts_of(ARGV[1])}", value) == [refs, also, 7, len(value) - len(b"payload") + 1]
    assert lua(admin, "return payload_length(ARGV[1])", value) == len(b"payload")
    again = lua(admin, "return blob_of(ARGV[1], ARGV[2], '', ARGV[3])", value, stored(5), b"another")
    assert again[0] & layout.SET_AGAIN
    assert layout.blob_in(again, {}) == Blob(b"another")


def test_python_reads_the_entries_of_a_list_that_lua_stores(admin: redis.Redis) -> None:
    program = """
        local list = list_from(nil)
        grow(list, 'log', 1099511627776, 3, ARGV[1], 'payload', 0, {})
        grow(list, 'log', 1099511627777, 1, '', 'more', 0, {})
        return list_as(list)
    """
    value = lua(admin, program, b"\xffm\0\0\0\3\0\2")
    names = {109 << KIND | 3: "m3", 109 << KIND | 4: "m4"}
    expected = [Entry(1 << 40, b"payload", ("m3", "m4")), Entry((1 << 40) + 1, b"more")]
    assert layout.entries_in(value[24:], names) == expected


def positions(admin: redis.Redis, before: int, *ages: int) -> list[int]:
    """Where entries stand that are appended at these ages of a session, in microseconds, one after another."""
    program = """
        local m, found = { position = tonumber(ARGV[1]), created = 1800000000000000 }, {}
        for at = 2, #ARGV do
          m.position = next_position(m, m.created + ARGV[at])
          found[at - 1] = m.position
        end
        return found
    """
    found: list[int] = lua(admin, program, before, *ages)
    return found


def test_positions_are_the_next_numbers_in_a_moment_and_increase_with_time(admin: redis.Redis) -> None:
    assert positions(admin, 0, 0, 0, 249, 250, 2_500, 2_500, -5) == [1, 2, 3, 4, 10, 11, 12]
    day, year = 86_400_000_000, 365 * 86_400_000_000
    assert positions(admin, 10**12, day)[0] == 10**12 + 1
    ages = [day, day + 250, 2 * day, year, 10 * year, 10 * year + 250]
    found = positions(admin, 800, *ages)
    assert found == sorted({*found})
    assert found[0] > day // 250
    assert found[-1] < 1 << 48


def test_a_position_tells_an_age_in_quarters_of_a_millisecond_without_that_byte(admin: redis.Redis) -> None:
    quarters = [*range(1, 600), *range(255**2 - 300, 255**2 + 300)]

    def told(quarter: int) -> int:
        digits = quarter % 255, quarter // 255 % 255, quarter // 255**2
        return int.from_bytes([digit + (digit >= 0xC1) for digit in digits], "little")

    found = positions(admin, 0, *[250 * quarter + 249 for quarter in quarters])
    assert found == [told(quarter) for quarter in quarters]


def test_no_position_has_the_byte_that_keeps_a_record_from_being_shortened(admin: redis.Redis) -> None:
    rng = random.Random(7)
    ages = sorted(rng.randrange(10 ** rng.randrange(4, 16)) for _ in range(5_000))
    for found in (positions(admin, 0, *ages), positions(admin, 0, *[0] * 5_000)):
        assert found == sorted({*found})
        assert all(0xC1 not in position.to_bytes(6, "big") for position in found)


def test_lua_remembers_as_many_requests_of_a_session_as_two_batches_hold(admin: redis.Redis) -> None:
    """Each with its position behind it, the newest first."""
    ids = [request_id() for _ in range(100)]
    program = """
        local m = { requests = '', position = 7 }
        for _, request in ipairs(ARGV) do remember(m, request) end
        return m.requests
    """
    found = lua(admin, program, *ids)
    assert newest(found).decode() == ids[-1]
    assert [found[at : at + 8].decode() for at in range(0, len(found), 16)] == ids[: -2 * batches._REQUESTS - 1 : -1]
