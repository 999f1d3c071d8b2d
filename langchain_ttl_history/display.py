"""How sessions look in a notebook: HTML made of plain values.

Everything that was said is escaped. There is no script and nothing remote, the style sheet stands in
the output itself, and without it (GitHub shows none) the lists and foldings still read well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage

from langchain_ttl_history.retention import Retention
from langchain_ttl_history.window import callers

__all__ = ["Facts", "Portrait", "amount", "buffer_card", "history_card", "info_card", "span"]

# Longer text is folded, with this much of it in view.
_FOLDED_CHARS = 600
_FOLDED_LINES = 12
_PREVIEW = 160
# A picture of a session is no export of it.
_DRAWN_CHARS = 20_000
_DRAWN_MESSAGES = 200

# Blocks of content that say again what `tool_calls` says.
_CALL_BLOCKS = frozenset({"tool_use", "tool_call", "tool_call_chunk", "function_call", "invalid_tool_call"})


class Facts(Protocol):
    """What a card tells of a session: a `SessionInfo`."""

    @property
    def user_id(self) -> str: ...  # noqa: D102  # as the fields of SessionInfo say
    @property
    def session_id(self) -> str: ...  # noqa: D102
    @property
    def messages(self) -> int: ...  # noqa: D102
    @property
    def checkpoints(self) -> int: ...  # noqa: D102
    @property
    def bytes(self) -> int: ...  # noqa: D102
    @property
    def created_at(self) -> datetime: ...  # noqa: D102
    @property
    def last_used_at(self) -> datetime: ...  # noqa: D102
    @property
    def expires_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def read_at(self) -> datetime | None: ...  # noqa: D102


@dataclass(frozen=True)
class Portrait:
    """One session as a read found it that was not a use."""

    facts: Facts
    retention: Retention
    messages: Sequence[BaseMessage]
    """All that is still held of the conversation, oldest first."""
    shown: AbstractSet[int]
    """The positions of those within the window."""
    waiting: AbstractSet[int]
    """The positions of a group of tool calls that waits for results."""


def history_card(user_id: str, session_id: str, portrait: Portrait | None) -> str:
    """A session's conversation as a timeline; `portrait` is None where there is no such session."""
    if portrait is None:
        return _card(_title(user_id, session_id), '<p class="ttlh-note">There is no such session.</p>')
    facts, kept = portrait.facts, portrait.retention
    cut = len(portrait.messages) - len(portrait.shown) - len(portrait.waiting)
    rows = [
        _fact("messages", f"{facts.messages:,}", kept.max_messages and f"of at most {kept.max_messages:,}"),
        *([_fact("cut", f"{cut:,}", "held until freed")] if cut else ()),
        _fact("checkpoints", f"{facts.checkpoints:,}", kept.max_checkpoints and f"of at most {kept.max_checkpoints:,}"),
        _fact("size", amount(facts.bytes), kept.max_bytes and f"of at most {amount(kept.max_bytes)}"),
        _idle_fact(facts),
    ]
    return _card(_title(user_id, session_id), _facts(rows), _timeline(portrait))


def info_card(facts: Facts) -> str:
    """What is known of a session."""
    rows = [
        _fact("messages", f"{facts.messages:,}"),
        _fact("checkpoints", f"{facts.checkpoints:,}"),
        _fact("size", amount(facts.bytes)),
        _fact("created", _moment(facts.created_at)),
        _fact("last used", _moment(facts.last_used_at)),
        _idle_fact(facts),
    ]
    return _card(_title(facts.user_id, facts.session_id), _facts(rows))


