"""Results of tools that come late: they go behind their call, and not to the end, where a history adds what is said.

```text
 the conversation    q1 call q2 a2
 somebody adds       result a1 q3 a3
 in groups           result a1, which follow call; q3 a3, which go to the end
 the conversation    q1 call result a1 q2 a2 q3 a3
```
"""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_ttl_history.conversation import keyed
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.stored.names import MessageKey
from langchain_ttl_history.views import View
from langchain_ttl_history.window import answerable

__all__ = ["may_be_late", "placed"]


def may_be_late(sessions: Sessions, key: SessionKey, messages: Iterable[BaseMessage]) -> bool:
    """Whether results among these messages may belong to a call that is there, and not at the end.

    That is so for results that come first, or only behind messages that are said again, and for those whose own call is
    said again. Whether a message is said again is told by what this process remembers: what others stored is not looked
    up, since nearly all results come with a new call.
    """
    callers: dict[str | None, str] = {}
    is_first = True
    for message in messages:
        id = message.id or ""
        if not isinstance(message, ToolMessage):
            callers.update(dict.fromkeys(answerable(message), id))
            is_first = is_first and sessions.cache.may_have(key, id)
        elif message.tool_call_id not in callers:
            if is_first:
                return True
        elif sessions.cache.may_have(key, callers[message.tool_call_id]):
            return True
    return False


class _Groups:
    """Ids of messages in groups, each with the key of the message that it follows; None for the end."""

    def __init__(self) -> None:
        self._all: list[tuple[MessageKey | None, list[str]]] = [(None, [])]
        self._at = 0

    @property
    def after(self) -> MessageKey | None:
        """What the current group follows."""
        return self._all[self._at][0]

    @property
    def are_many(self) -> bool:
        """Whether anything follows something else than the end."""
        return len(self._all) > 1

    def open(self, after: MessageKey | None) -> None:
        """Begin a new group."""
        self._at = len(self._all)
        self._all.append((after, []))

    def go_to(self, after: MessageKey | None) -> None:
        """Make the group that follows this message the current one."""
        at = next((place for place, (other, _) in enumerate(self._all) if other == after), None)
        if at is None:
            self.open(after)
        else:
            self._at = at

    def add(self, id: str) -> None:
        """Add a message to the current group."""
        self._all[self._at][1].append(id)

    def used(self) -> list[tuple[MessageKey | None, list[str]]]:
        """All groups, without a first one that nothing was added to; at least one."""
        return self._all if self._all[0][1] or not self.are_many else self._all[1:]


def placed(messages: Iterable[BaseMessage], view: View) -> list[tuple[MessageKey | None, list[str]]]:
    """The ids of these messages in groups, and for each the key of the message that it follows; None for the end."""
    placing = _Placing(view)
    for message in messages:
        placing.place(message)
    return placing.groups.used()


class _Placing:
    """Puts messages into groups, one after the other.

    A late result goes to its call, and what answers it, up to the next question, with it. What is said behind a message
    that is there follows that, once anything went to its call:

    ```text
     the conversation    q1 call q2 a2
     somebody adds       result q2 more q3
     in groups           result q2, which follow call; more, which follows q2; q3, which goes to the end
     the conversation    q1 call result q2 more a2 q3
    ```
    """

    def __init__(self, view: View) -> None:
        self.groups: _Groups = _Groups()
        self._view = view
        self._here = {*keyed(view.names)}
        # By the id of a call the message of these that made it, if that is there; results of a new one stay with it.
        self._made: dict[str | None, MessageKey] = {}
        # As long as nothing new was said but results, those of other calls are late as well.
        self._is_first = True
        # What the next new message is said behind, if it is to follow that.
        self._behind: MessageKey | None = None

    def place(self, message: BaseMessage) -> None:
        """Put a message into its group."""
        id = MessageKey(message.id or "")
        is_there = id in self._here
        if not isinstance(message, ToolMessage):
            self._is_first = self._is_first and is_there
            for call in answerable(message):
                self._made.pop(call, None)
                if is_there:
                    self._made[call] = id
        if is_there:  # What is there stays in its place, and places nothing.
            self._behind = id if self.groups.are_many else None
        else:
            self._go_to_group_of(message)
        self.groups.add(id)

    def _go_to_group_of(self, message: BaseMessage) -> None:
        """Make the group current that a new message goes to; most stay with the one before."""
        behind, self._behind = self._behind, None
        if isinstance(message, ToolMessage) and (self._is_first or message.tool_call_id in self._made):
            self.groups.go_to(_caller(message, self._view, self._made.get(message.tool_call_id)))
        elif isinstance(message, (HumanMessage, SystemMessage)):
            if behind is not None or self.groups.after is not None:
                self.groups.open(None)
        elif behind is not None:
            self.groups.open(behind)


def _caller(result: ToolMessage, view: View, caller: MessageKey | None) -> MessageKey | None:
    """The key of the message that a tool's result follows: its call, or the last result of that call so far.

    Args:
        result: The result.
        view: The conversation.
        caller: The key of the message that made the call, if that is known; else it is the newest with a call of this
            id, since models use their ids again.
    """
    found: MessageKey | None = None
    in_group = False
    for name, key in zip(view.names, keyed(view.names), strict=True):
        message = view.messages[name]
        made_it = result.tool_call_id in answerable(message) and caller in (None, key)
        in_group = made_it or (in_group and isinstance(message, ToolMessage))
        if in_group:
            found = key
    return found
