"""What a valid chat and its window are, written a second time from the promises alone.

Nothing here imports the package: these are the judges of what it returns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

Said = tuple[str, ...]
"""What one message says, without its id: type, content and, as JSON, calls or the call it answers."""


def said(messages: Iterable[BaseMessage]) -> list[Said]:
    """What each message says, so that copies with other ids compare equal."""
    return [_said(message) for message in messages]


def _said(message: BaseMessage) -> Said:
    content = message.content if isinstance(message.content, str) else json.dumps(message.content)
    if isinstance(message, AIMessage):
        calls = [(call["id"], call["name"], call["args"]) for call in message.tool_calls]
        return message.type, content, json.dumps(calls, sort_keys=True)
    if isinstance(message, ToolMessage):
        return message.type, content, message.tool_call_id, message.name or "", message.status
    return message.type, content


def complaints(messages: Sequence[BaseMessage]) -> list[str]:
    """Everything that makes these messages unfit as a chat model's input; empty when they are a valid chat."""
    found: list[str] = []
    open_calls: list[str | None] = []
    for position, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            if message.tool_call_id in open_calls:
                open_calls.remove(message.tool_call_id)
            else:
                found.append(f"message {position} is the result of no open call: {message.tool_call_id}")
            continue
        if open_calls:
            found.append(f"message {position} ({message.type}) comes before the results of {open_calls}")
        open_calls = [call["id"] for call in message.tool_calls] if isinstance(message, AIMessage) else []
    if open_calls:
        found.append(f"the last call has no result: {open_calls}")
    return found


def window(messages: Sequence[BaseMessage], cap: int) -> list[BaseMessage]:
    """The window of a valid chat under ``max_messages=cap``."""
    if len(messages) <= cap:
        return list(messages)
    humans = [position for position, message in enumerate(messages) if isinstance(message, HumanMessage)]
    for position in humans:
        if len(messages) - position <= cap:
            return list(messages[position:])
    opening = list(messages[humans[-1] : humans[-1] + 1]) if humans else []
    rest = messages[humans[-1] + 1 :] if humans else messages
    kept: list[BaseMessage] = []
    for group in reversed(_groups(rest)):
        if kept and len(opening) + len(group) + len(kept) > cap:
            break
        kept = group + kept
    return opening + kept


def _groups(messages: Iterable[BaseMessage]) -> list[list[BaseMessage]]:
    """The messages in groups that stay together: a call with its results, any other message alone."""
    groups: list[list[BaseMessage]] = []
    for message in messages:
        if isinstance(message, ToolMessage):
            groups[-1].append(message)
        else:
            groups.append([message])
    return groups


class Expected:
    """The windows a session may show after what was said so far.

    Usually there is exactly one. A turn that was alone over the cap is shown reduced; whether its remnant or the whole
    of it stands before the next turn is left open by the promise, and that can move the next cut.
    """

    def __init__(self, cap: int, name: str = "the session") -> None:
        self.cap = cap
        self.name = name
        self.everything: list[BaseMessage] = []
        self.windows: list[list[BaseMessage]] = [[]]

    def add(self, messages: Sequence[BaseMessage]) -> None:
        """Note that these messages were said, in one piece."""
        kept = [[*before, *messages] for before in [self.everything, *self.windows]]
        self.everything = kept[0]
        self.windows = []
        for candidate in kept:
            cut = window(candidate, self.cap)
            if said(cut) not in map(said, self.windows):
                self.windows.append(cut)

    def refusal(self, shown: Sequence[BaseMessage], since: Sequence[BaseMessage] = ()) -> str | None:
        """Why ``shown`` is none of the windows followed by ``since``; ``None`` when it is one."""
        wanted = [said([*expected, *since]) for expected in self.windows]
        got = said(shown)
        if got in wanted:
            return None
        sizes = " or ".join(str(len(each)) for each in wanted)
        lines = [f"{self.name}, cap {self.cap}: {len(got)} messages shown, {sizes} expected"]
        lines += [f"  shown    {_brief(got)}", *(f"  expected {_brief(each)}" for each in wanted)]
        return "\n".join(lines)


def _brief(messages: Sequence[Said]) -> str:
    return " ".join(f"{message[0]}:{message[1][:12]}" for message in messages)