def buffer_card(
    storage: str, retention: Retention, sessions: int, used: int, some: Sequence[Facts], *, more: bool
) -> str:
    """A buffer: its policy, how much it holds, and some of its sessions.

    Args:
        storage: How the storage calls itself.
        retention: The policy.
        sessions: How many sessions the storage holds.
        used: How many bytes they hold.
        some: Those listed.
        more: Whether there are others.
    """
    bounds = [
        ("idle time", _bound(retention.idle_seconds, span)),
        ("age", _bound(retention.age_seconds, span)),
        ("messages", _bound(retention.max_messages, "{:,}".format)),
        ("tokens", _bound(retention.max_tokens, "{:,}".format)),
        ("checkpoints", _bound(retention.max_checkpoints, "{:,}".format)),
        ("size", _bound(retention.max_bytes, amount)),
    ]
    rows = [
        _fact("sessions", f"{sessions:,}"),
        _fact("size", amount(used)),
        _fact("each at most", ", ".join(f"{name} {bound}" for name, bound in bounds if bound)),
    ]
    heads = "".join(f"<th>{each}</th>" for each in ("user", "session", "messages", "checkpoints", "size", "idle left"))
    lines = [
        f"<tr><td dir='auto'>{_text(each.user_id)}</td><td dir='auto'>{_text(each.session_id)}</td>"
        f"<td>{each.messages:,}</td><td>{each.checkpoints:,}</td><td>{amount(each.bytes)}</td>"
        f"<td>{_idle(each)}</td></tr>"
        for each in some
    ]
    table = f'<table class="ttlh-table"><tr>{heads}</tr>{"".join(lines)}</table>' if lines else ""
    rest = '<p class="ttlh-note">The next to end; there are others.</p>' if more else ""
    return _card(f"<b>SessionBuffer</b> on <code>{_text(storage)}</code>", _facts(rows), table, rest)


