"""What the tests share: a clock, scripted models, real tools, gates and one interface over both colours."""

from __future__ import annotations

import asyncio
import itertools
import operator
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

from langchain.agents import create_agent
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
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

from langchain_ttl_history import SessionBuffer, TTLChatMessageHistory

PATIENCE = 60.0
"""Seconds after which a test that waits for another turn gives up."""

GRAPH_KINDS = ("agent", "state_graph", "delta")


class Gate:
    """A point where a running turn stops until the test lets it go on; made inside a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._released = asyncio.Event()
        self._released_for_threads = threading.Event()

    async def reached(self) -> None:
        """Return when a turn stands at the gate."""
        await asyncio.wait_for(self._reached.wait(), PATIENCE)

    def release(self) -> None:
        self._released_for_threads.set()
        self._released.set()

    def stop(self) -> None:
        """Stand at the gate, in a thread."""
        self._loop.call_soon_threadsafe(self._reached.set)
        if not self._released_for_threads.wait(PATIENCE):
            raise TimeoutError("nobody released the gate")

    async def astop(self) -> None:
        """Stand at the gate, in the loop."""
        self._reached.set()
        await asyncio.wait_for(self._released.wait(), PATIENCE)


class Colour:
    """One async interface over the sync and the async variant of a method."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_async = name == "async"

    async def call(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call `owner.method`, in a thread, or await `owner.amethod`."""
        if self.is_async:
            return await getattr(owner, "a" + method)(*args, **kwargs)
        return await asyncio.to_thread(getattr(owner, method), *args, **kwargs)

    async def collect(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Everything that `owner.method` or `owner.amethod` yields."""
        if self.is_async:
            return [each async for each in getattr(owner, "a" + method)(*args, **kwargs)]
        return await asyncio.to_thread(lambda: list(getattr(owner, method)(*args, **kwargs)))


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


class ScriptedModel(BaseChatModel):
    """A chat model whose answers are a function of its input; it keeps every input it was given."""

    answer: Callable[[Sequence[BaseMessage]], AIMessage] = tool_user
    inputs: list[list[BaseMessage]] = []
    gates: dict[str, Any] = {}
    """The gate at which the turn that asked this question stops."""

    def model_post_init(self, context: Any, /) -> None:
        self.inputs = []
        self.gates = dict(self.gates)
        super().model_post_init(context)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[Any, Any]:
        return self

    def _reply(self, messages: Sequence[BaseMessage]) -> ChatResult:
        self.inputs.append([message.model_copy() for message in messages])
        return ChatResult(generations=[ChatGeneration(message=self.answer(messages))])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if gate := self.gates.get(last_question(messages)):
            gate.stop()
        return self._reply(messages)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
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


class _Lookup(BaseModel):
    thing: str


@dataclass
class Tools:
    """A real tool, `lookup`, that can be stopped at a gate per thing and counts its calls."""

    gates: dict[str, Gate] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[BaseTool]:
        def lookup(thing: str) -> str:
            """Look a thing up."""
            if gate := self.gates.get(thing):
                gate.stop()
            self.looked_up.append(thing)
            return f"facts about {thing}"

        async def alookup(thing: str) -> str:
            """Look a thing up."""
            if gate := self.gates.get(thing):
                await gate.astop()
            self.looked_up.append(thing)
            return f"facts about {thing}"

        # Without a schema, one would be made for each tool, which takes longer than many a test.
        return [StructuredTool.from_function(lookup, coroutine=alookup, name="lookup", args_schema=_Lookup)]


class DeltaState(TypedDict):
    """A conversation kept in a channel of deltas, with a snapshot now and then."""

    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=4)]


class Desk(MessagesState):
    """A state as a deep agent's, whose files are no part of the conversation."""

    files: Annotated[list[str], DeltaChannel(lambda state, writes: [*(state or []), *(x for w in writes for x in w)])]


class Appending(TypedDict):
    """A conversation whose messages get no ids from the graph."""

    messages: Annotated[list[Any], operator.add]


