"""Whatever is looked up in a SQLite file is found by an index."""

from __future__ import annotations

import pytest

from langchain_ttl_history.storage.sqlite import freeing, listing, lookup, updates
from tests.shared.sqlite_cases import Opens, lent


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (listing._LIST_USER, "USING INDEX sessions_of_user"),
        (listing._LIST_ALL, "USING INDEX sessions_by_use"),
        (lookup.TO_WRITE, "sqlite_autoindex_sessions_1 (key=?)"),
        (lookup.TO_WRITE, "sessions_by_deadline (deadline<?)"),
        (lookup.TO_WRITE, "SEARCH users USING PRIMARY KEY (key=?)"),
        (freeing._EXPIRED, "sessions_by_deadline (deadline<?)"),
        (
            "SELECT generation, key, deadline IS NULL OR deadline > ? FROM sessions WHERE user = ?",
            "sessions_of_user (user=?)",
        ),
        (lookup._TAIL, "INTEGER PRIMARY KEY (rowid=?)"),
        (lookup._SEGMENTS, "PRIMARY KEY (generation=? AND number>?)"),
        (lookup._LARGE, "PRIMARY KEY (generation=? AND number=?)"),
        (updates.CHANGE, "INTEGER PRIMARY KEY (rowid=?)"),
        (updates.RENEW, "INTEGER PRIMARY KEY (rowid=?)"),
        (updates.REPLACE, "PRIMARY KEY (generation=? AND number=?)"),
        (updates.DELETE, "PRIMARY KEY (generation=? AND number=?)"),
    ],
)
def test_what_is_looked_up_is_found_by_an_index(opens: Opens, statement: str, index: str) -> None:
    asked = [b"x"] * statement.count("?")
    with lent(opens()) as connection:
        plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, asked)]
    assert any(index in step for step in plan), plan
    # The one row of `state` is all that may be scanned.
    assert [step for step in plan if step.startswith("SCAN") and "state" not in step and "INDEX" not in step] == []
    assert not any("TEMP B-TREE" in step for step in plan), plan
