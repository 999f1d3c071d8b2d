"""The window of a conversation by the rules of P2, read off its text: slow, and written apart from the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

__all__ = ["expected_window", "owners"]

Fits = Callable[[Sequence[BaseMessage]], bool]


def owners(conversation: Sequence[BaseMessage]) -> dict[int, int | None]:
    """For each result the place of the call it answers; None where it answers none."""
    found: dict[int, int | None] = {}
    answered: set[tuple[int, str]] = set()
    for place, message in enumerate(conversation):
        if not isinstance(message, ToolMessage):
            continue
        made = [
            earlier
            for earlier in range(place)
            if isinstance(caller := conversation[earlier], AIMessage)
            and message.tool_call_id in [call["id"] for call in caller.tool_calls]
        ]
        nearest = made[-1] if made else None
        if nearest is None or (nearest, message.tool_call_id) in answered:
            found[place] = None
        else:
            answered.add((nearest, message.tool_call_id))
            found[place] = nearest
    return found


def expected_window(conversation: Sequence[BaseMessage], fits: Fits) -> list[BaseMessage]:
    """What P2 says is to be seen of a conversation."""
    stray = {place for place, owner in owners(conversation).items() if owner is None}
    shown = [message for place, message in enumerate(conversation) if place not in stray]
    if not shown or fits(shown):
        return shown
    spans = [(call, place) for place, call in owners(shown).items() if call is not None]

    def separates(cut: int) -> bool:
        return any(call < cut <= place for call, place in spans)

    cuts = [cut for cut in range(len(shown)) if not separates(cut)]
    at_human = [cut for cut in cuts if isinstance(shown[cut], HumanMessage)]
    for cut in at_human:
        if fits(shown[cut:]):
            return shown[cut:]
    opening = [shown[at_human[-1]]] if at_human else []
    groups = [cut for cut in cuts if not at_human or cut > at_human[-1]]
    for cut in groups:
        if fits(opening + shown[cut:]):
            return opening + shown[cut:]
    return opening + shown[groups[-1] :] if groups else opening
