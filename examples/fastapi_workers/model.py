"""What the service needs without an API key: a chat model that streams, and the tool it calls."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain.chat_models import init_chat_model
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool

ORDERS = {"1001": "was shipped on Monday", "1002": "is being packed", "1003": "was delivered yesterday"}


@tool
def find_order(number: str) -> str:
    """Find out where an order is, for example order "1001"."""
    return json.dumps({"order": number, "status": ORDERS.get(number, "is not known")})


def chat_model() -> BaseChatModel:
    """The model that ``CHAT_MODEL`` names, ``openai:gpt-5-mini`` say; without it the scripted one."""
    name = os.environ.get("CHAT_MODEL")
    return init_chat_model(name) if name else ScriptedModel(pace=float(os.environ.get("CHAT_PACE", "0")))


class ScriptedModel(BaseChatModel):
    """A stand-in for a chat model: it answers from the messages it is given, and from them alone."""

    pace: float = 0.0
    """Seconds between two words of an answer."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Let it call these tools."""
        return self.bind(tools=[each.name for each in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=answer(messages))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        said = answer(messages)
        for call in said.tool_calls:
            chunk = tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=0)
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[chunk]))
        for word in re.findall(r"\S+\s*", said.text):
            await asyncio.sleep(self.pace)
            part = ChatGenerationChunk(message=AIMessageChunk(content=word))
            if run_manager is not None:
                await run_manager.on_llm_new_token(word, chunk=part)
            yield part


def answer(messages: Sequence[BaseMessage]) -> AIMessage:
    """What a helpful model would say next, knowing only these messages."""
    questions = [message.text for message in messages if isinstance(message, HumanMessage)]
    events = [message.text for message in messages if isinstance(message, SystemMessage)]
    results = [each for each in messages if isinstance(each, ToolMessage) and each.status == "success"]
    found = [json.loads(result.text) for result in results]
    known = {each["order"]: each["status"] for each in found}
    if isinstance(messages[-1], ToolMessage) and messages[-1].status == "error":
        return AIMessage("I could not find that out.")
    asked = re.search(r"\d{4}", questions[-1])
    if asked and asked[0] not in known:
        call = {"name": "find_order", "args": {"number": asked[0]}, "id": f"call_{len(messages)}"}
        return AIMessage("", tool_calls=[call])
    if asked:
        return AIMessage(f"Order {asked[0]} {known[asked[0]]}.")
    if "event" in questions[-1] and events:
        return AIMessage(f"The last thing I was told: {events[-1]}.")
    return AIMessage(f"You said so far: {'; '.join(questions)}.")
