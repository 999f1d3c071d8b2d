"""What sessions on a server cost: round trips and all, beside other checkpointers and histories on servers."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import redis
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.base.id import uuid6

from langchain_ttl_history import SessionBuffer
from langchain_ttl_history.checkpoints import decode_record
from langchain_ttl_history.encoding.messages import pack_message
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage import RedisStorage
from langchain_ttl_history.storage.types import Query
from tests import servers
from tests.benchmarks.floor import FloorSaver
from tests.benchmarks.graphs import human, look, state_graph, text
from tests.benchmarks.measure import METHODS, ROUNDS, in_turn, size_text, time_text
from tests.benchmarks.table import Row
from tests.benchmarks.turns import NEAR
from tests.shared.redis_cases import keys_of

# As many turns as the conversations have that the other figures are of.
TASKS, TURNS = 32, 20


class Meter:
    """The seconds between a call of a checkpointer and its answer."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        self.spent = 0.0
        for name in METHODS:
            setattr(saver, name, self._timed(getattr(saver, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.spent += time.perf_counter() - started

        return timed


def workers() -> Iterator[Row]:
    """All of it, on the newest Redis there is."""
    kinds = [kind for kind in ("redis-7", "redis-6.2", "valkey") if kind in servers.available()]
    if not kinds:
        print("no server to measure on")
        return
    server = servers.Server(kinds[0]).start()
    try:
        yield from _checkpointers(server)
        yield from _append(server)
        yield from _at_once(server)
        yield from _memory(server)
    finally:
        server.remove()


def _config(session: str) -> Any:
    return {"configurable": {"user_id": "alice", "session_id": session, "thread_id": session}}


def _optional(module: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError as error:
            print(f"measured without {name}: {error}")
            return None


def _checkpointers(server: servers.Server) -> Iterator[Row]:
    """Time in the checkpointer for one turn, around turn 20 and around turn 100."""
    valkey_saver = _optional("langgraph_checkpoint_aws.checkpoint.valkey", "ValkeySaver")
    postgres_saver = _optional("langgraph.checkpoint.postgres", "PostgresSaver")
    with ExitStack() as stack:
        savers: dict[str, Callable[[], Any]] = {
            "redis": lambda: stack.enter_context(SessionBuffer(server.url)).checkpointer(),
            "floor": lambda: FloorSaver(redis.Redis(port=server.port)),
        }
        if valkey_saver:
            import valkey

            savers["ValkeySaver"] = lambda: valkey_saver(valkey.Valkey(port=server.port), ttl=1800)
        url = stack.enter_context(_postgres()) if postgres_saver else None
        if url:
            saver = stack.enter_context(postgres_saver.from_conn_string(url))
            saver.setup()
            savers["PostgresSaver"] = lambda: postgres_saver(saver.conn)
        spent: dict[tuple[str, int], list[float]] = {(who, at): [] for who in savers for at in (20, 100)}
        for number in range(ROUNDS):
            for who in in_turn(savers, number):
                turns = _Turns(savers[who](), f"s{number}")
                taken = [turns.advance() for _ in range(100 + NEAR)]
                for at in (20, 100):
                    spent[who, at].append(fmean(taken[at - 1 - NEAR : at + NEAR]))
    bounds = {("ValkeySaver", 20): 0.6, ("ValkeySaver", 100): 0.25, ("floor", 20): 1.3, ("floor", 100): 1.3}
    for (peer, at), seconds in spent.items():
        if peer != "redis":
            value, base = median(spent["redis", at]), median(seconds)
            what = f"checkpointer time, turn {at}, against {peer}"
            yield Row(what, "redis", time_text(value), time_text(base), value / base, bounds.get((peer, at)))


class _Turns:
    """A session that is advanced turn by turn; every step is stored before the next begins."""

    def __init__(self, saver: Any, session: str) -> None:
        self._meter = Meter(saver)
        self._graph = state_graph(saver)
        self._config = _config(session)

    def advance(self) -> float:
        """One more turn; the seconds in the checkpointer."""
        before = self._meter.spent
        self._graph.invoke({"messages": [human()]}, self._config, durability="sync")
        return self._meter.spent - before


def _turn() -> list[BaseMessage]:
    call: Any = {"type": "tool_call", "id": "c", "name": "look", "args": {"at": text(20)}}
    messages = [human(), AIMessage("", tool_calls=[call]), ToolMessage(look(), tool_call_id="c"), AIMessage(text(300))]
    return [message.model_copy(update={"id": str(uuid6())}) for message in messages]


def _append(server: servers.Server) -> Iterator[Row]:
    """An append of four messages to a history."""
    raw = redis.Redis(port=server.port)
    script = raw.register_script(
        "for at = 2, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[at]) end\n"
        "redis.call('PEXPIRE', KEYS[1], ARGV[1]) return 1"
    )
    with SessionBuffer(server.url) as buffer:
        kept = buffer.history("alice", "append")
        works: dict[str, Callable[[list[BaseMessage], list[Any]], object]] = {
            "redis": lambda messages, packed: kept.add_messages(messages),
            "one EVALSHA": lambda messages, packed: script(keys=["raw"], args=[1_800_000, *packed]),
        }
        history = _optional("langchain_community.chat_message_histories", "RedisChatMessageHistory")
        if history:
            theirs = history("append", url=server.url, ttl=1800)
            works["RedisChatMessageHistory"] = lambda messages, packed: theirs.add_messages(messages)
        rounds: dict[str, list[float]] = {who: [] for who in works}
        for _ in range(ROUNDS):
            spent = dict.fromkeys(works, 0.0)
            for _ in range(200):
                messages = _turn()
                packed = [pack_message(message, repr) for message in messages]
                for who, work in works.items():
                    started = time.perf_counter()
                    work(messages, packed)
                    spent[who] += time.perf_counter() - started
            for who, seconds in spent.items():
                rounds[who].append(seconds / 200)
    raw.close()
    for peer, bound in (("RedisChatMessageHistory", 0.5), ("one EVALSHA", 1.3)):
        if peer in rounds:
            value, base = median(rounds["redis"]), median(rounds[peer])
            what = f"append of four messages, against {peer}"
            yield Row(what, "redis", time_text(value), time_text(base), value / base, bound)


def _at_once(server: servers.Server) -> Iterator[Row]:
    """Turns per second of 32 tasks in one loop, each with a session of its own."""
    peer = _optional("langgraph_checkpoint_aws.checkpoint.valkey", "AsyncValkeySaver")
    if not peer:
        return

    async def run(saver: Any, name: str) -> float:
        graph = state_graph(saver)

        async def talk(session: str) -> None:
            for _ in range(TURNS):
                await graph.ainvoke({"messages": [HumanMessage(text(200))]}, _config(session))

        started = time.perf_counter()
        await asyncio.gather(*(talk(f"{name}{number}") for number in range(TASKS)))
        return time.perf_counter() - started

    async def both(name: str) -> tuple[float, float]:
        import valkey.asyncio

        async with SessionBuffer(server.url) as buffer:
            ours = await run(buffer.checkpointer(), name)
        client = valkey.asyncio.Valkey(port=server.port)
        theirs = await run(peer(client, ttl=1800), name)
        await client.aclose()
        return ours, theirs

    rounds = [asyncio.run(both(f"t{number}-")) for number in range(ROUNDS)]
    ours, theirs = median(each for each, _ in rounds), median(each for _, each in rounds)
    turns = TASKS * TURNS
    yield Row(
        f"turns a second of {TASKS} tasks, AsyncValkeySaver against ours",
        "redis",
        f"{turns / ours:.0f}/s",
        f"{turns / theirs:.0f}/s",
        ours / theirs,
        1 / 1.5,
    )


def _memory(server: servers.Server) -> Iterator[Row]:
    """What the server holds for a session at the caps, and after a thousand turns."""
    held: dict[int, int] = {}
    storage = RedisStorage(server.url)
    with server.admin() as admin, SessionBuffer(storage) as buffer:
        graph = state_graph(buffer.checkpointer())
        key = SessionKey("alice", "memory")
        _, session = keys_of(storage, key)
        sizes: list[int] = []
        said: list[int] = []
        for number in range(1, 1_001):
            graph.invoke({"messages": [human()]}, _config("memory"))
            sizes.append(admin.memory_usage(session, samples=0))
            if 50 < number <= 100:
                # Freed in batches, both come and go.
                said.append(_said(buffer, storage, key))
            if number in (100, 1_000):
                held[number] = round(fmean(sizes[-50:]))
    storage.close()
    note = ", ".join(f"turn {at}: {size_text(sizes[at - 1])}" for at in (10, 20, 50, 100, 200, 500, 1_000))
    yield Row(
        "memory of a session at the caps, against its messages", "redis", size_text(held[100]),
        size_text(fmean(said)), held[100] / fmean(said), 2.5, note,
    )  # fmt: skip
    value, base = held[1_000], held[100]
    what = "memory of a session, turn 1,000 against 100"
    yield Row(what, "redis", size_text(value), size_text(base), value / base, 1.05)


def _said(buffer: SessionBuffer, storage: RedisStorage, key: SessionKey) -> int:
    """The packed bytes of all messages that its kept checkpoints show."""
    found = storage.read(key, Query(outline=True))
    codec = buffer._sessions.codec
    records = [decode_record(blob, codec) for name, blob in found.blobs.items() if name.startswith("c\0")]
    names = {name for record in records for name in record.names}
    contents = {(found.blobs[name].refs or (name,))[0] for name in names}
    return sum(len(found.blobs[name].payload) for name in contents)


@contextmanager
def _postgres() -> Iterator[str | None]:
    """A PostgreSQL of our own; None, and a line, where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []
    if not found:
        print("measured without PostgresSaver: there is no PostgreSQL here")
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="ttl-history-pg-"))
    port = servers.free_port()
    # It refuses to run as root.
    user: Any = {"user": "postgres"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    subprocess.run([found[-1] / "initdb", "-D", data, "-A", "trust", "-U", "postgres"], check=True, **quiet)
    control = [found[-1] / "pg_ctl", "-D", data, "-w", "-t", str(int(servers.PATIENCE))]
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    try:
        subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], check=True, **quiet)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "fast", "stop"], check=False, **quiet)
        shutil.rmtree(folder, ignore_errors=True)
