"""The main job, told on a terminal: an agent and a chain share one session of one user.

    python examples/demo.py                     a scripted chat model, no API key
    python examples/demo.py openai:gpt-5-mini   a real one; its partner package has to be installed

The tool, the agent, the chain and the memory are real; the scripted model (`scripted.py`) knows only
what the session remembers.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from io import TextIOWrapper

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.history import RunnableWithMessageHistory
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from scripted import ScriptedModel, calls, find_invoice

from langchain_ttl_history import Retention, SessionBuffer
from langchain_ttl_history.storage import MemoryStorage

# LangChain deprecated RunnableWithMessageHistory and keeps it until 2.0; the story is about its users.
warnings.filterwarnings("ignore", "RunnableWithMessageHistory is deprecated", DeprecationWarning)

CAP = 10
IDLE = timedelta(minutes=30)
STYLES = {"human": "bold cyan", "ai": "bold green", "tool": "yellow", "system": "magenta"}

console = Console(highlight=False)


# --- The stage ---------------------------------------------------------------------------------


class Clock:
    """A clock to wind forward, so that half an hour passes at once; gives epoch seconds."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """The time it shows."""
        return self.now

    def wind(self, **by: float) -> None:
        """Wind it forward by so many `minutes` or `seconds`."""
        self.now += timedelta(**by).total_seconds()


class Claims:
    """What the demo claims, each checked at once."""

    def __init__(self, *, scripted: bool) -> None:
        self.scripted = scripted
        self.kept = self.broken = 0

    def check(self, holds: object, claim: str, *, wording: bool = False) -> None:
        """Show whether the claim holds; what a real model chooses to say is only noted."""
        if not holds and wording and not self.scripted:
            console.print(Text(f"  ~ a real model chose otherwise: {claim}", style="dim"))
            return
        self.kept += bool(holds)
        self.broken += not holds
        console.print(Text("  ✔ " if holds else "  ✘ ", style="bold green" if holds else "bold red") + Text(claim))


def chapter(title: str) -> None:
    """Begin a chapter of the story."""
    console.print()
    console.rule(Text(title, style="bold"), align="left", style="dim")


def line(who: str, style: str, text: str) -> None:
    """One line of the conversation, wrapped under itself."""
    row = Table.grid(padding=(0, 1))
    row.add_column(width=14, justify="right", style=style)
    row.add_column()
    row.add_row(who, Text(text))
    console.print(row)


def show(messages: Sequence[BaseMessage], user: str, program: str) -> None:
    """Show what one turn said."""
    for message in messages:
        if isinstance(message, AIMessage) and message.tool_calls:
            for call in message.tool_calls:
                line("calls", "yellow", f"{call['name']}({', '.join(map(str, call['args'].values()))})")
        else:
            who = {"human": user, "ai": f"the {program}", "tool": "the tool", "system": "event"}[message.type]
            line(who, STYLES[message.type], plain(message.text))


def plain(text: str) -> str:
    """The text, or the values of the JSON object that it is."""
    return ", ".join(map(str, json.loads(text).values())) if text.startswith("{") else text


def compared(everything: list[BaseMessage], window: list[BaseMessage]) -> Table:
    """All messages, beside what the last `CAP` and what the window keep of them."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("message")
    table.add_column(f"the last {CAP}", justify="center")
    table.add_column("the window", justify="center")
    kept = {message.id for message in window}
    last = everything[-CAP:]
    called = {call["id"] for message in last if isinstance(message, AIMessage) for call in message.tool_calls}
    for message in everything:
        naive = Text("·", style="dim")
        if message in last:
            orphan = isinstance(message, ToolMessage) and message.tool_call_id not in called
            naive = Text("✘ no call", style="bold red") if orphan else Text("●", style="green")
        months = [call["args"]["month"] for call in message.tool_calls] if isinstance(message, AIMessage) else []
        what = f"calls find_invoice({months[0]})" if months else f"{message.type}: {plain(message.text)}"
        label = Text(what[:44], style=STYLES[message.type].removeprefix("bold "))
        table.add_row(label, naive, Text("●", style="green") if message.id in kept else Text("·", style="dim"))
    return table


