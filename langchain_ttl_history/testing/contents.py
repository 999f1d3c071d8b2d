"""What a session holds: blobs, lists, their positions, and what they refer to."""

from __future__ import annotations

from typing import Any

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.types import Blob, Entry, Status
from langchain_ttl_history.testing.cases import LEASE, OTHERS, Cases

__all__ = ["Contents"]


class Contents(Cases):
    """What is written comes back, whole and in order, or is refused."""

    # Blobs and lists

    async def test_a_blob_is_set_whole(self) -> None:
        await self.write(blobs={"b": Blob(b"1"), "x": Blob(b"old", ("b",), 7, ("list",))})
        assert (await self.read("x")).blobs == {"x": Blob(b"old", ("b",), 7, ("list",))}
        await self.write(blobs={"x": Blob(b"\x00new")})
        assert (await self.read("x")).blobs == {"x": Blob(b"\x00new")}

    async def test_a_list_keeps_its_entries_in_the_order_they_arrived(self) -> None:
        await self.write(append=[("l", b"1", ()), ("l", b"2", ())])
        await self.write(append=[("l", b"", ())])
        assert [entry.payload for entry in (await self.read("l")).lists["l"]] == [b"1", b"2", b""]

    async def test_a_read_gives_what_it_names_and_leaves_out_what_is_not_stored(self) -> None:
        await self.write(blobs={"b": Blob(b"1"), "c": Blob(b"2")}, append=[("l", b"3", ())])
        found = await self.read("b", "gone")
        assert (set(found.blobs), set(found.lists)) == ({"b"}, set())

    async def test_sessions_are_apart(self) -> None:
        await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ())])
        for key in OTHERS:
            await self.expect_absent(key)
            outcome = await self.write(key, blobs={"b": Blob(b"other")})
            assert (outcome.position, outcome.bytes) == (0, 5)
        assert (await self.read("b")).blobs == {"b": Blob(b"1")}

    async def test_any_characters_make_a_key_of_their_own(self) -> None:
        parts = [("a:b", "c"), ("a", "b:c"), ("a*", "{c}"), ("a", "*"), ("{a}", "🙂"), ("a", "b")]
        keys = [SessionKey(*each) for each in parts]
        for key in keys:
            await self.write(key, blobs={"b": Blob(repr(key).encode())})
        for key in keys:
            assert (await self.read("b", key=key)).blobs["b"].payload == repr(key).encode()
        assert sorted(await self.listed()) == sorted(keys)

    async def test_what_is_dropped_or_trimmed_is_gone(self) -> None:
        await self.write(blobs={"b": Blob(b"1"), "c": Blob(b"22")})
        await self.write(append=[("l", b"1", ()), ("l", b"2", ()), ("k", b"3", ())])
        first, second = await self.positions("l")
        outcome = await self.write(drop=["b", "k", "gone"], trim={"l": frozenset({first, second + 99})})
        found = await self.read(outline=True)
        assert found.blobs == {"c": Blob(b"22")}
        assert {name: list(entries) for name, entries in found.lists.items()} == {"l": [Entry(second, b"2")]}
        assert (outcome.bytes, dict(outcome.weights), found.bytes) == (3, {"l": 1}, 3)

    async def test_what_a_change_both_brings_and_takes_away_is_gone(self) -> None:
        old = (await self.write(blobs={"b": Blob(b"old")}, append=[("l", b"1", ()), ("k", b"2", ())])).position
        far = old + 1_000_000
        await self.read(outline=True)  # What a process knows of a session afterwards must be right, too.
        outcome = await self.write(
            blobs={"b": Blob(b"new"), "c": Blob(b"3"), "d": Blob(b"4")},
            append=[("l", b"4", ()), ("k", b"5", ())],
            place=[("k", Entry(far, b"6"))],
            drop=["l", "b", "d"],
            trim={"k": frozenset({old, far})},
        )
        found = await self.read(outline=True)
        assert (dict(found.blobs), set(found.lists)) == ({"c": Blob(b"3")}, {"k"})
        ((position, payload, _),) = found.lists["k"]
        assert old + 1 < position < far
        assert payload == b"5"
        assert (outcome.position, outcome.bytes, found.bytes) == (far, 2, 2)
        assert dict(outcome.weights) == {"k": 1}

    async def test_a_write_answers_with_the_sizes_after_it(self) -> None:
        outcome = await self.write(blobs={"b": Blob(b"12")}, append=[("l", b"3", ("b",)), ("l", b"", ())])
        found = await self.read("l")
        assert (outcome.status, outcome.generation) == (Status.STORED, found.generation)
        assert (outcome.position, outcome.bytes, dict(outcome.weights)) == (found.position, 3, {"l": 3})
        assert (found.position, found.bytes) == (found.lists["l"][-1].position, 3)

    async def test_the_bytes_are_those_of_what_is_there_however_it_came_there(self) -> None:
        steps: list[tuple[int, dict[str, Any]]] = [
            (2, {"blobs": {"b": Blob(b"12")}}),
            (6, {"blobs": {"b": Blob(b"12345"), "c": Blob(b"1")}}),
            (9, {"append": [("l", b"123", ("b",))]}),
            (4, {"blobs": {"b": Blob(b"")}}),
            (7, {"blobs": {"b": Blob(b"12", ("c",), 1)}, "append": [("l", b"1", ())]}),
            (5, {"drop": ["b", "b"]}),
            (1, {"drop": ["l", "l"]}),
        ]
        for size, change in steps:
            outcome = await self.write(**change)
            assert (outcome.bytes, (await self.read()).bytes) == (size, size)

    # Positions

    async def test_positions_increase_through_the_whole_session(self) -> None:
        for seconds in (0.0, 0.0, 10.0, -10.0):
            self.clock.advance(seconds)
            await self.write(append=[("l", b"", ()), ("k", b"", ())])
        one, other = await self.positions("l"), await self.positions("k")
        in_order = [position for pair in zip(one, other, strict=True) for position in pair]
        assert in_order == sorted({*in_order})
        assert in_order[0] > 0

    async def test_only_what_is_appended_or_placed_changes_the_position(self) -> None:
        position = (await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ()), ("k", b"2", ())])).position
        self.clock.advance(1)
        (first,) = await self.positions("l")
        blobs = {"b": Blob(b"2"), "c": Blob(b"", ("b",))}
        for change in ({"blobs": blobs}, {"trim": {"l": {first}}}, {"drop": ["c"]}, {"upkeep": True}):
            assert (await self.write(**change)).position == position
        assert (await self.read(lease=LEASE)).position == position

    async def test_positions_never_repeat_within_a_generation(self) -> None:
        position = (await self.write(append=[("l", b"1", ()), ("l", b"2", ())])).position
        assert (await self.write(drop=["l"])).position == position
        assert (await self.write(append=[("l", b"3", ())])).position > position

    async def test_an_entry_placed_at_a_position_replaces_the_one_there(self) -> None:
        await self.write(append=[("l", b"1", ()), ("l", b"2", ())])
        first, second = await self.positions("l")
        far = second + 1_000_000
        await self.write(place=[("l", Entry(first, b"new")), ("k", Entry(second, b"other")), ("l", Entry(far, b"far"))])
        found = await self.read("l", "k")
        assert list(found.lists["l"]) == [Entry(first, b"new"), Entry(second, b"2"), Entry(far, b"far")]
        assert list(found.lists["k"]) == [Entry(second, b"other")]
        assert found.position == far
        assert (await self.write(append=[("l", b"", ())])).position > far

    # References

    async def test_a_read_follows_references_of_the_letters_it_names_to_any_depth(self) -> None:
        await self.write(blobs={"m1": Blob(b"1"), "m2": Blob(b"2", ("m1", "v1")), "v1": Blob(b"3"), "m9": Blob(b"")})
        await self.write(blobs={"c": Blob(b"", ("m2",))}, append=[("l", b"", ("m2",))])
        for name in ("c", "l"):
            assert {*(await self.read(name, follow=("m",))).blobs} - {name} == {"m1", "m2"}
            assert {*(await self.read(name, follow=("m", "v"))).blobs} - {name} == {"m1", "m2", "v1"}
            assert {*(await self.read(name)).blobs} - {name} == set()

    async def test_a_read_follows_what_belongs_to_a_blob_if_it_is_stored(self) -> None:
        blobs = {"h": Blob(b"", also=("w1", "w2", "m2")), "m1": Blob(b"1"), "m2": Blob(b"2")}
        assert (await self.write(blobs=blobs, append=[("w1", b"", ("m1",))])).status is Status.STORED
        found = await self.read("h", follow=("w", "m"))
        assert (set(found.blobs), set(found.lists)) == ({"h", "m1", "m2"}, {"w1"})
        found = await self.read("h", follow=("m",))
        assert (set(found.blobs), set(found.lists)) == ({"h", "m2"}, set())

    async def test_a_reference_to_what_was_dropped_leads_to_the_list_of_that_name(self) -> None:
        await self.write(blobs={"w": Blob(b"1"), "c": Blob(b"", ("w",))})
        await self.write(drop=["w"])
        await self.write(append=[("w", b"2", ())])
        found = await self.read("c", follow=("w",))
        assert (set(found.blobs), [entry.payload for entry in found.lists["w"]]) == ({"c"}, [b"2"])

    async def test_a_write_whose_references_are_missing_stores_nothing_and_names_them(self) -> None:
        await self.write(blobs={"b": Blob(b"1")}, append=[("l", b"1", ())])
        before = await self.read(outline=True)
        self.clock.advance(1)
        bad = ("b", "new", "gone")
        for refs, append in ((bad, []), ((), [("l", b"", bad)])):
            blobs = {"new": Blob(b"2"), "x": Blob(b"", refs)}
            outcome = await self.write(
                blobs=blobs, append=append, drop=["l"], trim={"l": {before.position}}, idle_ttl=None
            )
            assert (outcome.status, outcome.missing) == (Status.MISSING, frozenset({"gone"}))
        assert (await self.write(place=[("l", Entry(before.position, b"", ("gone",)))])).missing == {"gone"}
        after = await self.read(outline=True)
        after.now = before.now
        assert after == before
        assert (await self.write(OTHERS[0], blobs={"b": Blob(b"", ("gone",))})).status is Status.MISSING
        await self.expect_absent(OTHERS[0])

    async def test_references_that_were_found_once_are_missed_once_they_are_dropped(self) -> None:
        names = tuple(f"m{number}" for number in range(20))
        await self.write(blobs={name: Blob(b"1") for name in names})
        for number in range(3):
            assert (await self.write(blobs={f"c{number}": Blob(b"", names)})).status is Status.STORED
        await self.write(drop=["m3"])
        for blobs, append in (({"c3": Blob(b"", names)}, []), ({}, [("l", b"", (*names, "m0"))])):
            outcome = await self.write(blobs=blobs, append=append)
            assert (outcome.status, outcome.missing) == (Status.MISSING, frozenset({"m3"}))

    async def test_references_are_missed_though_as_many_others_were_found(self) -> None:
        names = tuple(f"m{number}" for number in range(20))
        await self.write(blobs={name: Blob(b"1") for name in names})
        assert (await self.write(blobs={"c": Blob(b"", names)})).status is Status.STORED
        for refs in (("gone", *names[1:]), (*names[:-1], "gone"), (*names, "gone")):
            for change in ({"blobs": {"d": Blob(b"", refs)}}, {"append": [("l", b"", refs)]}):
                outcome = await self.write(**change)
                assert (outcome.status, outcome.missing) == (Status.MISSING, frozenset({"gone"}))

    async def test_a_blob_lives_until_it_is_dropped_whether_or_not_anything_refers_to_it(self) -> None:
        await self.write(blobs={"m": Blob(b"1"), "c": Blob(b"", ("m",))})
        await self.write(drop=["c"])
        assert set((await self.read("m")).blobs) == {"m"}
        await self.write(blobs={"c": Blob(b"", ("m",))})
        await self.write(drop=["m"])
        assert set((await self.read("c", follow=("m",))).blobs) == {"c"}

    async def test_a_read_can_begin_after_the_mark_of_a_blob(self) -> None:
        await self.write(blobs={"m1": Blob(b""), "m2": Blob(b"")}, append=[("l", b"", ("m1",)), ("l", b"", ("m2",))])
        first, second = await self.positions("l")
        await self.write(blobs={"h": Blob(b"", mark=first)})
        found = await self.read(after_mark=("l", "h"), follow=("m",))
        assert ([entry.position for entry in found.lists["l"]], set(found.blobs)) == ([second], {"m2"})
        found = await self.read(after_mark=("l", "gone"), follow=("m",))
        assert ([entry.position for entry in found.lists["l"]], set(found.blobs)) == ([first, second], {"m1", "m2"})

    async def test_what_is_known_need_not_be_read(self) -> None:
        blobs = {"c": Blob(b"", ("m1", "m2")), "m1": Blob(b"1", ("n",)), "m2": Blob(b"2"), "n": Blob(b"3")}
        await self.write(blobs=blobs, append=[("l", b"", ("m1", "m2"))])
        for names in (("c",), ("l",)):
            found = await self.read(*names, follow=("m", "n"), known={"m1", "gone"})
            assert {"m2"} <= set(found.blobs) <= {"c", "m1", "m2", "n"}
            assert all(blobs[name] == blob for name, blob in found.blobs.items())
        found = await self.read("m1", follow=("n",), known={"m1"})
        assert found.blobs["m1"] == blobs["m1"], "what is asked for by its name"

    async def test_an_outline_is_every_blob_and_entry(self) -> None:
        blobs = {"m": Blob(b"1", mark=3), "c": Blob(b"2", ("m",))}
        await self.write(blobs=blobs, append=[("l", b"3", ("m",))])
        found = await self.read(outline=True)
        assert (found.blobs, list(found.lists["l"]), found.bytes) == (blobs, [Entry(found.position, b"3", ("m",))], 3)
        assert found.outline

    async def test_a_list_weighs_its_entries_and_their_references_however_it_changed(self) -> None:
        refs = ("m1", "m2", "m3")
        blobs = {name: Blob(name.encode()) for name in refs}
        assert dict((await self.write(blobs=blobs, append=[("l", b"1", refs)])).weights) == {"l": 4}
        assert dict((await self.write(append=[("l", b"2", refs)])).weights) == {"l": 8}
        first, second = await self.positions("l")
        third = second + 1
        assert dict((await self.write(place=[("l", Entry(third, b"3", refs))])).weights) == {"l": 12}
        assert dict((await self.write(trim={"l": frozenset({first})})).weights) == {"l": 8}
        trimmed = {"l": frozenset({second, third})}
        assert dict((await self.write(append=[("l", b"4", ())], trim=trimmed)).weights) == {"l": 1}

    async def test_a_read_is_answered_with_an_outline_where_a_list_weighs_more_than_it_says(self) -> None:
        await self.write(blobs={"m": Blob(b"1"), "n": Blob(b"2")}, append=[("l", b"3", ("m",)), ("l", b"4", ())])
        found = await self.read("n", outline_over={"l": 3, "other": 0})
        assert (set(found.blobs), dict(found.lists), found.outline) == ({"n"}, {}, False)
        found = await self.read("n", outline_over={"other": 0, "l": 2})
        assert (set(found.blobs), [entry.payload for entry in found.lists["l"]]) == ({"m", "n"}, [b"3", b"4"])
        assert found.outline
        assert not (await self.read(key=SessionKey("u", "gone"), outline_over={"l": -1})).outline