def amount(size: int) -> str:
    """A number of bytes, for people."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if unit == "B" or value >= 100 else f"{value:,.1f}".removesuffix(".0") + f" {unit}"


def span(seconds: float) -> str:
    """A length of time, for people: rounded, and never to nothing while there is some left."""
    whole = max(1, round(seconds)) if seconds > 0 else 0
    if whole >= 600:
        whole = -(-whole // 60) * 60
    parts = [
        f"{count} {unit}"
        for count, unit in (
            (whole // 86_400, "d"),
            (whole // 3600 % 24, "h"),
            (whole // 60 % 60, "min"),
            (whole % 60, "s"),
        )
        if count
    ]
    return " ".join(parts[:2]) or "0 s"


# The parts of a card


def _card(title: str, *parts: str) -> str:
    # The second and third class keep notebooks from reading "$5 or $6" as a formula.
    return (
        f'<div class="ttlh tex2jax_ignore mathjax_ignore"><style>{_style()}</style>'
        f'<p class="ttlh-title">{title}</p>{"".join(parts)}</div>'
    )


@lru_cache(maxsize=1)
def _style() -> str:
    return Path(__file__).with_name("display.css").read_text(encoding="utf-8")


def _title(user_id: str, session_id: str) -> str:
    return (
        f'<span class="ttlh-of">user</span> <b dir="auto">{_text(user_id)}</b> '
        f'<span class="ttlh-of">session</span> <b dir="auto">{_text(session_id)}</b>'
    )


def _facts(rows: Iterable[str]) -> str:
    return f'<ul class="ttlh-facts">{"".join(rows)}</ul>'


def _fact(name: str, value: str, aside: object = None) -> str:
    beside = f' <span class="ttlh-of">{aside}</span>' if aside else ""
    return f'<li><span class="ttlh-of">{name}</span> <b>{value}</b>{beside}</li>'


def _idle_fact(facts: Facts) -> str:
    return f'<li><span class="ttlh-of">idle time left</span> {_idle(facts)}</li>'


def _idle(facts: Facts) -> str:
    if facts.expires_at is None:
        return "<b>no end</b>"
    left = max(0.0, (facts.expires_at - (facts.read_at or facts.last_used_at)).total_seconds())
    whole = (facts.expires_at - facts.last_used_at).total_seconds()
    part = round(100 * min(1.0, left / whole)) if whole > 0 else 0
    low = " ttlh-low" if part <= 20 else ""
    return f'<b>{span(left)}</b> <span class="ttlh-bar{low}"><span style="width:{part}%"></span></span>'


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _bound(value: Any, told: Any) -> str:
    return "" if value is None else told(value)


# The timeline


def _timeline(portrait: Portrait) -> str:
    messages = portrait.messages
    made_by = callers(messages)
    answers: dict[int, list[ToolMessage]] = {}
    for place, caller in made_by.items():
        answers.setdefault(caller, []).append(messages[place])  # type: ignore[arg-type]  # results alone have callers
    # A result stands beneath its call; one without a call stands alone.
    first = max(0, len(messages) - _DRAWN_MESSAGES)
    places = [place for place in range(first, len(messages)) if made_by.get(place, -1) < first]

    def state(place: int) -> str:
        return "shown" if place in portrait.shown else "waiting" if place in portrait.waiting else "cut"

    parts = [f'<li class="ttlh-note">{first:,} earlier messages are not drawn here.</li>'] if first else []
    for found, group in groupby(places, state):
        members = list(group)
        items = "".join(_item(messages[place], answers.get(place, ()), has_call=place in made_by) for place in members)
        if found == "cut":
            items = f"<li><details><summary>{_cut(messages, members, answers)}</summary><ol>{items}</ol></details></li>"
        elif found == "waiting":
            items = f'<li class="ttlh-note">Waits for a result; not in the window yet:</li>{items}'
        parts.append(items)
    if not messages:
        parts.append('<li class="ttlh-note">Nothing has been said yet.</li>')
    return f'<ol class="ttlh-line">{"".join(parts)}</ol>'


def _cut(messages: Sequence[BaseMessage], places: Sequence[int], answers: dict[int, list[ToolMessage]]) -> str:
    count = sum(1 + len(answers.get(place, ())) for place in places)
    if all(isinstance(messages[place], ToolMessage) for place in places):
        return f"{count:,} result{'s' * (count > 1)} without a call, left out"
    return f"{count:,} earlier message{'s' * (count > 1)}, cut by the window"


def _item(message: BaseMessage, results: Sequence[ToolMessage], *, has_call: bool) -> str:
    role = message.role if isinstance(message, ChatMessage) else message.type
    who = _text(role if message.name is None else f"{role} · {message.name}")
    kind = message.type if message.type in {"human", "ai", "system", "tool"} else "other"
    marks = [f'<span class="ttlh-chip">{_text(each)}</span>' for each in _marks(message)]
    if kind == "tool" and not has_call:
        marks.append('<span class="ttlh-chip">no call</span>')
    body = _folded(message.text)
    if isinstance(message, AIMessage):
        left = list(results)
        for call in message.tool_calls:
            result = next((each for each in left if each.tool_call_id == call["id"]), None)
            if result is not None:
                left.remove(result)
            body += _tool(call["name"], call["args"], result)
    return (
        f'<li class="ttlh-item ttlh-{kind}"><span class="ttlh-who">{who}</span>'
        f'<div class="ttlh-body">{body}{"".join(marks)}</div></li>'
    )


def _tool(name: str, args: dict[str, Any], result: ToolMessage | None) -> str:
    given = ", ".join(f"{key}={_value(value)}" for key, value in args.items())
    call = f'<div class="ttlh-call">{_folded(f"{name}({given})")}</div>'
    if result is None:
        return f'<div class="ttlh-block">{call}<div class="ttlh-result ttlh-of">no result yet</div></div>'
    marks = "".join(f'<span class="ttlh-chip">{_text(each)}</span>' for each in _marks(result))
    failed = " ttlh-failed" if result.status == "error" else ""
    return f'<div class="ttlh-block">{call}<div class="ttlh-result{failed}">{_folded(result.text)}{marks}</div></div>'


def _value(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _marks(message: BaseMessage) -> list[str]:
    """What a message holds beside its text, in a word each."""
    marks = []
    if not isinstance(message.content, str):
        kinds = [str(block.get("type", "block")) for block in message.content if isinstance(block, dict)]
        marks += [kind for kind in dict.fromkeys(kinds) if kind != "text" and kind not in _CALL_BLOCKS]
    if isinstance(message, AIMessage):
        marks += [f"unreadable call of {call['name']}" for call in message.invalid_tool_calls]
    if isinstance(message, ToolMessage):
        marks += ["error"] * (message.status == "error") + ["artifact"] * (message.artifact is not None)
    return marks


def _folded(text: str) -> str:
    """A text as a block, folded if it is long; nothing for no text."""
    if not text:
        return ""
    drawn = _text(text[:_DRAWN_CHARS])
    if len(text) > _DRAWN_CHARS:
        drawn += f'<p class="ttlh-note">{len(text) - _DRAWN_CHARS:,} more characters are not drawn here.</p>'
    if len(text) <= _FOLDED_CHARS and text.count("\n") < _FOLDED_LINES:
        return f'<div class="ttlh-text" dir="auto">{drawn}</div>'
    preview = _text(" ".join(text[: 4 * _PREVIEW].split())[:_PREVIEW])
    return (
        f'<details class="ttlh-fold"><summary><span dir="auto">{preview}…</span> '
        f'<span class="ttlh-of">{len(text):,} characters</span></summary>'
        f'<div class="ttlh-text" dir="auto">{drawn}</div></details>'
    )


def _text(text: str) -> str:
    # A lone surrogate could not be saved with the notebook.
    return escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))
