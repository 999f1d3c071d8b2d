"""SQLite against LangGraph's and LangChain's own keepers on the same disk: time of a turn, of a read, and file size.

What is measured is the CPU time in the process, as everywhere here; beside it, in the notes, the time on the wall.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.sqlite import SqliteSaver

from langchain_ttl_history import SessionBuffer
from tests.benchmarks.contenders import Contender
from tests.benchmarks.graphs import human, text
from tests.benchmarks.measure import METHODS, ROUNDS, in_turn, quiet, side_by_side, size_text, time_text
from tests.benchmarks.table import Row
from tests.benchmarks.turns import NEAR, WINDOW, Session, around

PEER = "SqliteSaver"
OURS = "sqlite"


def _file_size(path: Path) -> int:
    """The file's size once all is in it."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def _ours(path: Path, stack: ExitStack) -> Contender:
    buffer = stack.enter_context(SessionBuffer(f"sqlite:///{path}"))
    return Contender(buffer.checkpointer(), lambda session: _file_size(path))


def _peer(path: Path, stack: ExitStack) -> Contender:
    saver = stack.enter_context(SqliteSaver.from_conn_string(str(path)))
    return Contender(saver, lambda session: _file_size(path))


MAKERS: dict[str, Callable[[Path, ExitStack], Contender]] = {PEER: _peer, OURS: _ours}


@contextmanager
def _sessions() -> Iterator[dict[str, Session]]:
    """A session of each, in files of their own in one folder."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield {who: Session(make(Path(folder) / f"{who}.db", stack)) for who, make in MAKERS.items()}


def checkpointer() -> Iterator[Row]:
    """CPU time in the checkpointer for one turn, around turn 20 and around turn 100, and the file after 100."""
    bounds = {20: 0.5, 100: 0.15}
    spent: dict[tuple[str, int], list[dict[str, float]]] = {(who, at): [] for who in MAKERS for at in bounds}
    held: dict[str, int] = {}
    for number in range(ROUNDS):
        with _sessions() as sessions:
            for who in in_turn(MAKERS, number):
                turns: list[dict[str, float]] = []
                with quiet():
                    for _ in range(max(bounds) + NEAR):
                        turns.append(sessions[who].advance().saver)
                        if len(turns) == max(bounds):
                            held[who] = sessions[who].held()
                for at in bounds:
                    spent[who, at].append(around(turns, at))
    for at, bound in bounds.items():
        value = {who: median(sum(each.values()) for each in spent[who, at]) for who in MAKERS}
        parts = {who: {name: median(each[name] for each in spent[who, at]) for name in METHODS} for who in MAKERS}
        note = ", ".join(f"{name} {parts[OURS][name] / parts[PEER][name]:.2f}x" for name in METHODS)
        ratio = value[OURS] / value[PEER]
        what = f"checkpointer CPU, turn {at}, on disk"
        yield Row(what, OURS, time_text(value[OURS]), time_text(value[PEER]), ratio, bound, note)
    ratio = held[OURS] / held[PEER]
    yield Row("file after 100 turns", OURS, size_text(held[OURS]), size_text(held[PEER]), ratio, 0.1)


def get_tuple() -> Iterator[Row]:
    """``get_tuple`` of the latest checkpoint, with a conversation of 80 messages."""
    with _sessions() as sessions:
        for session in sessions.values():
            for _ in range(WINDOW):
                session.advance()
        value = side_by_side({who: session.get_tuple for who, session in sessions.items()}, 20)
    ratio = value[OURS] / value[PEER]
    yield Row("get_tuple, 80 messages, on disk", OURS, time_text(value[OURS]), time_text(value[PEER]), ratio, 0.4)


def history() -> Iterator[Row]:
    """A chain's turn in a history of 80 messages: read it, append a question and its answer."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from langchain_community.chat_message_histories import SQLChatMessageHistory
    except ImportError:
        return  # On Python 3.10; see pyproject.toml.
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = stack.enter_context(SessionBuffer(f"sqlite:///{folder}/ours.db"))
        peer = SQLChatMessageHistory("s1", connection=f"sqlite:///{folder}/peer.db")
        stack.callback(peer.engine.dispose)
        asked: list[BaseMessage] = [each for _ in range(39) for each in (human(), AIMessage(text(300)))]
        peers: list[Any] = [peer]
        buffer.history("alice", "s1").add_messages(asked)
        peer.add_messages(asked)

        def ours_turn() -> None:
            mine = buffer.history("alice", "s1")
            _ = mine.messages
            mine.add_messages([human(), AIMessage(text(300))])

        def peer_turn() -> None:
            # It has no cap, so that it keeps 80 messages it begins anew in time.
            if len(peers[-1].messages) > 80:
                peers[-1].clear()
                peers[-1].add_messages(asked)
            peers[-1].add_messages([human(), AIMessage(text(300))])

        value = side_by_side({OURS: ours_turn, "SQLChatMessageHistory": peer_turn}, 4)
        started = time.perf_counter()
        ours_turn()
        note = f"{time_text(time.perf_counter() - started)} on the wall"
    base = value["SQLChatMessageHistory"]
    yield Row(
        "history, read 80 and append 2", OURS, time_text(value[OURS]), time_text(base), value[OURS] / base, 0.3, note
    )


def sqlite() -> Iterator[Row]:
    """All of these."""
    yield from checkpointer()
    yield from get_tuple()
    yield from history()
