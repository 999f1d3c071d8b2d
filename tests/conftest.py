"""What every test runs under."""

from __future__ import annotations

import os

import hypothesis

# Neither tracing nor a default storage of whoever runs the tests.
for name in [*os.environ]:
    if name.startswith(("LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "TTL_HISTORY_")):
        del os.environ[name]

# A slow machine is no failure, and a red run on one machine is red on every other.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("suite")
