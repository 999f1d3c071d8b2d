"""What every test runs under."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

from tests import servers

pytest_plugins = ["tests.shared.fixtures"]
# Before they are imported: a failure of what they assert then tells the values.
pytest.register_assert_rewrite("tests.shared")

# Neither tracing nor a default storage of whoever runs the tests.
for name in [*os.environ]:
    if name.startswith(("LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "TTL_HISTORY_")):
        del os.environ[name]

# A slow machine is no failure, and a red run on one machine is red on every other.
# A busy machine is no finding: neither what an example takes is bounded, nor what it takes to make one.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")


def pytest_report_header() -> str:
    """Which servers the tests run on, and which they do without."""
    missing = [kind for kind in servers.KINDS if kind not in servers.available()]
    without = f"; WITHOUT {', '.join(missing)}, which are not here" if missing else ""
    return f"servers: {', '.join(servers.available()) or 'none'}{without}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it again at the end, where it is read."""
    terminalreporter.write_line(pytest_report_header())


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Skip what LangGraph cannot do on Python 3.10: its config does not reach async tasks there."""
    try:
        return (yield)
    except RuntimeError as error:
        if sys.version_info < (3, 11) and "outside of a runnable context" in str(error):
            pytest.skip("interrupt() and tasks in async graphs need Python 3.11")
        raise
