"""What a process remembers of sessions: enough, and no more."""

from __future__ import annotations

from langchain_ttl_history.cache import SessionCache
from langchain_ttl_history.keys import SessionKey

KEY = SessionKey("ada", "s1")


def test_the_checkpoints_put_last_are_remembered_and_those_long_ago_are_not() -> None:
    cache = SessionCache()
    for number in range(10_000):
        cache.note_put(KEY, f"c{number}", number)
        oldest = max(0, number - 499)
        assert cache.put_in(KEY, f"c{oldest}") == oldest
    known = [number for number in range(10_000) if cache.put_in(KEY, f"c{number}") is not None]
    assert known == list(range(known[0], 10_000))
    assert len(known) <= 1_000
    assert cache.put_in(SessionKey("bob", "s1"), "c9999") is None


def test_what_a_session_began_with_is_still_known_once_its_generation_is() -> None:
    cache = SessionCache()
    first = cache.of(KEY, 0).bodies
    assert cache.of(KEY, 7).bodies is first
    assert cache.of(KEY, 8).bodies is not first
