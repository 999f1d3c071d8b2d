"""The window of a conversation by the rules of P2, read off its text: slow, and written apart from the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

__all__ = ["expected_places", "expected_window", "owners"]

Fits = Callable[[Sequence[BaseMessage]], bool]


def _call_ids(message: BaseMessage) -> list[str | None]:
    """The calls of a message that a result may answer: parsed, unparsable, or a provider's own in the content."""
    if not isinstance(message, AIMessage):
        return []
    blocks = [each for each in message.content if isinstance(each, dict)]
    blocks += [each["value"] for each in blocks if each.get("type") == "non_standard"]
    ids = [call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls)]
    return ids + [block["call_id"] for block in blocks if "call_id" in block]


def owners(conversation: Sequence[BaseMessage]) -> dict[int, int | None]:
    """For each result the place of the call it answers; None where it answers none."""
    found: dict[int, int | None] = {}
    answered: set[tuple[int, str]] = set()
    for place, message in enumerate(conversation):
        if not isinstance(message, ToolMessage):
            continue
        made = [earlier for earlier in range(place) if message.tool_call_id in _call_ids(conversation[earlier])]
        nearest = made[-1] if made else None
        if nearest is None or (nearest, message.tool_call_id) in answered:
            found[place] = None
        else:
            answered.add((nearest, message.tool_call_id))
            found[place] = nearest
    return found


def expected_window(conversation: Sequence[BaseMessage], fits: Fits) -> list[BaseMessage]:
    """What P2 says is to be seen of a conversation."""
    return [conversation[place] for place in expected_places(conversation, fits)]


def expected_places(conversation: Sequence[BaseMessage], fits: Fits) -> list[int]:
    """The places of the messages that P2 says are to be seen."""
    owned = owners(conversation)
    shown = [place for place in range(len(conversation)) if owned.get(place, place) is not None]

    def all_fit(places: Sequence[int]) -> bool:
        return fits([conversation[place] for place in places])

    if not shown or all_fit(shown):
        return shown

    def separates(cut: int) -> bool:
        return any(call < cut <= place for place, call in owned.items() if call is not None)

    cuts = [at for at, place in enumerate(shown) if not separates(place)]
    at_human = [at for at in cuts if isinstance(conversation[shown[at]], HumanMessage)]
    for at in at_human:
        if all_fit(shown[at:]):
            return shown[at:]
    opening = [shown[at_human[-1]]] if at_human else []
    groups = [at for at in cuts if not at_human or at > at_human[-1]]
    for at in groups:
        if all_fit(opening + shown[at:]):
            return opening + shown[at:]
    return opening + shown[groups[-1] :] if groups else opening
