"""Recorded conversations of customers and a tool-calling agent, replayed whole."""

from __future__ import annotations

import asyncio

import pytest

from tests.replay.recordings import FILE, conversation, recordings
from tests.replay.sessions import Cast, Door, areplay, replay

# The recordings are not part of the package; where they are missing the tests say so.
needs_recordings = pytest.mark.skipif(not FILE.exists(), reason=f"the recordings are not here: {FILE.name}")
doors = pytest.mark.parametrize(
    "doors",
    [pytest.param(("agent",), id="agent"), pytest.param(("agent", "chain"), id="agent and chain")],
)


def cast(cap: int) -> Cast:
    return Cast(cap, set().union(*(recording.tools() for recording in recordings())))


@needs_recordings
@doors
@pytest.mark.parametrize("cap", [10, 20, 80])
async def test_every_recording_replayed_beside_all_others_shows_valid_windows_and_ends_as_recorded(
    cap: int, doors: tuple[Door, ...]
) -> None:
    players = cast(cap)
    await asyncio.gather(*(areplay(players.session(each.name), each, doors) for each in recordings()))


@needs_recordings
def test_every_recording_replayed_by_sync_calls_shows_valid_windows_and_ends_as_recorded() -> None:
    players = cast(10)
    for each in recordings():
        replay(players.session(each.name), each, ("agent", "chain"))


@needs_recordings
def test_the_recordings_are_long_enough_to_be_cut_and_reuse_their_call_ids() -> None:
    lengths = [1 + sum(len(turn.messages()) for turn in each.turns) for each in recordings()]
    assert len(lengths) == 100
    assert sum(length > 20 for length in lengths) > 50
    assert max(lengths) <= 80
    calls = [
        [call["id"] for turn in each.turns for step in turn.steps for call in step.answer.tool_calls]
        for each in recordings()
    ]
    assert sum(len(set(ids)) < len(ids) for ids in calls) >= 20
    assert max(len(turn.messages()) for each in recordings() for turn in each.turns) > 10


def test_a_recording_is_read_up_to_its_last_complete_turn() -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "look", "arguments": '{"at": "it"}'},
    }
    read = conversation(
        {
            "task_id": 0,
            "trial": 1,
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": "look"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "seen", "tool_call_id": "1", "name": "look"},
                {"role": "assistant", "content": "I did"},
                {"role": "user", "content": "again"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "seen", "tool_call_id": "1", "name": "look"},
            ],
        }
    )
    (turn,) = read.turns
    assert [(message.type, message.content) for message in turn.messages()] == [
        ("human", "look"),
        ("ai", ""),
        ("tool", "seen"),
        ("ai", "I did"),
    ]
    assert turn.steps[0].answer.tool_calls[0]["args"] == {"at": "it"}
    assert read.tools() == {"look"}