# --- The story ---------------------------------------------------------------------------------


def main(name: str | None) -> int:
    """Tell the story; the result is 1 if a claim did not hold, 2 if there is no such model."""
    try:
        model: BaseChatModel = init_chat_model(name) if name else ScriptedModel()
    except Exception as error:  # noqa: BLE001  # without a key, each provider's package raises an error of its own
        console.print(Text(f"{name} cannot be used. {error}", style="bold red"))
        if isinstance(error, ImportError):
            console.print("The demo runs in .venv, so that is where to install it: .venv/bin/python -m pip install ...")
        return 2
    claims = Claims(scripted=name is None)
    clock = Clock()
    started = time.perf_counter()

    buffer = SessionBuffer(MemoryStorage(clock=clock), retention=Retention(idle_ttl=IDLE, max_messages=CAP))
    agent = create_agent(model, [find_invoice], checkpointer=buffer.checkpointer())
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
    chain = RunnableWithMessageHistory(
        # It calls no tool; some providers want to see the tools whose results are in the history.
        prompt | model.bind_tools([find_invoice]),
        buffer.get_session_history,
        input_messages_key="question",
        history_messages_key="history",
        history_factory_config=buffer.history_factory_config,
    )
    alice, bob = buffer.config("alice", "support"), buffer.config("bob", "support")
    history = buffer.history("alice", "support")

    def ask_agent(config: RunnableConfig, question: str) -> list[BaseMessage]:
        """A turn of the agent; gives the whole state it ended with."""
        messages: list[BaseMessage] = agent.invoke({"messages": [HumanMessage(question)]}, config)["messages"]
        newest = max(place for place, message in enumerate(messages) if isinstance(message, HumanMessage))
        show(messages[newest:], config["configurable"]["user_id"], "agent")
        return messages

    def ask_chain(config: RunnableConfig, question: str) -> str:
        """A turn of the chain; gives its answer."""
        reply = chain.invoke({"question": question}, config)
        show([HumanMessage(question), reply], config["configurable"]["user_id"], "chain")
        return str(reply.text)

    console.print()
    console.print(Text("One session, shared by an agent and a chain", style="bold"), justify="center")
    kind = name or "a scripted chat model; a real tool, agent, chain and memory"
    console.print(Text(kind, style="dim"), justify="center")
    console.print(Text(f"at most {CAP} messages, gone after 30 idle minutes", style="dim"), justify="center")

    chapter("1  Alice asks the agent, which calls a tool")
    said = ask_agent(alice, "What was my invoice for March?")
    claims.check(calls["alice"] == 1, "the tool was called once", wording=True)
    claims.check([m.id for m in history.messages] == [m.id for m in said], "the history shows what the agent said")

    chapter("2  The chain goes on in the same session")
    text = ask_chain(alice, "Put that in a line to my accountant.")
    claims.check("2041" in text and "129" in text, "the chain used the tool result of the agent's turn", wording=True)

    chapter("    Between turns the app reports an event; no model is called")
    history.add_system_message("The user opened the billing page.")
    show(history.messages[-1:], "alice", "app")

    chapter("3  The agent again: the event, and the tool result of turn 1")
    before = calls["alice"]
    text = ask_agent(alice, "When is it due, and where do I pay?")[-1].text
    claims.check("2041" in text and calls["alice"] == before, "the tool result of turn 1, no second call", wording=True)
    claims.check("billing page" in text, "the agent answered to the event", wording=True)

    chapter("    Bob has a session of the same name")
    text = ask_agent(bob, "When is it due?")[-1].text
    claims.check("2041" not in text, "nothing of Alice's session is in Bob's")
    text = ask_agent(bob, "For March, I mean: what was my invoice?")[-1].text
    claims.check("2043" in text and "2041" not in text, "Bob gets his own invoice", wording=True)
    sessions = {info.user_id: info for info in buffer.sessions(all_users=True)}
    for info in sessions.values():
        console.print(
            f"  [dim]{info.user_id:>5}/{info.session_id}: {info.messages} messages, {info.bytes:,} bytes[/dim]"
        )
    claims.check(set(sessions) == {"alice", "bob"}, "two sessions of one name, one for each user")

    chapter("4  The chain once more")
    text = ask_chain(alice, "What have I asked you so far?")
    claims.check(
        "March" in text and "due" in text, "it knows the questions put to the agent and to itself", wording=True
    )

    chapter(f"5  A long turn of the agent goes over the cap of {CAP} messages")
    said = ask_agent(alice, "Go through January to May one by one: what did I pay in all?")
    newest = max(place for place, message in enumerate(said) if isinstance(message, HumanMessage))
    turn, window = said[newest:], history.messages
    console.print()
    console.print(Padding(compared(turn, window), (0, 0, 0, 2)))
    console.print()
    results = [message for message in window if isinstance(message, ToolMessage)]
    called = [call["id"] for message in window if isinstance(message, AIMessage) for call in message.tool_calls]
    claims.check(len(window) <= CAP < len(turn), f"{len(turn)} messages were cut to {len(window)}", wording=True)
    claims.check([each.tool_call_id for each in results] == called, "every call kept its result, every result its call")
    claims.check(isinstance(window[0], HumanMessage), "the window still begins with the question")
    claims.check(
        isinstance(turn[-CAP:][0], ToolMessage), f"the last {CAP} alone would begin with a result without a call",
        wording=True,
    )  # fmt: skip

    chapter("6  Idle time runs out")
    watch(buffer, clock, claims)
    claims.check(history.messages == [], "the history of the expired session is empty")
    claims.check(not agent.get_state(alice).values, "and so is the state of the graph: nothing half-remembered")
    text = ask_agent(alice, "When is it due?")[-1].text
    claims.check("2041" not in text, "a new turn starts clean")

    console.print()
    # Without a title Rich does not look whether the terminal has a letter for it.
    console.rule(style="dim", characters="-" if console.options.ascii_only else "─")
    style = "bold red" if claims.broken else "bold green"
    sum_up = f"{claims.kept} of {claims.kept + claims.broken} claims hold"
    took = f"{time.perf_counter() - started:.1f} s"
    console.print(Text(f"{sum_up}: one session, two programs, {sum(calls.values())} tool calls, {took}", style=style))
    return 1 if claims.broken else 0


