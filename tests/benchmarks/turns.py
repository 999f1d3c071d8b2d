"""The cost of a turn in the checkpointer, and how it and the bytes held grow with the conversation."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, median
from typing import NamedTuple

from tests.benchmarks.contenders import CONTENDERS, PEER, Contender, ours
from tests.benchmarks.graphs import GRAPHS, turn
from tests.benchmarks.measure import METHODS, ROUNDS, Meter, in_turn, quiet, side_by_side, size_text, tidy, time_text
from tests.benchmarks.table import Row

NEAR = 5
"""The turns on either side of the one that is measured: together as many as lie between two batches of freeing."""
WINDOW = 20
"""The turns of four messages in a window of 80."""


def checkpointer() -> Iterator[Row]:
    """CPU time in the checkpointer for one turn, around turn 20 and around turn 100."""
    yield from _checkpointer("state graph", {20: 0.45, 100: 0.12})


def checkpointer_of_agent() -> Iterator[Row]:
    """The same under ``create_agent``."""
    yield from _checkpointer("create_agent", {20: None})


def _checkpointer(graph: str, bounds: dict[int, float | None]) -> Iterator[Row]:
    spent: dict[tuple[str, int], list[dict[str, float]]] = {(who, at): [] for who in CONTENDERS for at in bounds}
    for number in range(ROUNDS):
        for who in in_turn(CONTENDERS, number):
            session = Session(CONTENDERS[who](), graph)
            with quiet():
                turns = [session.advance().saver for _ in range(max(bounds) + NEAR)]
            for at in bounds:
                spent[who, at].append(around(turns, at))
    for at, bound in bounds.items():
        value = {who: median(sum(each.values()) for each in spent[who, at]) for who in CONTENDERS}
        parts = {who: {name: median(each[name] for each in spent[who, at]) for name in METHODS} for who in CONTENDERS}
        for who in ours():
            note = ", ".join(f"{name} {parts[who][name] / parts[PEER][name]:.2f}x" for name in METHODS)
            what = f"checkpointer CPU, turn {at}, {graph}"
            ratio = value[who] / value[PEER]
            yield Row(what, who, time_text(value[who]), time_text(value[PEER]), ratio, bound, note)


def around(turns: Sequence[dict[str, float]], at: int) -> dict[str, float]:
    """The mean of what the turns around one cost, by method."""
    near = turns[at - 1 - NEAR : at + NEAR]
    return {method: fmean(each[method] for each in near) for method in METHODS}


def get_tuple() -> Iterator[Row]:
    """``get_tuple`` of the latest checkpoint, with a conversation of 80 messages."""
    works: dict[str, Callable[[], object]] = {}
    for who, make in CONTENDERS.items():
        session = Session(make())
        for _ in range(WINDOW):
            session.advance()
        works[who] = session.get_tuple
    value = side_by_side(works, 20)
    for who in ours():
        ratio = value[who] / value[PEER]
        yield Row("get_tuple, 80 messages", who, time_text(value[who]), time_text(value[PEER]), ratio, 0.35)


def growth() -> Iterator[Row]:
    """The cost of a turn at turn 1,000 against turn 30, and the bytes held once the caps are reached."""
    for who, make in ours().items():
        old = Session(make())
        held: list[int] = []
        for _ in range(990):
            old.advance()
            held.append(old.held())
        whole: list[tuple[float, float]] = []
        saver: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            young = Session(make())
            for _ in range(25):
                young.advance()
            pairs: list[tuple[Turn, Turn]] = []
            with quiet():
                for _ in range(10):
                    pairs.append((old.advance(), young.advance()))
                    held.append(old.held())
            # What is freed in batches falls on some of the turns, so their mean is what counts.
            whole.append((fmean(each.whole for each, _ in pairs), fmean(each.whole for _, each in pairs)))
            saver.append((fmean(each.total for each, _ in pairs), fmean(each.total for _, each in pairs)))
        for what, rounds in (("whole turn", whole), ("checkpointer CPU", saver)):
            value, base = median(each for each, _ in rounds), median(each for _, each in rounds)
            yield Row(f"{what}, turn 1,000 against 30", who, time_text(value), time_text(base), value / base, 1.15)
        value, base = fmean(held[-50:]), fmean(held[50:100])
        note = ", ".join(f"turn {at}: {size_text(held[at - 1])}" for at in (10, 20, 30, 50, 100, 200, 500, 1000))
        what = "bytes held, turn 1,000 against 50 to 100"
        yield Row(what, who, size_text(value), size_text(base), value / base, 1.05, note)
        peer = Session(CONTENDERS[PEER]())
        for _ in range(100):
            peer.advance()
        value, base = fmean(held[50:100]), peer.held()
        yield Row("bytes held, turn 100", who, size_text(value), size_text(base), value / base)


def traced() -> Iterator[Row]:
    """What Python's allocator holds for one session at most around turn 260 and around turn 60."""
    for who, make in ours().items():
        contender = make()
        tracemalloc.start()
        # What a process remembers of all sessions together is bounded, and full once these turns are over.
        other = Session(contender, session="s2")
        for _ in range(300):
            other.advance()
        session = Session(contender)
        before = _traced()

        def most(session: Session = session) -> int:
            # What is freed in batches comes and goes meanwhile.
            return max(_advanced(session) for _ in range(WINDOW))

        for _ in range(60 - WINDOW // 2):
            session.advance()
        base = most() - before
        for _ in range(200 - WINDOW):
            session.advance()
        value = most() - before
        tracemalloc.stop()
        what = "memory of one session, turn 260 against 60"
        yield Row(what, who, size_text(value), size_text(base), value / base, 1.1)


def _advanced(session: Session) -> int:
    session.advance()
    return _traced()


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


class Turn(NamedTuple):
    """What one turn cost: CPU of the process, and CPU in the checkpointer by method."""

    whole: float
    saver: dict[str, float]

    @property
    def total(self) -> float:
        """CPU in the checkpointer."""
        return sum(self.saver.values())


class Session:
    """A session that is advanced turn by turn."""

    def __init__(self, contender: Contender, graph: str = "state graph", session: str = "s1") -> None:
        self._contender = contender
        self._meter = Meter(contender.saver)
        self._graph = GRAPHS[graph](contender.saver)
        self._session = session
        self._config = contender.config(session)

    def advance(self) -> Turn:
        """One more turn."""
        tidy()
        started = time.process_time()
        turn(self._graph, self._config)
        whole = time.process_time() - started
        return Turn(whole, self._meter.read())

    def held(self) -> int:
        """The bytes its checkpointer holds for it."""
        return self._contender.held(self._session)

    def get_tuple(self) -> object:
        """The latest checkpoint."""
        return self._contender.saver.get_tuple(self._config)