def build_graph(
    kind: str,
    checkpointer: Any,
    model: BaseChatModel | None = None,
    tools: Sequence[BaseTool] | None = None,
    **compile_options: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A tool-calling agent: LangChain's own, or a graph over a plain, an appending or a delta channel."""
    chat_model = model or ScriptedModel()
    all_tools = Tools().all if tools is None else tools
    if kind == "agent":
        return create_agent(chat_model, list(all_tools), checkpointer=checkpointer)

    def ask(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [chat_model.invoke(state["messages"])]}

    async def aask(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [await chat_model.ainvoke(state["messages"])]}

    def after_model(state: dict[str, Any]) -> Literal["tools", "__end__"]:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else "__end__"

    schema: Any = {"delta": DeltaState, "appending": Appending}.get(kind, MessagesState)
    graph = StateGraph(schema)
    graph.add_node("model", RunnableLambda(ask, aask))
    graph.add_node("tools", ToolNode(list(all_tools)))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", after_model, {"tools": "tools", "__end__": END})
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=checkpointer, **compile_options)


def agent(buffer: SessionBuffer) -> Any:
    """A turn of four messages in five steps."""

    def model(state: MessagesState) -> dict[str, Any]:
        if isinstance(state["messages"][-1], HumanMessage):
            return {"messages": [AIMessage("", tool_calls=[{"id": "c", "name": "look", "args": {}}])]}
        return {"messages": [AIMessage("done")]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tool", lambda state: {"messages": [ToolMessage("found", tool_call_id="c")]})
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tool" if state["messages"][-1].tool_calls else END)
    graph.add_edge("tool", "model")
    return graph.compile(checkpointer=buffer.checkpointer())


def build_chain(
    buffer: SessionBuffer, model: BaseChatModel | None = None, *, style: str = "keyed"
) -> Runnable[Any, Any]:
    """A `RunnableWithMessageHistory` around a prompt ("keyed") or a bare model ("sliced")."""
    chat_model = model or ScriptedModel(answer=echo)
    options: dict[str, Any] = {"history_factory_config": buffer.history_factory_config}
    runnable: Runnable[Any, Any] = chat_model
    if style == "keyed":
        prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
        runnable = prompt | chat_model
        options |= {"input_messages_key": "question", "history_messages_key": "history"}
    return with_history(runnable, buffer, **options)


def with_history(runnable: Runnable[Any, Any], buffer: SessionBuffer, **options: Any) -> Runnable[Any, Any]:
    """A `RunnableWithMessageHistory` over the buffer, without LangChain's notice that it is going."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        return RunnableWithMessageHistory(
            runnable,
            buffer.get_session_history,
            **{"history_factory_config": buffer.history_factory_config, **options},
        )


class Session:
    """One session of one user, through the sync or the async variants of everything."""

    def __init__(self, buffer: SessionBuffer, colour: Colour, user_id: str = "alice", session_id: str = "s1") -> None:
        self.buffer = buffer
        self.colour = colour
        self.user_id = user_id
        self.session_id = session_id

    def __call__(self, user_id: str, session_id: str) -> Session:
        """Another session of the same buffer and colour."""
        return Session(self.buffer, self.colour, user_id, session_id)

    def through(self, buffer: SessionBuffer) -> Session:
        """The same session as another worker sees it."""
        return Session(buffer, self.colour, self.user_id, self.session_id)

    @property
    def key(self) -> tuple[str, str]:
        return (self.user_id, self.session_id)

    @property
    def config(self) -> RunnableConfig:
        return self.buffer.config(*self.key)

    @property
    def history(self) -> TTLChatMessageHistory:
        return self.buffer.history(*self.key)

    async def read(self, history: TTLChatMessageHistory) -> list[BaseMessage]:
        """The messages of any history object."""
        if self.colour.is_async:
            return list(await history.aget_messages())
        return list(await asyncio.to_thread(lambda: history.messages))

    async def messages(self) -> list[BaseMessage]:
        return await self.read(self.history)

    async def texts(self) -> list[str]:
        return texts(await self.messages())

    async def add(self, *messages: BaseMessage) -> None:
        await self.colour.call(self.history, "add_messages", list(messages))

    async def event(self, text: str) -> None:
        await self.colour.call(self.history, "add_system_message", text)

    async def replace(self, messages: Sequence[BaseMessage], history: TTLChatMessageHistory | None = None) -> None:
        """Set the messages of a history, or of the live one."""
        history = history or self.history
        if self.colour.is_async:
            await history.aset_messages(messages)
        else:
            history.messages = list(messages)

    async def clear(self) -> None:
        await self.colour.call(self.history, "clear")

    async def info(self) -> Any:
        return await self.colour.call(self.buffer, "info", *self.key)

    async def delete(self) -> bool:
        return bool(await self.colour.call(self.buffer, "delete", *self.key))

    async def sessions(self, *args: Any, **kwargs: Any) -> list[Any]:
        return await self.colour.collect(self.buffer, "sessions", *args, **kwargs)

    async def ask(self, graph: Runnable[Any, Any], text: str | None, **options: Any) -> dict[str, Any]:
        """One turn of an agent; with no text it goes on where it stopped."""
        given = None if text is None else {"messages": [HumanMessage(text)]}
        return dict(await self.colour.call(graph, "invoke", given, self.config, **options))

    def begin(self, graph: Runnable[Any, Any], text: str, **options: Any) -> asyncio.Task[dict[str, Any]]:
        """An agent's turn that others overlap; each of its steps is stored before the next one begins."""
        return asyncio.create_task(self.ask(graph, text, **{"durability": "sync", **options}))

    async def run(self, graph: Runnable[Any, Any], given: Any, **options: Any) -> Any:
        """Invoke a graph with anything, a `Command` say."""
        return await self.colour.call(graph, "invoke", given, self.config, **options)

    async def say(self, chain: Runnable[Any, Any], text: str, *, style: str = "keyed") -> Any:
        """One turn of a chain."""
        given: Any = {"question": text} if style == "keyed" else [HumanMessage(text)]
        return await self.colour.call(chain, "invoke", given, self.config)

    async def state(self, graph: Any, config: RunnableConfig | None = None) -> Any:
        return await self.colour.call(graph, "get_state", config or self.config)

    async def states(self, graph: Any, **options: Any) -> list[Any]:
        return await self.colour.collect(graph, "get_state_history", self.config, **options)

    async def seen_by(self, graph: Any) -> list[str]:
        """The conversation in the graph's state, as texts."""
        return texts((await self.state(graph)).values.get("messages", []))


def text_of(message: BaseMessage) -> str:
    """A message in one short string: its text, or its calls."""
    if isinstance(message, AIMessage) and message.tool_calls:
        return "call " + ", ".join(str(call["args"].get("thing")) for call in message.tool_calls)
    return str(message.content)


def texts(messages: Iterable[BaseMessage]) -> list[str]:
    return [text_of(message) for message in messages]


def dumps(messages: Iterable[BaseMessage]) -> list[tuple[type[BaseMessage], dict[str, Any]]]:
    """Messages in full, for comparison: class and every field."""
    return [(type(message), message.model_dump()) for message in messages]


def assert_valid_chat(messages: Sequence[BaseMessage]) -> None:
    """A provider would take this: every result right after its call, every call answered."""
    waiting: list[str | None] = []
    for position, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in waiting, f"the result at {position} answers no open call: {texts(messages)}"
            waiting.remove(message.tool_call_id)
            continue
        assert not waiting, f"unanswered calls {waiting} before {position}: {texts(messages)}"
        if isinstance(message, AIMessage):
            waiting = [call["id"] for call in message.tool_calls]
    assert not waiting, f"unanswered calls {waiting} at the end: {texts(messages)}"


def assert_contiguous(conversation: Sequence[str], turn: Sequence[str]) -> None:
    """The turn's messages stand side by side, in order, once."""
    size = len(turn)
    places = [
        start for start in range(len(conversation) - size + 1) if list(conversation[start : start + size]) == list(turn)
    ]
    assert len(places) == 1, f"{list(turn)} not exactly once, side by side, in {list(conversation)}"
    for text in turn:
        assert list(conversation).count(text) == list(turn).count(text), (
            f"{text!r} said more than once in {list(conversation)}"
        )


def everything_in(root: Any) -> list[bytes]:
    """Every string and byte string reachable from an object's data, as bytes."""
    found: list[bytes] = []
    seen: set[int] = set()
    todo: list[Any] = [root]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type) or callable(each):
            continue
        seen.add(id(each))
        if isinstance(each, str):
            found.append(each.encode("utf-8", "surrogatepass"))
        elif isinstance(each, bytes | bytearray | memoryview):
            found.append(bytes(each))
        elif isinstance(each, dict):
            todo += list(each.keys()) + list(each.values())
        elif hasattr(each, "__iter__") and hasattr(each, "__len__"):
            todo += list(each)
        if hasattr(each, "__dict__"):
            todo += list(vars(each).values())
        for slots in (getattr(cls, "__slots__", ()) for cls in type(each).__mro__):
            for name in (slots,) if isinstance(slots, str) else slots:
                todo.append(getattr(each, name, None))
    return found
