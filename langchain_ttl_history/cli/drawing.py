"""How sessions look on a terminal. Nothing that was said is taken for markup or control codes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from langchain_ttl_history.display import Facts, Portrait, amount, moment, seconds_left, span
from langchain_ttl_history.errors import printable
from langchain_ttl_history.timeline import marks, spelled_value
from langchain_ttl_history.window import callers, calls_with_results, results_by_caller

__all__ = ["console", "facts", "listing", "timeline"]

_STYLES = {"human": "bold cyan", "ai": "bold green", "tool": "yellow", "system": "magenta"}
_SHOWN_CHARS = 1_000
_PIPE_WIDTH = 10_000
"""Wider than anything shown, so that nothing is wrapped for a program that reads it."""
_USUAL_WIDTH, _LEAST_WIDTH = 80, 20
"""Of a terminal that does not tell its own, and of the narrowest that is drawn for."""
_FROM_WIDTH = {"messages": 46, "checkpoints": 70, "size": 57, "time left": 35}
"""What is listed beside the ids, and how wide a terminal must be for each, so that ten characters stay for an id."""


def console() -> Console:
    """Where to print: as wide as the terminal, or without a bound where the output goes to a file or a program."""
    found = Console()
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = _PIPE_WIDTH
    found.width = max(found.width or _USUAL_WIDTH, _LEAST_WIDTH)
    return found


def listing(sessions: Iterable[Facts], width: int) -> Table:
    """A table of sessions; in a small width the ids, with less beside them."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("user", "session"):
        # Whole, since it is what the other commands are given.
        table.add_column(name, overflow="fold")
    shown = [name for name, least in _FROM_WIDTH.items() if width >= least]
    for name in shown:
        table.add_column(name, justify="left" if name == "time left" else "right", no_wrap=True)
    for each in sessions:
        told = {
            "messages": f"{each.messages:,}",
            "checkpoints": f"{each.checkpoints:,}",
            "size": amount(each.bytes),
            "time left": _left(each),
        }
        table.add_row(_plain(each.user_id), _plain(each.session_id), *[told[name] for name in shown])
    return table


def facts(session: Facts) -> Table:
    """A session's metadata, one item per line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("user", _plain(session.user_id)),
        ("session", _plain(session.session_id)),
        ("messages", f"{session.messages:,}"),
        ("checkpoints", f"{session.checkpoints:,}"),
        ("size", amount(session.bytes)),
        ("created", moment(session.created_at)),
        ("last used", moment(session.last_used_at)),
        ("time left", _left(session)),
    ):
        table.add_row(name, value)
    return table


def timeline(portrait: Portrait) -> Iterator[RenderableType]:
    """The conversation, oldest first; a result stands beneath its call."""
    messages = portrait.messages
    made_by, answers = callers(messages), results_by_caller(messages)
    for place, message in enumerate(messages):
        if place in made_by:
            continue
        said = _said(message)
        lines = [said] if said or not isinstance(message, AIMessage) else []
        if isinstance(message, AIMessage):
            for call, result in calls_with_results(message, answers.get(place, ())):
                lines += _call(call, result)
        row = Table.grid(padding=(0, 2))
        row.add_column(width=8, justify="right", style=_STYLES.get(message.type, "bold"))
        row.add_column(overflow="fold")
        row.add_row(_plain(message.type), Text("\n").join(lines))
        yield row


def _call(call: ToolCall | None, result: ToolMessage | None) -> Iterator[Text]:
    if call is not None:
        yield _plain(f"{call['name']}({spelled_value(call['args'])})", "yellow")
    if result is None:
        yield Text("  waits for its result", style="dim")
    else:
        yield Text("  → ") + _said(result, "red" if result.status == "error" else "")


def _said(message: BaseMessage, style: str = "") -> Text:
    """The text of a message, and what it holds beside it, in brackets."""
    parts = [_plain(message.text, style, lines=True)] if message.text else []
    parts += [_plain(f"[{mark}]", "dim") for mark in marks(message)]
    return Text(" ").join(parts)


def _left(session: Facts) -> str:
    return "no end" if session.expires_at is None else span(seconds_left(session, session.expires_at))


def _plain(text: str, style: str = "", *, lines: bool = False) -> Text:
    cut = f"{text[:_SHOWN_CHARS]}… ({len(text):,} characters)" if len(text) > _SHOWN_CHARS else text
    return Text(printable(cut, "\n" if lines else ""), style=style)
