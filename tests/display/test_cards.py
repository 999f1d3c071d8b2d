"""A history, a session's info and a buffer show themselves."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, InvalidToolCall, ToolMessage

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.display import amount, span
from langchain_ttl_history.storage import MemoryStorage
from langchain_ttl_history.testing import Clock
from tests.shared import samples
from tests.shared.samples import TicketMessage
from tests.shared.tampering import Interposed


class Elements(HTMLParser):
    """The elements of a card; fails where one is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[list[str]] = []
        """What stands in each of them."""
        self._open: list[int] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(len(self.seen))
        self.seen.append((tag, dict(attrs)))
        self.texts.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.seen[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self.seen[self._open[-1]][0] != "style":
            for each in self._open:
                self.texts[each].append(data)

    def of(self, name: str) -> list[str]:
        """The text in each element of this class, or with this tag."""
        found = [self.texts[at] for at, (tag, attrs) in enumerate(self.seen) if name in (tag, attrs.get("class"))]
        return [" ".join(" ".join(texts).split()) for texts in found]


def text_of(html: str) -> str:
    """What a card says, from its title on."""
    return Elements(html).of("div")[0]


@pytest.fixture
def cards(buffer: SessionBuffer) -> dict[str, str]:
    found: dict[str, Any] = {
        "history": buffer.history("alice", "support"),
        "info": buffer.info("alice", "support"),
        "buffer": buffer,
        "nothing": buffer.history("<i>nobody</i>", "s1"),
    }
    return {name: each._repr_html_() for name, each in found.items()}


@pytest.mark.parametrize("name", ["history", "info", "buffer", "nothing"])
def test_a_card_has_neither_a_script_nor_anything_remote(cards: dict[str, str], name: str) -> None:
    elements = Elements(cards[name]).seen
    assert {tag for tag, _ in elements}.isdisjoint({"script", "img", "link", "iframe", "object", "a"})
    attributes = {attribute for _, found in elements for attribute in found}
    assert attributes <= {"class", "dir", "style"}
    style = re.search(r"<style>(.*?)</style>", cards[name], re.DOTALL)
    assert style is not None
    assert not re.search(r"url|import|expression|http|//", style[1])


@pytest.mark.parametrize("name", ["history", "info", "buffer", "nothing"])
def test_every_rule_of_the_style_sheet_keeps_to_the_card(cards: dict[str, str], name: str) -> None:
    style = cards[name].split("<style>")[1].split("</style>")[0]
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+?)\s*\{", re.sub(r"@media[^{]*\{", "", style))
    assert len(selectors) > 20
    assert all(each.strip().startswith(".ttlh") for selector in selectors for each in selector.split(","))
    for _, found in Elements(cards[name]).seen:
        classes = (found.get("class") or "").split()
        assert all(each.startswith("ttlh") or each.endswith("jax_ignore") for each in classes)


def test_what_was_said_is_shown_as_it_was_said(cards: dict[str, str]) -> None:
    assert "The second question <script>document" in text_of(cards["history"])
    assert 'weather(city="<b>Oslo</b>")' in text_of(cards["history"])
    assert "<i>nobody</i>" in text_of(cards["nothing"])


def test_a_call_and_its_result_are_one_block(cards: dict[str, str]) -> None:
    assert Elements(cards["history"]).of("ttlh-block") == [
        "first_tool() The first result",
        'weather(city="Rome") Sun in Rome artifact',
        'weather(city="<b>Oslo</b>") Rain in Oslo error',
    ]


def test_what_the_window_cut_is_told_from_what_it_keeps(cards: dict[str, str]) -> None:
    elements = Elements(cards["history"])
    cut = elements.of("details")[0]
    assert cut.startswith("3 earlier messages, cut by the window")
    assert cut.endswith("The first result")
    assert "cut 3 held until freed" in elements.of("ttlh-facts")[0]
    rest = elements.of("ttlh-line")[0].removeprefix(cut)
    assert "The first" not in rest
    assert rest.strip().startswith("human The second question")


def test_long_content_is_folded(cards: dict[str, str]) -> None:
    folds = re.findall(r'<details class="ttlh-fold"><summary>(.*?)</summary>(.*?)</details>', cards["history"])
    assert len(folds) == 1
    assert "2,243 characters" in folds[0][0]
    assert "The long answer ends." not in folds[0][0]
    assert "The long answer ends." in folds[0][1]


def test_size_and_idle_time_left_are_told(buffer: SessionBuffer, clock: Clock) -> None:
    clock.advance(24 * 60)
    for each in (buffer.history("alice", "support"), buffer.info("alice", "support"), buffer):
        html = each._repr_html_()
        assert "6 min" in text_of(html)
        assert 'ttlh-bar ttlh-low"><span style="width:20%"' in html
    assert "8 MiB" in text_of(buffer.history("alice", "support")._repr_html_())


def test_an_infos_card_tells_what_the_session_holds_and_its_times(buffer: SessionBuffer, clock: Clock) -> None:
    clock.advance(60)
    buffer.history("alice", "support").add_system_message("One more.")
    (facts,) = Elements(buffer.info("alice", "support")._repr_html_()).of("ttlh-facts")
    assert re.fullmatch(
        r"messages 7 checkpoints 0 size .* created 2023-11-14 22:13:20 UTC last used 2023-11-14 22:14:20 UTC "
        r"time left 30 min",
        facts,
    )


def test_to_look_is_no_use(buffer: SessionBuffer, clock: Clock) -> None:
    before = buffer.info("alice", "support")
    clock.advance(60)
    for each in (buffer.history("alice", "support"), buffer.info("alice", "support"), buffer):
        each._repr_html_()
        str(each)
    assert buffer.info("alice", "support") == before


def test_to_look_does_not_begin_a_turn(buffer: SessionBuffer) -> None:
    turn = buffer.get_session_history("support", user_id="alice")
    turn._repr_html_()
    assert str(turn) == str(buffer.history("alice", "support"))
    buffer.history("alice", "support").add_system_message("One more.")
    assert turn.messages[-1].text == "One more."
    buffer.history("alice", "support").add_system_message("Not in this turn.")
    assert str(turn).splitlines()[-1] == "System: One more."


def test_to_look_creates_nothing(buffer: SessionBuffer) -> None:
    assert "There is no such session." in text_of(buffer.history("bob", "s1")._repr_html_())
    assert not str(buffer.history("bob", "s1"))
    assert buffer.info("bob", "s1") is None


def test_a_plain_repr_stands_beside(buffer: SessionBuffer) -> None:
    assert repr(buffer.history("alice", "support")) == "TTLChatMessageHistory(user_id='alice', session_id='support')"
    assert repr(buffer).startswith("SessionBuffer(MemoryStorage(")
    assert repr(buffer.info("alice", "support")).startswith("SessionInfo(user_id='alice', session_id='support', ")


def paying_agent(buffer: SessionBuffer) -> Any:
    """A graph that asks before it pays."""
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.types import interrupt

    def call(state: MessagesState) -> Any:
        return {"messages": [AIMessage("", tool_calls=[{"name": "pay", "args": {"amount": 5}, "id": "1"}])]}

    def tool(state: MessagesState) -> Any:
        return {"messages": [ToolMessage(interrupt("Pay?"), tool_call_id="1")]}

    nodes = StateGraph(MessagesState).add_node(call).add_node(tool).add_edge(START, "call").add_edge("call", "tool")
    return nodes.compile(checkpointer=buffer.checkpointer())


def test_a_call_that_waits_is_shown_as_waiting() -> None:
    buffer = SessionBuffer()
    paying_agent(buffer).invoke({"messages": [HumanMessage("Pay!")]}, buffer.config("alice", "s1"))
    buffer.history("alice", "s1").add_system_message("The user scrolled.")
    shown = text_of(buffer.history("alice", "s1")._repr_html_())
    assert "Waits for a result; not in the window yet: ai pay(amount=5) no result yet" in shown
    assert "messages 2 " in shown
    assert "The user scrolled." in shown
    assert "cut" not in shown


def test_a_call_that_waits_beside_another_run_is_shown_as_waiting() -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    def greet(state: MessagesState) -> Any:
        return {"messages": [AIMessage("Hello.")]}

    def part(state: MessagesState) -> Any:
        return {"messages": [AIMessage("Goodbye.")]}

    buffer = SessionBuffer()
    config = buffer.config("alice", "s1")
    nodes = StateGraph(MessagesState).add_node(greet).add_node(part).add_edge(START, "greet").add_edge("greet", "part")
    other = nodes.compile(checkpointer=buffer.checkpointer())
    steps = other.stream({"messages": [HumanMessage("Hi!")]}, config, durability="sync")
    next(steps)
    paying_agent(buffer).invoke({"messages": [HumanMessage("Pay!")]}, config)
    assert [*steps]
    shown = text_of(buffer.history("alice", "s1")._repr_html_())
    assert "Waits for a result; not in the window yet: ai pay(amount=5) no result yet" in shown
    assert "Goodbye." in shown
    assert "cut" not in shown


def test_a_result_without_a_call_is_marked() -> None:
    buffer = SessionBuffer()
    buffer.history("alice", "s1").add_messages([HumanMessage("Hi"), ToolMessage("lost", tool_call_id="1")])
    assert "1 result without a call, left out tool lost no call" in text_of(buffer.history("alice", "s1")._repr_html_())


def test_the_result_of_a_call_that_could_not_be_parsed_stands_beneath_it() -> None:
    bad = InvalidToolCall(type="invalid_tool_call", name="sum", args="{", id="1", error="no JSON")
    buffer = SessionBuffer()
    buffer.history("alice", "s1").add_messages(
        [HumanMessage("Hi"), AIMessage("", invalid_tool_calls=[bad]), ToolMessage("no JSON", tool_call_id="1")]
    )
    shown = text_of(buffer.history("alice", "s1")._repr_html_())
    assert "ai no JSON unreadable call of sum" in shown
    assert "no call" not in shown


def test_a_pinned_session_has_no_end() -> None:
    buffer = SessionBuffer()
    buffer.history("alice", "s1").add_system_message("Hi")
    buffer.set_idle_ttl("alice", "s1", None)
    assert "time left no end" in text_of(buffer.info("alice", "s1")._repr_html_())


def test_a_card_stays_small_however_much_was_said() -> None:
    buffer = SessionBuffer(retention=Retention(max_messages=None))
    buffer.history("alice", "s1").add_messages([HumanMessage(f"<{each}>" + "x" * 30_000) for each in range(240)])
    html = buffer.history("alice", "s1")._repr_html_()
    assert "40 earlier messages are not drawn here." in text_of(html)
    assert "10,004 more characters are not drawn here." in text_of(html)
    assert len(html) < 200 * 21_000


def test_a_buffer_lists_the_next_to_end_and_says_that_there_are_others() -> None:
    buffer = SessionBuffer(retention=Retention(idle_ttl=timedelta(days=1), max_bytes=None))
    for each in range(25):
        buffer.history(f"user {each}", "s1").add_system_message("Hi")
    shown = text_of(buffer._repr_html_())
    assert "sessions 25" in shown
    assert "idle time 1 d, messages 80, checkpoints 100" in shown
    assert "user 19 " in shown
    assert "user 20 " not in shown
    assert "there are others" in shown


def test_a_buffer_lists_the_sessions_that_can_be_read_and_says_what_is_wrong_with_the_others() -> None:
    storage = Interposed(MemoryStorage(), private=False)
    writer = SessionBuffer(storage, allow_types=[TicketMessage])
    for name in ("s1", "s2", "s3"):
        writer.history("alice", name).add_messages(
            [TicketMessage("t", ticket=1) if name == "s2" else HumanMessage("t")]
        )
    shown = text_of(SessionBuffer(storage)._repr_html_())
    assert "alice s1 1" in shown
    assert "alice s3 1" in shown
    assert "session ('alice', 's2'): " in shown
    assert "TicketMessage is not allow-listed" in shown


def test_the_card_of_a_buffer_that_can_read_none_of_many_sessions_asks_for_few_of_them() -> None:
    asked: list[Any] = []

    class Counted(Interposed):
        def read(self, *args: Any) -> Any:
            asked.append(args)
            return super().read(*args)

    storage = Counted(MemoryStorage(), private=False)
    writer = SessionBuffer(storage, allow_types=[TicketMessage])
    for name in range(40):
        writer.history("alice", str(name)).add_messages([TicketMessage("t", ticket=1)])
    asked.clear()
    shown = text_of(SessionBuffer(storage)._repr_html_())
    assert len(asked) == 21
    assert shown.count("is not allow-listed") == 20
    assert "there are others" in shown


def test_text_that_cannot_be_encoded_is_shown_by_its_code() -> None:
    buffer = SessionBuffer()
    buffer.history("alice", "s1").add_messages([HumanMessage("a lone \ud800 surrogate")])
    html = buffer.history("alice", "s1")._repr_html_()
    assert r"a lone \ud800 surrogate" in html
    json.dumps(html).encode("utf-8")


def test_a_card_holds_no_control_code_and_keeps_what_joins_letters_and_lines() -> None:
    buffer = SessionBuffer()
    said = HumanMessage("\x1b]0;title\x07 \0 \x9b2J \n\ttwo \N{ZERO WIDTH JOINER} three", name="\x1b[2Jada")
    buffer.history("al\x1bice", "s1").add_messages([said])
    html = buffer.history("al\x1bice", "s1")._repr_html_()
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", html)
    for each in (r"\x1b]0;title\x07 \x00 \x9b2J ", "\n\ttwo \N{ZERO WIDTH JOINER} three", r"al\x1bice", r"\x1b[2Jada"):
        assert each in html
    assert "\x1b" not in buffer._repr_html_()


def test_content_that_is_no_text_is_named() -> None:
    buffer = SessionBuffer()
    picture = {"type": "image", "url": "https://example.com/a.png"}
    buffer.history("alice", "s1").add_messages([HumanMessage(["Look:", picture, {"type": "text", "text": " nice"}])])
    assert "Look: nice image" in text_of(buffer.history("alice", "s1")._repr_html_())


@pytest.mark.parametrize("name", list(samples.messages()))
def test_a_message_of_any_kind_is_drawn(name: str) -> None:
    message = samples.messages()[name]
    buffer = SessionBuffer(allow_types=[type(message)])
    call = {"name": "ask", "args": {}, "id": getattr(message, "tool_call_id", "1")}
    buffer.history("alice", "s1").add_messages([HumanMessage("Hi"), AIMessage("", tool_calls=[call]), message])
    shown = text_of(buffer.history("alice", "s1")._repr_html_())
    assert " ".join(message.text.split()[:5]) in shown


def test_a_message_is_shown_with_its_role_and_name() -> None:
    buffer = SessionBuffer()
    said = [ChatMessage("Objection!", role="lawyer", id="1"), HumanMessage("Sustained.", name="judge")]
    buffer.history("alice", "s1").add_messages(said)
    assert "lawyer Objection! human · judge Sustained." in text_of(buffer.history("alice", "s1")._repr_html_())


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (150 << 10 | 300, "150 KiB"),
        (8 << 20, "8 MiB"),
        (5 << 40, "5 TiB"),
        (200 << 50, "204,800 TiB"),
    ],
)
def test_bytes_are_told_for_people(size: int, told: str) -> None:
    assert amount(size) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (0.2, "1 s"),
        (59.4, "59 s"),
        (61, "1 min 1 s"),
        (600, "10 min"),
        (1799.9, "30 min"),
        (7200, "2 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_times_are_told_for_people(seconds: float, told: str) -> None:
    assert span(seconds) == told
