"""A conversation as a script: a chat model and tools that say exactly what is written for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.base import BaseCheckpointSaver

from tests.replay.chat import Expected, complaints, said
from tests.shared.models import AnsweringModel


@dataclass(frozen=True)
class Step:
    """One answer of the chat model and the results of the calls in it, in the order of the calls."""

    answer: AIMessage
    results: tuple[ToolMessage, ...] = ()


@dataclass(frozen=True)
class Turn:
    """What the human says and all that follows until the model has answered without a call."""

    human: HumanMessage
    steps: tuple[Step, ...]

    def opening(self) -> list[BaseMessage]:
        """What opens the turn, as a new object: LangGraph writes the message's id on the one it is given."""
        return [self.human.model_copy()]

    def messages(self, steps: int | None = None) -> list[BaseMessage]:
        """The turn's messages, or those of its first ``steps`` steps."""
        messages: list[BaseMessage] = [self.human]
        for step in self.steps[:steps]:
            messages += [step.answer, *step.results]
        return messages


@dataclass(frozen=True)
class Conversation:
    """A system message and turns."""

    name: str
    system: str
    turns: tuple[Turn, ...]

    def tools(self) -> set[str]:
        """The names of the tools that are called."""
        return {result.name or "" for turn in self.turns for step in turn.steps for result in step.results}


class Stage:
    """One turn being played: hands out its lines and checks what the model is shown."""

    def __init__(self, turn: Turn, expected: Expected) -> None:
        self._turn = turn
        self._expected = expected
        self._played = 0

    def answer(self, shown: Sequence[BaseMessage]) -> AIMessage:
        """The model's next line, once its input is seen to be a valid chat with nothing missing in it."""
        assert complaints(shown) == [], said(shown)
        refusal = self._expected.refusal(shown, since=self._turn.messages(self._played))
        assert refusal is None, refusal
        step = self._turn.steps[self._played]
        self._played += 1
        return step.answer.model_copy(deep=True)

    def result(self, name: str, args: dict[str, Any]) -> str:
        """What the tool called last by this name and with these arguments is written to return."""
        step = self._turn.steps[self._played - 1]
        (content,) = {
            str(result.content)
            for call, result in zip(step.answer.tool_calls, step.results, strict=True)
            if (call["name"], call["args"]) == (name, args)
        }
        return content

    def close(self) -> None:
        """Check that the whole turn was played."""
        assert self._played == len(self._turn.steps), f"{self._played} of {len(self._turn.steps)} steps were played"


_stage: ContextVar[Stage] = ContextVar("stage")


@contextmanager
def playing(turn: Turn, expected: Expected) -> Iterator[None]:
    """Play this turn inside the block; afterwards it counts as said."""
    stage = Stage(turn, expected)
    token = _stage.set(stage)
    try:
        yield
    finally:
        _stage.reset(token)
    stage.close()
    expected.add(turn.messages())


def scripted_model() -> BaseChatModel:
    """A model that answers with the next line of the turn being played."""
    return AnsweringModel(answer=lambda messages: _stage.get().answer(messages))


def scripted_tool(name: str) -> BaseTool:
    """A tool that returns what is written for its call."""

    def call(**args: Any) -> str:
        return _stage.get().result(name, args)

    async def acall(**args: Any) -> str:
        return call(**args)

    schema = {"type": "object", "properties": {}}
    return StructuredTool(name=name, description="Scripted.", args_schema=schema, func=call, coroutine=acall)


def scripted_agent(tools: set[str], saver: BaseCheckpointSaver[Any]) -> Any:
    """An agent that plays any conversation with these tools."""
    return create_agent(scripted_model(), [scripted_tool(name) for name in sorted(tools)], checkpointer=saver)


def scripted_chain(tools: set[str]) -> Runnable[list[BaseMessage], list[BaseMessage]]:
    """A chain that is the whole loop of model and tools itself and returns what was said in it."""
    model = scripted_model()
    by_name = {name: scripted_tool(name) for name in tools}

    def loop(messages: list[BaseMessage]) -> list[BaseMessage]:
        new: list[BaseMessage] = [model.invoke([*messages])]
        while calls := _calls(new[-1]):
            new += [by_name[call["name"]].invoke({**call, "type": "tool_call"}) for call in calls]
            new.append(model.invoke([*messages, *new]))
        return new

    async def aloop(messages: list[BaseMessage]) -> list[BaseMessage]:
        new: list[BaseMessage] = [await model.ainvoke([*messages])]
        while calls := _calls(new[-1]):
            new += [await by_name[call["name"]].ainvoke({**call, "type": "tool_call"}) for call in calls]
            new.append(await model.ainvoke([*messages, *new]))
        return new

    return RunnableLambda(loop, aloop)


def _calls(message: BaseMessage) -> list[ToolCall]:
    return message.tool_calls if isinstance(message, AIMessage) else []