def watch(buffer: SessionBuffer, clock: Clock, claims: Claims) -> None:
    """Wind the clock until both sessions are gone; Alice comes back once, Bob does not."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("clock", "", "alice has left", "bob has left"):
        table.add_column(title, justify="left" if not title else "right")

    def left(user: str) -> Text:
        info = buffer.info(user, "support")
        if info is None or info.expires_at is None:
            return Text("gone", style="bold red")
        seconds = round(info.expires_at.timestamp() - clock.now)
        return Text(f"{seconds // 60}:{seconds % 60:02}", style="green" if seconds > 300 else "yellow")

    def row(what: str) -> None:
        seconds = round(clock.now - began)
        table.add_row(f"+{seconds // 60}:{seconds % 60:02}", what, left("alice"), left("bob"))

    def alive() -> list[str]:
        return sorted(info.user_id for info in buffer.sessions(all_users=True))

    began = clock.now
    row("everyone falls silent")
    clock.wind(minutes=20)
    row("info() prolongs nothing")
    seen: list[tuple[bool, str]] = []
    shown = len(buffer.history("alice", "support").messages)
    row(f"reading {shown} messages does")
    clock.wind(minutes=9, seconds=59)
    row("nobody has come back")
    seen.append((alive() == ["alice", "bob"], "both sessions lived through 29:59"))
    clock.wind(seconds=2)
    row("Bob's half hour is over")
    seen.append((alive() == ["alice"], "Bob's session is gone, Alice's was used and lives"))
    clock.wind(minutes=20)
    row("now Alice's is, too")
    seen.append((alive() == [], "after 30 idle minutes all of it is gone in one instant"))
    console.print(Padding(table, (0, 0, 0, 2)))
    console.print()
    for holds, claim in seen:
        claims.check(holds, claim)


if __name__ == "__main__":
    if isinstance(sys.stdout, TextIOWrapper):
        # What the terminal has no letter for is spelled out.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
