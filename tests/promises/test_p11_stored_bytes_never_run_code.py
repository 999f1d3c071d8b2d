"""P11 Stored bytes never run code, and are never half read."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_ttl_history import (
    ConfigurationError,
    CorruptRecordError,
    Retention,
    SessionBuffer,
    StorageError,
    TTLHistoryError,
    TypeNotAllowedError,
)
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.storage.types import Change, Lease
from langchain_ttl_history.stored.names import checkpoint_name
from tests.shared.chats import dumps
from tests.shared.graphs import GRAPH_KINDS, build_chain, build_graph
from tests.shared.samples import Order, Point, Settings, TicketMessage
from tests.shared.sessions import Session
from tests.shared.tampering import Interposed


def graph_that_writes(saver: Any, value: Any) -> Any:
    class State(MessagesState):
        value: Any

    def node(state: State) -> dict[str, Any]:
        return {"value": value}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile(checkpointer=saver)


@pytest.fixture
def shared(storage: Any) -> Interposed:
    """The storage as one that others can write to as well."""
    return Interposed(storage, private=False)


def through(session: Session, storage: Any, **options: Any) -> Session:
    return session.through(SessionBuffer(storage, retention=Retention(), **options))


# --- only allow-listed types ------------------------------------------------------------------


async def test_where_nobody_else_writes_whatever_this_process_stored_is_rebuilt(session: Session, storage: Any) -> None:
    session = through(session, Interposed(storage, private=True))
    value = [Point(1), Order([Point(2)]), Settings(name="n"), TicketMessage("t", ticket=1, id="t")]
    graph = graph_that_writes(session.buffer.checkpointer(), value)
    await session.ask(graph, "hello")
    assert (await session.state(graph)).values["value"] == value
    await session.add(TicketMessage("help", ticket=7))
    stored = (await session.messages())[-1]
    assert type(stored) is TicketMessage
    assert stored.ticket == 7


@pytest.mark.parametrize("kind", ["history", "graph"])
async def test_in_memory_a_custom_message_may_be_the_first_that_is_stored(
    session: Session, storage: Any, kind: str
) -> None:
    session = through(session, Interposed(storage, private=True))
    mine = TicketMessage("help", ticket=7)
    if kind == "history":
        await session.add(mine)
    else:
        await session.run(graph_that_writes(session.buffer.checkpointer(), 1), {"messages": [mine]})
    stored = (await session.messages())[0]
    assert type(stored) is TicketMessage
    assert stored.ticket == 7


async def test_in_memory_what_one_buffer_stored_another_over_the_same_storage_rebuilds() -> None:
    storage = MemoryStorage()
    first, second = SessionBuffer(storage), SessionBuffer(storage)
    first.history("ada", "s1").add_messages([TicketMessage("help", ticket=7)])
    (stored,) = second.history("ada", "s1").messages
    assert type(stored) is TicketMessage
    assert stored.ticket == 7


UNLISTED: dict[str, tuple[Any, type]] = {
    "a dataclass": (Point(1), Point),
    "a pydantic model": (Settings(name="n"), Settings),
    "a custom message": (TicketMessage("t", id="t"), TicketMessage),
    "a nested one": ({"deep": [Point(1)]}, Point),
}


async def test_for_a_class_that_is_made_in_a_function_no_way_out_is_named_that_is_none(
    session: Session, shared: Interposed
) -> None:
    @dataclass
    class Local:
        x: int

    mine, message = through(session, shared), HumanMessage("q", additional_kwargs={"value": Local(1)})
    for attempt in (lambda: mine.add(message), lambda: mine.replace([message])):
        with pytest.raises(TypeNotAllowedError) as refused:
            await attempt()
        assert "allow_types" in str(refused.value)
        assert "LANGGRAPH_STRICT_MSGPACK" not in str(refused.value)
        assert str(refused.value).count("('alice', 's1')") == 1


@pytest.mark.parametrize("name", list(UNLISTED))
async def test_elsewhere_a_type_that_is_not_allow_listed_is_refused_when_written(
    session: Session, shared: Interposed, name: str
) -> None:
    value, kind = UNLISTED[name]
    mine = through(session, shared)
    await mine.event("before")
    graph = graph_that_writes(mine.buffer.checkpointer(), value)
    with pytest.raises(TypeNotAllowedError) as refused:
        await mine.ask(graph, "hello")
    text = str(refused.value)
    assert "s1" in text
    assert "value" in text
    assert kind.__name__ in text
    assert "allow_types" in text
    assert "dataclass" in text, "what LangGraph announces, and what not"
    assert "LANGGRAPH_STRICT_MSGPACK" in text
    assert "cannot be read" not in text, "nothing was"
    with pytest.raises(TypeNotAllowedError) as refused:
        await mine.add(HumanMessage("q", additional_kwargs={"value": value}))
    assert kind.__name__ in str(refused.value)
    assert "s1" in str(refused.value)


@pytest.mark.parametrize("name", list(UNLISTED))
async def test_elsewhere_an_allow_listed_type_goes_in_and_comes_out_of_both_doors(
    session: Session, shared: Interposed, name: str
) -> None:
    value, kind = UNLISTED[name]
    mine = through(session, shared, allow_types=[kind])
    graph = graph_that_writes(mine.buffer.checkpointer(), value)
    await mine.ask(graph, "hello")
    assert (await mine.state(graph)).values["value"] == value
    await mine.add(HumanMessage("q", additional_kwargs={"value": value}))
    assert (await mine.messages())[-1].additional_kwargs == {"value": value}


async def test_elsewhere_a_custom_message_is_refused_unless_allow_listed(session: Session, shared: Interposed) -> None:
    mine = through(session, shared)
    with pytest.raises(TypeNotAllowedError) as refused:
        await mine.add(TicketMessage("t"))
    assert "TicketMessage" in str(refused.value)
    allowed = through(session, shared, allow_types=[TicketMessage])
    await allowed.add(TicketMessage("t", ticket=3))
    (stored,) = await allowed.messages()
    assert type(stored) is TicketMessage
    with pytest.raises(TTLHistoryError) as unread:
        await mine.messages()
    assert "s1" in str(unread.value)


@pytest.mark.parametrize("now", ["no module", "no class", "a function"])
@pytest.mark.parametrize("where", ["a message", "a value"])
async def test_a_class_that_is_not_there_any_more_is_named(
    session: Session, shared: Interposed, monkeypatch: pytest.MonkeyPatch, now: str, where: str
) -> None:
    module: Any = ModuleType("tickets_of_yesterday")
    module.Ticket = type("Ticket", (TicketMessage,), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    theirs = through(session, shared, allow_types=[module.Ticket])
    value = module.Ticket("t", ticket=1, id="t")
    graph = graph_that_writes(theirs.buffer.checkpointer(), value if where == "a value" else 1)
    await theirs.run(graph, {"messages": [value if where == "a message" else HumanMessage("q")]})
    if now == "no module":
        monkeypatch.delitem(sys.modules, module.__name__)
    elif now == "no class":
        del module.Ticket
    else:
        module.Ticket = lambda: value
    announced = through(session, shared).buffer.checkpointer().with_allowlist([(module.__name__, "Ticket")])
    with pytest.raises(TypeNotAllowedError, match=r"s1.*tickets_of_yesterday\.Ticket"):
        await session.colour.call(announced, "get_tuple", session.config)


async def test_types_that_langgraph_announces_are_allowed_on_the_copy_alone(
    session: Session, shared: Interposed
) -> None:
    mine = through(session, shared)
    saver = mine.buffer.checkpointer()
    announced = saver.with_allowlist([(Point.__module__, "Point")])
    graph = graph_that_writes(announced, Point(1))
    await mine.ask(graph, "hello")
    assert (await mine.state(graph)).values["value"] == Point(1)
    with pytest.raises(TypeNotAllowedError):
        await mine.ask(graph_that_writes(saver, Point(1)), "hello")


async def test_an_unlisted_type_that_someone_else_wrote_is_never_rebuilt(session: Session, shared: Interposed) -> None:
    theirs = through(session, shared, allow_types=[Point])
    graph = graph_that_writes(theirs.buffer.checkpointer(), Point(1))
    await theirs.ask(graph, "hello")
    mine = through(session, shared)
    with pytest.raises(TTLHistoryError) as refused:
        await mine.state(graph_that_writes(mine.buffer.checkpointer(), None))
    assert "Point" in str(refused.value)
    assert "s1" in str(refused.value)


async def test_a_dict_shaped_like_a_serialized_constructor_imports_nothing(
    session: Session,
) -> None:
    evil = {
        "lc": 2,
        "type": "constructor",
        "id": ["this", "antigravity_module", "Thing"],
        "kwargs": {},
    }
    before = set(sys.modules)
    await session.add(HumanMessage("q", additional_kwargs={"value": evil}))
    graph = graph_that_writes(session.buffer.checkpointer(), evil)
    await session.ask(graph, "hello")
    assert (await session.state(graph)).values["value"] == evil
    assert (await session.messages())[0].additional_kwargs == {"value": evil}
    assert "this" not in set(sys.modules) - before


# --- values that could not be read back -------------------------------------------------------


class Unfriendly:
    """Comes back as nothing: no state, no constructor arguments."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle


