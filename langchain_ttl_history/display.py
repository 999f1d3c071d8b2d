"""How sessions look in a notebook: HTML made of plain values.

Everything that was said is escaped. There is no script and nothing remote, the style sheet stands in
the output itself, and without it (GitHub shows none) the lists and foldings still read well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

from langchain_core.messages import BaseMessage

from langchain_ttl_history.retention import Retention
from langchain_ttl_history.timeline import escaped, timeline

__all__ = [
    "Facts",
    "Portrait",
    "amount",
    "buffer_card",
    "history_card",
    "info_card",
    "moment",
    "seconds_left",
    "span",
]

T = TypeVar("T")


class Facts(Protocol):
    """What a card tells of a session: a `SessionInfo`."""

    @property
    def user_id(self) -> str: ...  # noqa: D102  # see SessionInfo
    @property
    def session_id(self) -> str: ...  # noqa: D102  # see SessionInfo
    @property
    def messages(self) -> int: ...  # noqa: D102  # see SessionInfo
    @property
    def checkpoints(self) -> int: ...  # noqa: D102  # see SessionInfo
    @property
    def bytes(self) -> int: ...  # noqa: D102  # see SessionInfo
    @property
    def created_at(self) -> datetime: ...  # noqa: D102  # see SessionInfo
    @property
    def last_used_at(self) -> datetime: ...  # noqa: D102  # see SessionInfo
    @property
    def expires_at(self) -> datetime | None: ...  # noqa: D102  # see SessionInfo
    @property
    def read_at(self) -> datetime | None: ...  # noqa: D102  # see SessionInfo


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
        _left_fact(facts),
    ]
    conversation = timeline(portrait.messages, portrait.shown, portrait.waiting)
    return _card(_title(user_id, session_id), _facts(rows), conversation)


def info_card(facts: Facts) -> str:
    """A session's metadata as a card."""
    rows = [
        _fact("messages", f"{facts.messages:,}"),
        _fact("checkpoints", f"{facts.checkpoints:,}"),
        _fact("size", amount(facts.bytes)),
        _fact("created", moment(facts.created_at)),
        _fact("last used", moment(facts.last_used_at)),
        _left_fact(facts),
    ]
    return _card(_title(facts.user_id, facts.session_id), _facts(rows))


def buffer_card(
    storage: str,
    retention: Retention,
    sessions: int,
    used: int,
    some: Sequence[Facts],
    unread: Sequence[Exception],
    *,
    more: bool,
) -> str:
    """A buffer: its policy, how much it holds, and some of its sessions.

    Args:
        storage: How the storage calls itself.
        retention: The policy.
        sessions: How many sessions the storage holds.
        used: How many bytes they hold.
        some: Those listed.
        unread: The errors of those that cannot be read.
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
    heads = "".join(f"<th>{each}</th>" for each in ("user", "session", "messages", "checkpoints", "size", "time left"))
    lines = [
        f"<tr><td dir='auto'>{escaped(each.user_id)}</td><td dir='auto'>{escaped(each.session_id)}</td>"
        f"<td>{each.messages:,}</td><td>{each.checkpoints:,}</td><td>{amount(each.bytes)}</td>"
        f"<td>{_left(each)}</td></tr>"
        for each in some
    ]
    table = f'<table class="ttlh-table"><tr>{heads}</tr>{"".join(lines)}</table>' if lines else ""
    rest = '<p class="ttlh-note">Those used longest ago; there are others.</p>' if more else ""
    failed = [f'<p class="ttlh-note">{escaped(str(error))}</p>' for error in unread]
    return _card(f"<b>SessionBuffer</b> on <code>{escaped(storage)}</code>", _facts(rows), table, rest, *failed)


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


def moment(time: datetime) -> str:
    """A time in UTC, for people."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def seconds_left(facts: Facts, expires_at: datetime) -> float:
    """How many seconds a session had left when it was read, until the time at which it expires."""
    return max(0.0, (expires_at - (facts.read_at or facts.last_used_at)).total_seconds())


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
        f'<span class="ttlh-of">user</span> <b dir="auto">{escaped(user_id)}</b> '
        f'<span class="ttlh-of">session</span> <b dir="auto">{escaped(session_id)}</b>'
    )


def _facts(rows: Iterable[str]) -> str:
    return f'<ul class="ttlh-facts">{"".join(rows)}</ul>'


def _fact(name: str, value: str, aside: object = None) -> str:
    beside = f' <span class="ttlh-of">{aside}</span>' if aside else ""
    return f'<li><span class="ttlh-of">{name}</span> <b>{value}</b>{beside}</li>'


def _left_fact(facts: Facts) -> str:
    return f'<li><span class="ttlh-of">time left</span> {_left(facts)}</li>'


def _left(facts: Facts) -> str:
    if facts.expires_at is None:
        return "<b>no end</b>"
    left = seconds_left(facts, facts.expires_at)
    whole = (facts.expires_at - facts.last_used_at).total_seconds()
    part = round(100 * min(1.0, left / whole)) if whole > 0 else 0
    low = " ttlh-low" if part <= 20 else ""
    return f'<b>{span(left)}</b> <span class="ttlh-bar{low}"><span style="width:{part}%"></span></span>'


def _bound(value: T | None, form: Callable[[T], str]) -> str:
    return "" if value is None else form(value)
