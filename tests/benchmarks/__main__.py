"""Run the benchmarks named on the command line, or all of them, and print their table.

A ratio over its bound is shown as such; with ``BENCH_STRICT=1`` it also ends the run with status 1.
``BENCH_ROUNDS`` is how many rounds a median is taken of (7).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

from tests.benchmarks import on_disk, sessions, turns, workers
from tests.benchmarks.measure import ROUNDS
from tests.benchmarks.table import Row, show

BENCHMARKS: dict[str, Callable[[], Iterator[Row]]] = {
    "checkpointer": turns.checkpointer,
    "agent": turns.checkpointer_of_agent,
    "get_tuple": turns.get_tuple,
    "growth": turns.growth,
    "traced": turns.traced,
    "live": sessions.live,
    "churn": sessions.churn,
    "sqlite": on_disk.sqlite,
    "redis": workers.workers,
}


def main(names: list[str]) -> int:
    """Run these benchmarks."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(
            f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}",
            file=sys.stderr,
        )
        return 2
    rows: list[Row] = []
    for name in names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += BENCHMARKS[name]()
    show(f"medians of {ROUNDS} rounds", rows)
    over = [row for row in rows if row.over]
    for row in over:
        print(f"over its bound: {row.what}, {row.who}: {row.ratio:.2f}x, at most {row.bound:g}x was to be")
    return 1 if over and os.environ.get("BENCH_STRICT") == "1" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