def local_dataclass() -> Any:
    @dataclasses.dataclass
    class Hidden:
        x: int

    return Hidden(1)


IMPOSSIBLE: dict[str, Callable[[], Any]] = {
    "function": lambda: lambda: None,
    "lock": threading.Lock,
    "generator": lambda: (each for each in ()),
    "module": lambda: os,
    "object with a lock": lambda: Unfriendly(threading.Lock()),
    "nested function": lambda: {"deep": [lambda: None]},
}


@pytest.mark.parametrize("name", list(IMPOSSIBLE))
async def test_a_value_that_could_not_be_read_back_is_refused_when_written_to_a_channel(
    session: Session, name: str
) -> None:
    saver = session.buffer.checkpointer()
    agent = build_graph("agent", saver)
    await session.ask(agent, "before")
    found = await session.colour.call(saver, "get_tuple", session.config)
    held = await session.info()
    value = IMPOSSIBLE[name]()
    broken = {
        **found.checkpoint,
        "id": "1f0fffff-0000-6000-8000-000000000000",
        "channel_values": {**found.checkpoint["channel_values"], "gadget": value},
        "channel_versions": {**found.checkpoint["channel_versions"], "gadget": "1"},
    }
    for attempt in (
        lambda: session.colour.call(saver, "put", found.config, broken, found.metadata, {"gadget": "1"}),
        lambda: session.colour.call(saver, "put_writes", found.config, [("fine", 1), ("gadget", value)], "task"),
    ):
        with pytest.raises(TypeNotAllowedError) as refused:
            await attempt()
        assert isinstance(refused.value, TypeError)
        text = str(refused.value)
        assert "s1" in text
        assert "gadget" in text
        assert type(value).__name__ in text or "function" in text
    after = await session.info()
    assert (after.bytes, after.checkpoints, after.messages) == (
        held.bytes,
        held.checkpoints,
        held.messages,
    )
    again = await session.colour.call(saver, "get_tuple", session.config)
    assert again.pending_writes == found.pending_writes


