"""A conversation as HTML: what was said escaped, long texts folded, a tool call and its result as one block.

`timeline` draws a list of which neighbours in the same state are drawn together:

```text
 > 12 earlier messages, cut by the window       folded
   human  How warm is it?                       shown
   ai     [weather(city="Rome")  no result yet] waiting, under a note
```

What else is here, such as `marks` and `escaped`, is so because `display` and the command show messages in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from html import escape
from itertools import groupby
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolCall, ToolMessage

from langchain_ttl_history.errors import printable
from langchain_ttl_history.window import callers, calls_with_results, results_by_caller

__all__ = ["counted", "escaped", "marks", "spelled_value", "timeline"]

# Longer text is folded, with this much of it in view.
_FOLDED_CHARS = 600
_FOLDED_LINES = 12
_PREVIEW = 160
# A card shows a session; it does not export it.
_DRAWN_CHARS = 20_000
_DRAWN_MESSAGES = 200

# Control codes by how they are spelled: a page that is copied or converted takes them to a terminal. What else is not
# printable is kept, for it joins letters and emoji.
_SPELLED = {code: printable(chr(code), "\t\n\r") for code in (*range(0x20), *range(0x7F, 0xA0))}

# Blocks of content that say again what `tool_calls` says.
_ALREADY_DRAWN = frozenset({"tool_use", "tool_call", "tool_call_chunk", "function_call", "invalid_tool_call"})


def timeline(messages: Sequence[BaseMessage], shown: AbstractSet[int], waiting: AbstractSet[int]) -> str:
    """The messages as a list, oldest first; a result stands beneath its call.

    Args:
        messages: All that is still held.
        shown: The positions of those within the window.
        waiting: The positions of a group of tool calls that waits for results.
    """
    caller_of, results_of = callers(messages), results_by_caller(messages)
    first_drawn = max(0, len(messages) - _DRAWN_MESSAGES)
    # A result stands beneath its call; one without a call, or whose call is not drawn, stands alone.
    places = [place for place in range(first_drawn, len(messages)) if caller_of.get(place, -1) < first_drawn]

    def state(place: int) -> str:
        return "shown" if place in shown else "waiting" if place in waiting else "cut"

    parts = []
    if first_drawn:
        parts.append(f'<li class="ttlh-note">{first_drawn:,} earlier messages are not drawn here.</li>')
    if not messages:
        parts.append('<li class="ttlh-note">Nothing has been said yet.</li>')
    for common_state, neighbours in groupby(places, state):
        group = list(neighbours)
        items = "".join(
            _item(messages[place], results_of.get(place, ()), has_call=place in caller_of) for place in group
        )
        if common_state == "cut":
            summary = _summary_of_cut(messages, group, results_of)
            items = f"<li><details><summary>{summary}</summary><ol>{items}</ol></details></li>"
        elif common_state == "waiting":
            items = f'<li class="ttlh-note">Waits for a result; not in the window yet:</li>{items}'
        parts.append(items)
    return f'<ol class="ttlh-line">{"".join(parts)}</ol>'


def _summary_of_cut(
    messages: Sequence[BaseMessage], places: Sequence[int], results_of: dict[int, list[ToolMessage]]
) -> str:
    """What a folded group of messages is that the window does not show, in a line."""
    count = sum(1 + len(results_of.get(place, ())) for place in places)
    if all(isinstance(messages[place], ToolMessage) for place in places):
        return f"{counted(count, 'result')} without a call, left out"
    return f"{counted(count, 'earlier message')}, cut by the window"


def _item(message: BaseMessage, results: Sequence[ToolMessage], *, has_call: bool) -> str:
    """A message with what it called, as an item of the list.

    Args:
        message: The message.
        results: Those of its calls.
        has_call: Whether it is itself the result of a call.
    """
    role = message.role if isinstance(message, ChatMessage) else message.type
    who = escaped(role if message.name is None else f"{role} · {message.name}")
    kind = message.type if message.type in {"human", "ai", "system", "tool"} else "other"
    chips = [_chip(each) for each in marks(message)]
    if kind == "tool" and not has_call:
        chips.append(_chip("no call"))
    body = _folded(message.text)
    if isinstance(message, AIMessage):
        for call, result in calls_with_results(message, results):
            body += _call_with_result(call, result)
    return (
        f'<li class="ttlh-item ttlh-{kind}"><span class="ttlh-who">{who}</span>'
        f'<div class="ttlh-body">{body}{"".join(chips)}</div></li>'
    )


def _call_with_result(call: ToolCall | None, result: ToolMessage | None) -> str:
    """A call, and beneath it its result, as a block; None for a call that is content, which its message shows."""
    above, below = "", '<div class="ttlh-result ttlh-of">no result yet</div>'
    if call is not None:
        given = ", ".join(f"{key}={spelled_value(value)}" for key, value in call["args"].items())
        name = call["name"]
        above = f'<div class="ttlh-call">{_folded(f"{name}({given})")}</div>'
    if result is not None:
        chips = "".join(_chip(each) for each in marks(result))
        failed = " ttlh-failed" if result.status == "error" else ""
        below = f'<div class="ttlh-result{failed}">{_folded(result.text)}{chips}</div>'
    return f'<div class="ttlh-block">{above}{below}</div>'


def spelled_value(value: Any) -> str:
    """A value on one line: JSON, or how Python writes it if it is none."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _chip(mark: str) -> str:
    """A mark in a frame."""
    return f'<span class="ttlh-chip">{escaped(mark)}</span>'


def marks(message: BaseMessage) -> list[str]:
    """What a message holds beside its text and its calls, in a word each."""
    found = []
    if not isinstance(message.content, str):
        kinds = [str(block.get("type", "block")) for block in message.content if isinstance(block, dict)]
        found += [kind for kind in dict.fromkeys(kinds) if kind != "text" and kind not in _ALREADY_DRAWN]
    if isinstance(message, AIMessage):
        found += [f"unreadable call of {call['name']}" for call in message.invalid_tool_calls]
    if isinstance(message, ToolMessage):
        if message.status == "error":
            found.append("error")
        if message.artifact is not None:
            found.append("artifact")
    return found


def _folded(text: str) -> str:
    """A text as a block, folded if it is long; nothing for no text."""
    if not text:
        return ""
    drawn = escaped(text[:_DRAWN_CHARS])
    if len(text) > _DRAWN_CHARS:
        drawn += f'<p class="ttlh-note">{len(text) - _DRAWN_CHARS:,} more characters are not drawn here.</p>'
    if len(text) <= _FOLDED_CHARS and text.count("\n") < _FOLDED_LINES:
        return f'<div class="ttlh-text" dir="auto">{drawn}</div>'
    preview = escaped(" ".join(text[: 4 * _PREVIEW].split())[:_PREVIEW])
    return (
        f'<details class="ttlh-fold"><summary><span dir="auto">{preview}…</span> '
        f'<span class="ttlh-of">{len(text):,} characters</span></summary>'
        f'<div class="ttlh-text" dir="auto">{drawn}</div></details>'
    )


def counted(count: int, what: str) -> str:
    """So many of something, for people."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def escaped(text: str) -> str:
    """A text that HTML shows as it is."""
    # A lone surrogate could not be saved with the notebook.
    return escape(text.encode("utf-8", "backslashreplace").decode("utf-8").translate(_SPELLED))
