"""What of a turn's messages is new: one case each."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_ttl_history.chat_history.turns import new_in
from langchain_ttl_history.codec import Codec
from langchain_ttl_history.views import Turn


def such_as_langgraphs(number: int) -> str:
    return f"20061126-0000-4000-8000-{number:012}"


# Words, of which those without a sign or a number have no id: what a program or a model says.
MESSAGES: dict[str, BaseMessage] = {
    "q": HumanMessage("q"),
    "a": AIMessage("a"),
    "end": AIMessage("end"),
    # Of the turns before; the first was cut.
    "q0": HumanMessage("q", id="q0"),
    "a0": AIMessage("a", id="a0"),
    "q1": HumanMessage("q", id="q1"),
    "a1": AIMessage("a", id="a1"),
    "a1-edited": AIMessage("edited", id="a1"),
    "a1-asked": HumanMessage("a", id="a1"),
    "q1-answered": AIMessage("q", id="q1"),
    # With ids of a program's own.
    "q*": HumanMessage("q", id="q*"),
    "a*": AIMessage("a", id="a*"),
    # With ids from LangGraph.
    "q'": HumanMessage("q", id=such_as_langgraphs(1)),
    "a'": AIMessage("a", id=such_as_langgraphs(2)),
    "b'": AIMessage("b", id=such_as_langgraphs(3)),
    "redacted'": HumanMessage("redacted", id=such_as_langgraphs(4)),
    "echo'": AIMessage("q", id=such_as_langgraphs(5)),
}
SHOWN = Turn([MESSAGES["q1"], MESSAGES["a1"]], 1, [MESSAGES["q0"], MESSAGES["a0"]])


@pytest.mark.parametrize(
    ("given", "new"),
    [
        # As the table in `turns` has them.
        ("q a", "q a"),
        ("q q a", "q a"),
        ("q q1 a1 q' a'", "q' a'"),
        ("q q0 q1 a1 q' a'", "q' a'"),
        ("q a1", "q a"),
        # What was shown is no news, but an edit of it is. An answer that comes without a question comes from no cache.
        ("q1", ""),
        ("a1", ""),
        ("a0", "a0"),
        ("a1 q", "q"),
        ("q a1-edited", "q a1-edited"),
        ("q a1-asked", "q a1-asked"),
        ("q q1-answered", "q q1-answered"),
        # An agent that was given an example as well returns it too, also where it edits the question.
        ("q a q* a* end", "q* a* end"),
        ("q a redacted' b' end", "redacted' b' end"),
        ("q redacted' end", "redacted' end"),
        ("q q1 a1 redacted' end", "redacted' end"),
        # An agent that says the question once more.
        ("q q* q'", "q* q'"),
        # An agent that knows more than was shown, and has given its input an id in place or not.
        ("q a0 q1 q' end", "q' end"),
        ("q* a0 q1 q* end", "q* end"),
        ("q* q*", "q*"),
        # An agent that does not return what came first.
        ("a* q q' end", "a* q' end"),
        ("q1 q q' end", "q' end"),
        # These are no agents.
        ("a a'", "a a'"),
        ("a b' end", "a b' end"),
        ("a q* q end", "a q* q end"),
        ("q a' end", "q a' end"),
        ("q echo'", "q echo'"),
        ("q redacted'", "q redacted'"),
    ],
)
def test_of_what_a_turn_hands_over_this_is_new(given: str, new: str) -> None:
    handed_over = [MESSAGES[name] for name in given.split()]
    assert new_in(handed_over, SHOWN, Codec()) == [MESSAGES[name] for name in new.split()]