@pytest.mark.parametrize("name", list(IMPOSSIBLE))
@pytest.mark.parametrize("where", ["artifact", "additional_kwargs", "response_metadata"])
async def test_a_message_that_could_not_be_read_back_is_refused_and_the_session_stays(
    session: Session, name: str, where: str
) -> None:
    from langchain_core.messages import ToolMessage

    from tests.shared.models import lookup_call

    await session.add(HumanMessage("before"), AIMessage("", tool_calls=[lookup_call("x", "c")]))
    before = dumps(await session.messages())
    value = IMPOSSIBLE[name]()
    message = (
        ToolMessage("ok", tool_call_id="c", artifact=value)
        if where == "artifact"
        else AIMessage("a", **{where: {"value": value}})
    )
    with pytest.raises(TypeNotAllowedError) as refused:
        await session.add(HumanMessage("fine"), message)
    assert "s1" in str(refused.value)
    assert dumps(await session.messages()) == before
    with pytest.raises(TypeNotAllowedError):
        await session.replace([message])
    assert dumps(await session.messages()) == before


async def test_a_value_of_a_class_that_cannot_be_found_again_comes_back_or_is_refused(
    session: Session,
) -> None:
    value = local_dataclass()
    graph = graph_that_writes(session.buffer.checkpointer(), value)
    try:
        await session.ask(graph, "hello")
    except TypeNotAllowedError:
        return
    assert (await session.state(graph)).values["value"] == value


