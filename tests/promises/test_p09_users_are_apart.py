"""P9 Users are apart."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_ttl_history import ConfigurationError, MissingUserError, SessionBuffer
from tests.shared.chats import texts
from tests.shared.graphs import build_chain, build_graph
from tests.shared.sessions import Session

NASTY = [
    *("a", "b", "a:b", "b:a", ":", "::", "a:", ":a", "*", "**", "a*", "?", "[a-z]", "{a}", "{}"),
    *("{", "}", "{a}:{b}", "../a", "a/b", "%3A", "%", "a b", " ", "'; --", '"', "\\", "\n", "\t"),
    *("ä", "a\u0308", "\u202e", "🙂", "👩‍👩‍👧", "null", "None", "0", "-1", "a,b", "a|b", "a\x1fb", "A"),
    *("\ud800", "x" * 200),
]


async def test_the_key_is_the_pair(session: Session) -> None:
    pairs = [("u1", "s1"), ("u1", "s2"), ("u2", "s1"), ("s1", "u1")]
    for user, name in pairs:
        await session(user, name).event(f"{user}/{name}")
    for user, name in pairs:
        assert await session(user, name).texts() == [f"{user}/{name}"]
    graph = build_graph("agent", session.buffer.checkpointer())
    for user, name in pairs:
        assert await session(user, name).seen_by(graph) == [f"{user}/{name}"]


async def test_no_choice_of_characters_reaches_another_session(session: Session) -> None:
    pairs = [(user, name) for user in NASTY for name in NASTY]
    for user, name in pairs:
        session.buffer.history(user, name).add_system_message(f"{user!r} {name!r}")
    for user, name in pairs:
        (message,) = session.buffer.history(user, name).messages
        assert message.content == f"{user!r} {name!r}"
    for user in NASTY:
        listed = await session.sessions(user)
        assert sorted(each.session_id for each in listed) == sorted(NASTY)
        assert {each.user_id for each in listed} == {user}


@pytest.mark.parametrize("name", NASTY)
async def test_deleting_reaches_exactly_the_named_session(session: Session, name: str) -> None:
    everyone = [("u", other) for other in NASTY] + [(name, "s"), ("victim", name)]
    for user, other in everyone:
        session.buffer.history(user, other).add_system_message("here")
    saver = session.buffer.checkpointer(user_id="u")
    await session.colour.call(saver, "delete_thread", name)
    for user, other in everyone:
        gone = (user, other) == ("u", name)
        assert (await session(user, other).info() is None) == gone, (user, other)
    assert await session.colour.call(session.buffer, "forget", name) == (2 if name == "u" else 1)
    assert await session("victim", name).texts() == ["here"]


async def test_an_actor_and_a_thread_never_add_up_to_another_pair(session: Session) -> None:
    await session("bob:x", "alice").event("bob:x / alice")
    assert await session("bob", "x:alice").messages() == []
    assert await session("bob", "x:alice").info() is None
    assert await session("bob:x", "alice").delete() is True


# --- without a user ---------------------------------------------------------------------------

Door = Callable[[Session, SessionBuffer], Any]

DOORS: dict[str, Door] = {
    "history": lambda s, b: s.read(b.history(session_id="s1")),
    "get_session_history": lambda s, b: s.read(b.get_session_history("s1")),
    "get_tuple": lambda s, b: s.colour.call(b.checkpointer(), "get_tuple", {"configurable": {"thread_id": "s1"}}),
    "list": lambda s, b: s.colour.collect(b.checkpointer(), "list", {"configurable": {"thread_id": "s1"}}),
    "list(None)": lambda s, b: s.colour.collect(b.checkpointer(), "list", None),
    "delete_thread": lambda s, b: s.colour.call(b.checkpointer(), "delete_thread", "s1"),
    "delete_for_runs": lambda s, b: s.colour.call(b.checkpointer(), "delete_for_runs", ["r"]),
    "copy_thread": lambda s, b: s.colour.call(b.checkpointer(), "copy_thread", "s1", "s2"),
    "prune": lambda s, b: s.colour.call(b.checkpointer(), "prune", ["s1"]),
    "an agent's turn": lambda s, b: s.colour.call(
        build_graph("agent", b.checkpointer()),
        "invoke",
        {"messages": [HumanMessage("x")]},
        {"configurable": {"thread_id": "s1"}},
    ),
    "sessions": lambda s, b: s.colour.collect(b, "sessions"),
}


@pytest.mark.parametrize("door", list(DOORS))
async def test_without_a_user_every_door_refuses_with_an_error_that_names_both_ways_out(
    session: Session, door: str
) -> None:
    with pytest.raises(MissingUserError) as refused:
        await DOORS[door](session, session.buffer)
    assert isinstance(refused.value, ConfigurationError)
    assert "user_id" in str(refused.value)
    assert "default_user" in str(refused.value)
    assert await session.sessions(all_users=True) == []


@pytest.mark.parametrize("door", list(DOORS))
async def test_with_a_default_user_every_door_opens_without_one(
    session: Session, open_buffer: Callable[..., SessionBuffer], door: str
) -> None:
    buffer = open_buffer(default_user="me")
    buffer.history("me", "s1").add_system_message("x")
    buffer.history("other", "s1").add_system_message("x")
    await DOORS[door](session, buffer)
    left = {each.user_id for each in await session.sessions(all_users=True)}
    assert left == ({"other"} if door == "delete_thread" else {"me", "other"})
    assert texts(buffer.history("other", "s1").messages) == ["x"]


async def test_a_chain_without_a_user_is_refused_and_with_a_default_user_needs_none(
    session: Session, open_buffer: Callable[..., SessionBuffer]
) -> None:
    config: Any = {"configurable": {"session_id": "s1"}}
    with pytest.raises(ValueError, match="user_id"):
        await session.colour.call(build_chain(session.buffer), "invoke", {"question": "hello"}, config)
    buffer = open_buffer(default_user="me")
    await session.colour.call(build_chain(buffer), "invoke", {"question": "hello"}, config)
    assert [(each.user_id, each.session_id) for each in await session.sessions(all_users=True)] == [("me", "s1")]


async def test_the_default_user_shares_nothing_with_a_named_one(
    session: Session, open_buffer: Callable[..., SessionBuffer]
) -> None:
    buffer = open_buffer(default_user="me")
    buffer.history(session_id="s1").add_system_message("mine")
    assert await session.through(buffer).messages() == []
    assert [m.content for m in buffer.history("me", "s1").messages] == ["mine"]
    assert [m.content for m in buffer.history(None, "s1").messages] == ["mine"]


async def test_forget_wants_the_user_named_even_with_a_default_user(
    session: Session, open_buffer: Callable[..., SessionBuffer]
) -> None:
    buffer = open_buffer(default_user="me")
    buffer.history(session_id="s1").add_system_message("mine")
    with pytest.raises(TypeError, match="user_id"):
        await session.colour.call(buffer, "forget")
    with pytest.raises(ConfigurationError, match="user_id"):
        await session.colour.call(buffer, "forget", None)
    assert len(buffer.history(session_id="s1").messages) == 1


# --- ids --------------------------------------------------------------------------------------


async def test_ints_and_uuids_become_strings(session: Session) -> None:
    number = uuid.uuid4()
    await session(7, number).event("hello")  # type: ignore[arg-type]  # ids that become strings are the test
    assert await session("7", str(number)).texts() == ["hello"]
    (info,) = await session.sessions("7")
    assert (info.user_id, info.session_id) == ("7", str(number))
    assert await session.sessions(7) == [info]
    graph = build_graph("agent", session.buffer.checkpointer())
    config = {"configurable": {"user_id": 7, "thread_id": number}}
    state = await session.colour.call(graph, "get_state", config)
    assert [m.content for m in state.values["messages"]] == ["hello"]


# --- thread-only calls ------------------------------------------------------------------------


async def two_users(session: Session) -> None:
    graph = build_graph("agent", session.buffer.checkpointer())
    for user in ("alice", "bob"):
        for name in ("s1", "s2"):
            for question in ("hello", "bye"):
                await session(user, name).ask(graph, question)


async def held(session: Session, user: str) -> dict[str, int]:
    return {each.session_id: each.checkpoints for each in await session.sessions(user)}


def alices(session: Session, scoped: str) -> Any:
    """A checkpointer of her sessions."""
    if scoped == "for_user":
        return session.buffer.checkpointer().for_user("alice")
    return session.buffer.checkpointer(user_id="alice")


@pytest.mark.parametrize("scoped", ["for_user", "bound"])
async def test_a_thread_only_call_acts_inside_one_users_sessions_only(session: Session, scoped: str) -> None:
    await two_users(session)
    saver = alices(session, scoped)
    call = session.colour.call

    listed = await session.colour.collect(saver, "list", None)
    assert len(listed) == 12
    assert {each.config["configurable"]["thread_id"] for each in listed} == {"s1", "s2"}

    await call(saver, "prune", ["s1"], strategy="keep_latest")
    assert await held(session, "alice") == {"s1": 1, "s2": 6}
    await call(saver, "copy_thread", "s2", "s3")
    assert await held(session, "alice") == {"s1": 1, "s2": 6, "s3": 6}
    await call(saver, "delete_thread", "s1")
    await call(saver, "prune", ["s2"], strategy="delete")
    assert await held(session, "alice") == {"s3": 6}
    assert await held(session, "bob") == {"s1": 6, "s2": 6}


async def test_delete_for_runs_acts_inside_one_users_sessions_only(session: Session) -> None:
    graph = build_graph("agent", session.buffer.checkpointer())
    for user in ("alice", "bob"):
        await session(user, "s1").ask(graph, "hello")
        config = {**session(user, "s1").config, "metadata": {"run_id": "run-1"}}
        await session.colour.call(graph, "invoke", {"messages": [HumanMessage("again")]}, config)
    before = await held(session, "bob")
    saver = session.buffer.checkpointer().for_user("alice")
    await session.colour.call(saver, "delete_for_runs", ["run-1"])
    assert await held(session, "bob") == before
    assert (await held(session, "alice"))["s1"] < before["s1"]


async def test_forget_takes_every_session_of_one_user_and_no_other(session: Session) -> None:
    await two_users(session)
    assert await session.colour.call(session.buffer, "forget", "alice") == 2
    assert await held(session, "alice") == {}
    assert await held(session, "bob") == {"s1": 6, "s2": 6}
    assert await session.colour.call(session.buffer, "forget", "alice") == 0


@pytest.mark.parametrize("scoped", ["for_user", "bound"])
async def test_a_bound_checkpointer_refuses_a_config_that_names_another_user(session: Session, scoped: str) -> None:
    await two_users(session)
    saver = alices(session, scoped)
    graph = build_graph("agent", saver)
    bobs = session("bob", "s1")
    # That of a checkpoint of hers, with his name put into it.
    own: Any = (await session.state(graph, session("alice", "s1").config)).config
    turned: Any = {"configurable": {**own["configurable"], "user_id": "bob"}}
    for attempt in (
        lambda: bobs.ask(graph, "hello"),
        lambda: session.colour.call(saver, "get_tuple", bobs.config),
        lambda: session.colour.collect(saver, "list", bobs.config),
        lambda: session.colour.call(saver, "get_tuple", turned),
    ):
        with pytest.raises(ConfigurationError) as refused:
            await attempt()
        assert "bob" in str(refused.value)
        assert "alice" in str(refused.value)
    assert (await session("alice", "s1").texts())[:2] == ["hello", "re: hello"]
    assert await held(session, "bob") == {"s1": 6, "s2": 6}


async def test_listing_sessions_of_one_user_shows_no_other(session: Session) -> None:
    await two_users(session)
    assert {each.user_id for each in await session.sessions("alice")} == {"alice"}
    everyone = await session.sessions(all_users=True)
    assert sorted((each.user_id, each.session_id) for each in everyone) == [
        (user, name) for user in ("alice", "bob") for name in ("s1", "s2")
    ]
