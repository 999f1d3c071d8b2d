"""Chat models that answer from a script."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable


def echo(messages: Sequence[BaseMessage]) -> AIMessage:
    """Answer the last human message, or the last tool result."""
    if messages and isinstance(messages[-1], ToolMessage):
        return AIMessage(f"answer: {messages[-1].content}")
    return AIMessage(f"re: {last_question(messages)}")


def last_question(messages: Sequence[BaseMessage]) -> str:
    return next((str(m.content) for m in reversed(messages) if isinstance(m, HumanMessage)), "")


_call_ids = itertools.count(1)


def tool_user(messages: Sequence[BaseMessage]) -> AIMessage:
    """As `echo`, but "look up a, b" makes parallel tool calls and "research a, b" serial ones."""
    question = last_question(messages)
    if question.startswith("look up ") and isinstance(messages[-1], HumanMessage | SystemMessage):
        things = question.removeprefix("look up ").split(", ")
        return AIMessage("", tool_calls=[lookup_call(thing) for thing in things])
    if question.startswith("research "):
        things = question.removeprefix("research ").split(", ")
        opened = max(i for i, m in enumerate(messages) if isinstance(m, HumanMessage))
        done = sum(isinstance(m, ToolMessage) for m in messages[opened:])
        if done < len(things):
            return AIMessage("", tool_calls=[lookup_call(things[done])])
    return echo(messages)


def lookup_call(thing: str, call_id: str | None = None) -> dict[str, Any]:
    return {
        "name": "lookup",
        "args": {"thing": thing},
        "id": call_id or f"call_{next(_call_ids)}",
        "type": "tool_call",
    }


class AnsweringModel(BaseChatModel):
    """A chat model whose answers are a function of its input."""

    answer: Callable[[Sequence[BaseMessage]], AIMessage] = tool_user

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[Any, Any]:
        return self

    def _reply(self, messages: Sequence[BaseMessage]) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer(messages))])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._reply(messages)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._reply(messages)


class ScriptedModel(AnsweringModel):
    """One that keeps every input it was given, and may be stopped at gates."""

    inputs: list[list[BaseMessage]] = []
    gates: dict[str, Any] = {}
    """The gate at which the turn that asked this question stops."""

    def model_post_init(self, context: Any, /) -> None:
        self.inputs = []
        self.gates = dict(self.gates)
        super().model_post_init(context)

    def _reply(self, messages: Sequence[BaseMessage]) -> ChatResult:
        self.inputs.append([message.model_copy() for message in messages])
        return super()._reply(messages)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        if gate := self.gates.get(last_question(messages)):
            gate.stop()
        return self._reply(messages)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        if gate := self.gates.get(last_question(messages)):
            await gate.astop()
        return self._reply(messages)


class StreamingModel(ScriptedModel):
    """A scripted model that streams its answer word by word."""

    def _chunks(self, messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk]:
        text = str(self._reply(messages).generations[0].message.content)
        for word in text.split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word + " "))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages):
            if run_manager:
                run_manager.on_llm_new_token(str(chunk.message.content), chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages):
            if run_manager:
                await run_manager.on_llm_new_token(str(chunk.message.content), chunk=chunk)
            yield chunk