@pytest.mark.parametrize("kind", GRAPH_KINDS)
async def test_an_agent_whose_tool_returns_what_cannot_be_stored_fails_loudly(session: Session, kind: str) -> None:
    from langchain_core.tools import tool

    @tool(response_format="content_and_artifact")
    def lookup(thing: str) -> tuple[str, Any]:
        """Look a thing up."""
        return "ok", threading.Lock()

    agent = build_graph(kind, session.buffer.checkpointer(), tools=[lookup])
    await session.ask(agent, "hello")
    with pytest.raises(TypeNotAllowedError):
        await session.ask(agent, "look up whales")
    assert (await session.texts())[:2] == ["hello", "re: hello"]


# --- corrupt and newer records ----------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated by a byte": lambda payload: payload[:-1],
    "half": lambda payload: payload[: len(payload) // 2],
    "empty": lambda payload: b"",
    "garbage": lambda payload: b"\xc1\xff\x00garbage",
    "text": lambda payload: b"not a record",
    "longer": lambda payload: payload + b"\x01",
    "another shape": lambda payload: b"\x93\x01\x02\x03",
    "a newer version": lambda payload: b"\x7f" + payload[1:],
}

READINGS: dict[str, Callable[[Session], Awaitable[Any]]] = {
    "history": lambda s: s.messages(),
    "get_tuple": lambda s: s.colour.call(s.buffer.checkpointer(), "get_tuple", s.config),
    "list": lambda s: s.colour.collect(s.buffer.checkpointer(), "list", s.config),
    "an agent's turn": lambda s: s.ask(build_graph("agent", s.buffer.checkpointer()), "next"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("reading", ["history", "get_tuple", "list"])
async def test_a_corrupt_record_raises_an_error_that_names_the_session(
    session: Session, storage: Any, damage: str, reading: str
) -> None:
    liar = Interposed(storage)
    mine = through(session, liar)
    graph = build_graph("agent", mine.buffer.checkpointer())
    await mine.say(build_chain(mine.buffer), "hello")
    await mine.ask(graph, "look up whales")
    await mine.event("an event")
    liar.served.clear()
    # By workers that remember nothing yet.
    other = through(session, liar)
    whole = await READINGS[reading](other)
    records = sorted(liar.served)
    assert records
    complaints: list[str] = []
    for record in records:
        liar.tampered = {record: DAMAGE[damage]}
        other = through(session, liar)
        try:
            shown = await READINGS[reading](other)
        except CorruptRecordError as error:
            complaints.append(str(error))
        else:
            assert repr(shown) == repr(whole), f"{record} was half read"
    assert len(complaints) >= max(1, len(records) // 2)
    for complaint in complaints:
        assert "s1" in complaint
        assert "alice" in complaint
        # What to do, and what is wrong once.
        assert ("upgrade" in complaint and "delete the session" in complaint) or "serde=" in complaint
        assert complaint.count("a message cannot be read") <= 1


async def test_no_turn_starts_over_a_corrupt_record(session: Session, storage: Any) -> None:
    liar = Interposed(storage)
    mine = through(session, liar)
    graph = build_graph("agent", mine.buffer.checkpointer())
    await mine.ask(graph, "hello")
    before = await mine.texts()
    liar.served.clear()
    await READINGS["get_tuple"](mine)
    needed = []
    for record in sorted(liar.served):
        liar.tampered = {record: DAMAGE["garbage"]}
        try:
            await READINGS["get_tuple"](mine)
        except CorruptRecordError:
            needed.append(record)
    assert len(needed) >= 3
    for record in needed:
        liar.tampered = {record: DAMAGE["garbage"]}
        with pytest.raises(CorruptRecordError):
            await mine.ask(graph, "next")
        liar.tampered = {}
        assert await mine.texts() == before


async def test_a_session_that_cannot_be_read_hides_none_of_the_others_in_a_list(
    session: Session, shared: Interposed
) -> None:
    writer = SessionBuffer(shared, allow_types=[TicketMessage])
    for name in ("s1", "s2", "s3"):
        said = TicketMessage("t", ticket=1) if name == "s2" else HumanMessage("hello")
        await session.colour.call(writer.history("alice", name), "add_messages", [said])
    reader = SessionBuffer(shared)
    listing: Any = reader.asessions("alice") if session.colour.is_async else reader.sessions("alice")
    found: list[str] = []
    refused: list[TypeNotAllowedError] = []
    while True:
        try:
            found.append((await anext(listing) if session.colour.is_async else next(listing)).session_id)
        except TypeNotAllowedError as error:
            refused.append(error)
        except (StopIteration, StopAsyncIteration):
            break
    assert sorted(found) == ["s1", "s3"]
    assert ["'s2'" in str(error) for error in refused] == [True]


async def test_a_list_of_sessions_is_read_by_one_at_a_time(session: Session, storage: Any) -> None:
    for name in ("s1", "s2"):
        await session.colour.call(session.buffer.history("alice", name), "add_messages", [HumanMessage("hello")])
    listing: Any = None

    class Meanwhile(Interposed):
        def read(self, *args: Any) -> Any:
            with pytest.raises(ConfigurationError, match="being read already"):
                next(listing)
            return super().read(*args)

        async def aread(self, *args: Any) -> Any:
            with pytest.raises(ConfigurationError, match="being read already"):
                await anext(listing)
            return await super().aread(*args)

    buffer = SessionBuffer(Meanwhile(storage))
    listing = buffer.asessions("alice") if session.colour.is_async else buffer.sessions("alice")
    found = [each async for each in listing] if session.colour.is_async else [*listing]
    assert sorted(each.session_id for each in found) == ["s1", "s2"]


# --- a storage that is down -------------------------------------------------------------------


@pytest.mark.parametrize("reading", list(READINGS))
async def test_a_storage_that_is_down_never_looks_like_an_empty_session(
    session: Session, storage: Any, reading: str
) -> None:
    flaky = Interposed(storage)
    mine = through(session, flaky)
    graph = build_graph("agent", mine.buffer.checkpointer())
    await mine.ask(graph, "hello")
    flaky.down = True
    with pytest.raises(StorageError) as error:
        await READINGS[reading](mine)
    assert error.value.__cause__ is not None
    flaky.down = False
    assert await mine.texts() == ["hello", "re: hello"]


@pytest.mark.parametrize("call", ["info", "sessions", "delete", "forget", "stats", "sweep", "add"])
async def test_a_storage_that_is_down_fails_every_call(session: Session, storage: Any, call: str) -> None:
    flaky = Interposed(storage)
    mine = through(session, flaky)
    await mine.event("x")
    flaky.down = True
    attempts: dict[str, Callable[[], Awaitable[Any]]] = {
        "info": mine.info,
        "sessions": lambda: mine.sessions("alice"),
        "delete": mine.delete,
        "forget": lambda: mine.colour.call(mine.buffer, "forget", "alice"),
        "stats": lambda: mine.colour.call(mine.buffer, "stats"),
        "sweep": lambda: mine.colour.call(mine.buffer, "sweep"),
        "add": lambda: mine.event("y"),
    }
    with pytest.raises(StorageError):
        await attempts[call]()
    flaky.down = False
    assert await mine.texts() == ["x"]


async def test_a_list_goes_on_where_it_was_once_the_storage_is_back(session: Session, storage: Any) -> None:
    for name in ("s1", "s2", "s3"):
        await session.colour.call(session.buffer.history("alice", name), "add_messages", [HumanMessage("hello")])
    flaky = Interposed(storage)
    buffer = SessionBuffer(flaky)
    listing: Any = buffer.asessions("alice") if session.colour.is_async else buffer.sessions("alice")
    found = set()
    for _ in range(3):
        flaky.down = True
        with pytest.raises(StorageError):
            await anext(listing) if session.colour.is_async else next(listing)
        flaky.down = False
        found.add((await anext(listing) if session.colour.is_async else next(listing)).session_id)
    assert found == {"s1", "s2", "s3"}


def test_a_list_ends_where_a_page_cannot_be_read_at_all() -> None:
    class Damaged(MemoryStorage):
        def sessions(self, *_: Any) -> Any:
            raise CorruptRecordError("the list of a user's sessions is damaged")

    listing = SessionBuffer(Damaged()).sessions("alice")
    with pytest.raises(CorruptRecordError):
        next(listing)
    assert next(listing, None) is None


async def test_a_chain_over_a_storage_that_is_down_does_not_start(session: Session, storage: Any) -> None:
    flaky = Interposed(storage)
    mine = through(session, flaky)
    chain = build_chain(mine.buffer)
    await mine.say(chain, "hello")
    flaky.down = True
    with pytest.raises(StorageError):
        await mine.say(chain, "next")


async def test_what_add_messages_raises_inside_a_runnable_is_logged_by_langchain(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    from langchain_core.runnables import RunnableLambda

    from tests.shared.graphs import with_history

    chain = with_history(
        RunnableLambda(lambda given: AIMessage("a", additional_kwargs={"f": threading.Lock()})),
        session.buffer,
    )
    config: RunnableConfig = session.config
    await session.colour.call(chain, "invoke", [HumanMessage("q")], config)
    assert "TypeNotAllowedError" in caplog.text
    assert await session.messages() == []


class Choosy(JsonPlusSerializer):
    """A program's own serializer: it notes what it is given, and has no word for "nonsense"."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj == "nonsense":
            raise ValueError("I have no word for this")
        self.given.append(obj)
        return super().dumps_typed(obj)


class Noted(MessagesState):
    note: Any


async def test_a_serializer_of_the_programs_own_gets_every_channel_but_the_messages(session: Session) -> None:
    serde = Choosy()
    graph = StateGraph(Noted)
    graph.add_node("note", lambda state: {"note": {"a": [1, 2]}, "messages": [AIMessage("noted")]})
    graph.add_edge(START, "note")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer(serde=serde))
    await session.ask(compiled, "note this")
    state = await session.state(compiled)
    assert state.values["note"] == {"a": [1, 2]}
    assert {"a": [1, 2]} in serde.given
    assert not any(isinstance(each, BaseMessage) for given in serde.given for each in (given, *_inside(given)))
    assert await session.texts() == ["note this", "noted"]


def _inside(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


async def test_what_a_serializer_of_the_programs_own_refuses_is_told_with_its_words(session: Session) -> None:
    graph = StateGraph(Noted)
    graph.add_node("note", lambda state: {"note": "nonsense"})
    graph.add_edge(START, "note")
    compiled = graph.compile(checkpointer=session.buffer.checkpointer(serde=Choosy()))
    with pytest.raises(TypeNotAllowedError, match=r"alice.*'note'.*I have no word for this") as refused:
        await session.ask(compiled, "note this")
    assert isinstance(refused.value, ValueError)
    assert isinstance(refused.value.__cause__, ValueError)


class Signed(JsonPlusSerializer):
    """A program's own serializer, which reads only what it wrote with the same key."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self.key = key

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return kind, self.key + data

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        if not data[1].startswith(self.key):
            raise RuntimeError("this is not mine")
        return super().loads_typed((data[0], data[1].removeprefix(self.key)))


@pytest.mark.parametrize("size", [1, 1_000], ids=["in the record", "apart"])
async def test_what_a_serializer_of_the_programs_own_wrote_is_read_by_no_other(session: Session, size: int) -> None:
    saver = session.buffer.checkpointer
    graph = StateGraph(Noted).add_node("note", lambda state: {"note": ["secret" * size]}).add_edge(START, "note")
    mine = graph.compile(checkpointer=saver(serde=Signed(b"mine")))
    await session.ask(mine, "note this")
    for serde in (None, Signed(b"other")):
        other = graph.compile(checkpointer=saver(serde=serde))
        with pytest.raises(CorruptRecordError, match=r"alice.*s1.*serde=") as refused:
            await session.state(other)
        assert "delete the session" not in str(refused.value)
    # What nobody serialized is read by everyone.
    await session(session.user_id, "s2").ask(graph.compile(checkpointer=saver()), "note this")
    state = await session(session.user_id, "s2").state(mine)
    assert state.values["note"] == ["secret" * size]


async def test_what_another_key_sealed_is_not_called_damaged(session: Session, storage: Any) -> None:
    await through(session, storage, serde=Signed(b"mine")).add(HumanMessage("hello"))
    with pytest.raises(
        CorruptRecordError, match=r"alice.*s1.*another key may have sealed it: pass the serde="
    ) as error:
        await through(session, storage, serde=Signed(b"other")).texts()
    assert "delete the session" not in str(error.value)


async def test_what_an_error_quotes_is_not_taken_for_a_way_out(session: Session, storage: Any) -> None:
    liar = Interposed(storage)
    await through(session, liar).add(HumanMessage("hello", id="serde= (DEL)"))
    await through(session, liar).texts()
    (body,) = (name for name in liar.served if "serde=" in name)
    liar.tampered = {body: lambda payload: payload.replace(b"hello", b"hullo")}
    with pytest.raises(CorruptRecordError, match=r"'serde= \(DEL\)' is damaged; .*upgrade.*delete the session"):
        await through(session, liar).texts()


class OwnError(CorruptRecordError):
    """An error of a storage of the program's own."""


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("tells", [True, False])
def test_an_error_gets_a_way_out_unless_it_tells_one_wherever_it_was_copied(
    copied: Callable[[CorruptRecordError], CorruptRecordError], tells: bool
) -> None:
    class Broken(MemoryStorage):
        def read(self, *args: Any) -> Any:
            raise copied(OwnError("it cannot be read", tells_way_out=tells))

    with pytest.raises(OwnError, match=r"alice.*s1.*it cannot be read") as refused:
        _ = SessionBuffer(Broken()).history("alice", "s1").messages
    assert ("delete the session" in str(refused.value)) is not tells
    assert copied(refused.value).tells_way_out


async def test_a_subgraph_whose_latest_checkpoint_is_gone_does_not_look_new(session: Session, storage: Any) -> None:
    inner = StateGraph(Noted).add_node("note", lambda state: {"note": 1}).add_edge(START, "note")
    outer = StateGraph(Noted).add_node("inner", inner.compile(checkpointer=True)).add_edge(START, "inner")
    await session.ask(outer.compile(checkpointer=session.buffer.checkpointer()), "note this")
    saver = session.buffer.checkpointer()
    config: Any = {"configurable": {**session.config["configurable"], "checkpoint_ns": "inner"}}
    latest = await session.colour.call(saver, "get_tuple", config)
    name = checkpoint_name("inner", latest.checkpoint["id"])
    storage.write(SessionKey(*session.key), Change(Lease(100.0, None), drop=[name]))
    for method, arguments in (
        ("get_tuple", {"config": config}),
        ("get_delta_channel_history", {"config": config, "channels": ["note"]}),
    ):
        with pytest.raises(CorruptRecordError, match=r"s1.*the latest checkpoint is gone"):
            await session.colour.call(saver, method, **arguments)
