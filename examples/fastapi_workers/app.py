"""A chat service of several workers that share their sessions through one Redis.

    TTL_HISTORY_URL=redis://localhost:6379/0 uvicorn app:app --workers 3

Which worker answers does not matter: each turn finds the whole conversation, tool calls and all, and
a turn that was left in the middle is finished by the next one.

A proxy in front of it bounds the size of a request: FastAPI reads a body as a whole before it looks at it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage, message_to_dict
from model import chat_model, find_order
from pydantic import BaseModel, Field

from langchain_ttl_history import ConfigurationError, Retention, SessionBuffer, StorageError

TOKENS: dict[str, str] = json.loads(os.environ.get("CHAT_TOKENS", '{"alice-token": "alice", "bob-token": "bob"}'))
"""Whose token it is. A real service asks its identity provider instead."""
APP_TOKEN = os.environ.get("CHAT_APP_TOKEN", "")
"""The application's own token, which no user has. Without one, nobody may tell a session of an event."""
LOST_AFTER = timedelta(seconds=float(os.environ.get("CHAT_LOST_AFTER", "30")))
"""A turn that has stored nothing for so long is taken for lost: its client went away, or its worker died."""
UNAVAILABLE = "the sessions are out of reach; try again in a moment"
FAILED = "I could not answer this."
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Ask proxies to pass on what streams as it comes; nginx would collect it."""

logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    """One buffer and one agent for the life of the worker."""
    url = os.environ.get("TTL_HISTORY_URL", "redis://localhost:6379/0")
    async with SessionBuffer(url, retention=Retention(idle_ttl=timedelta(hours=1))) as buffer:
        app.state.buffer = buffer
        # A tool that fails gives a result as well, so that its turn goes on, whatever runs beside it.
        told = ToolRetryMiddleware(max_retries=0, on_failure=failed)
        app.state.agent = create_agent(
            chat_model(), [find_order], middleware=[told], checkpointer=buffer.checkpointer()
        )
        yield


def failed(error: Exception) -> str:
    """What the model is told of a tool that failed: nothing of why, which may not be for the user."""
    logger.error("a tool failed", exc_info=error)
    return "failed"


app = FastAPI(title="Chat", lifespan=opened)


def current_user(given: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    """The user of the request: from its token, never from its body or path."""
    user = TOKENS.get(given.credentials)
    if user is None:
        raise HTTPException(401, "this token is nobody's")
    return user


def by_application(x_app_token: Annotated[str, Header()] = "") -> None:
    """Let the application alone pass, on behalf of the user whose token it sends as well."""
    if not APP_TOKEN or not secrets.compare_digest(x_app_token.encode("latin-1"), APP_TOKEN.encode()):
        raise HTTPException(403, "only the application may do this")


def shared_buffer(request: Request) -> SessionBuffer:
    """The worker's buffer."""
    buffer: SessionBuffer = request.app.state.buffer
    return buffer


User = Annotated[str, Depends(current_user)]
Buffer = Annotated[SessionBuffer, Depends(shared_buffer)]


def valid_session(session_id: str, user: User, buffer: Buffer) -> str:
    """The session's id, if it can be one."""
    try:
        buffer.config(user, session_id)
    except ConfigurationError as error:
        raise HTTPException(400, str(error)) from error
    return session_id


SessionId = Annotated[str, Depends(valid_session)]


class Said(BaseModel):
    """What a user or an application says."""

    text: str = Field(min_length=1, max_length=10_000)


@app.exception_handler(StorageError)
async def unavailable(_: Request, error: StorageError) -> JSONResponse:
    """The storage is down: nothing was answered and nothing was lost."""
    # It names the server, which is nothing for a user.
    logger.error("%s", error)
    return JSONResponse({"detail": UNAVAILABLE}, 503, {"Retry-After": "1"})


@app.exception_handler(RequestValidationError)
async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """What is wrong with a request, without what was sent: it may be huge, or nothing that JSON can say."""
    told = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": told}, 422)


@app.post("/sessions/{session_id}/messages")
async def say(session_id: SessionId, said: Said, user: User, buffer: Buffer, request: Request) -> StreamingResponse:
    """Take a turn. The answer streams as server-sent events; the last one, `done`, says that all is stored."""
    agent, config = request.app.state.agent, buffer.config(user, session_id)
    state = await agent.aget_state(config)
    # Not `state.next`, which leaves out tasks that have answered, also where the turn was left before their step ended.
    lost = bool(state.tasks)
    if lost:
        left = datetime.fromisoformat(state.created_at) + LOST_AFTER - datetime.now(timezone.utc)
        if left > timedelta(0):
            again = {"Retry-After": str(math.ceil(left.total_seconds()))}
            raise HTTPException(409, "this session is in the middle of a turn", again)
    return StreamingResponse(
        turn(agent, config, said.text, lost=lost), media_type="text/event-stream", headers=UNBUFFERED
    )


async def turn(agent: Any, config: Any, text: str, *, lost: bool) -> AsyncIterator[str]:
    """The events of a turn; first it finishes the one before, if that was lost."""
    try:
        async for each in steps(agent, config, text, lost=lost):
            yield each
        yield event("done", None)
    except StorageError:
        # The answer has begun, so it is too late for a status.
        logger.exception("a turn was cut short")
        yield event("error", UNAVAILABLE)
    except Exception:  # whatever the model raises, or what cannot be stored
        logger.exception("a turn failed")
        yield event("error", FAILED if await closed(agent, config) else UNAVAILABLE)


async def closed(agent: Any, config: Any) -> bool:
    """End a turn that failed, so that the next one need not try it again; False if the storage is out of reach."""
    try:
        state = await agent.aget_state(config)
        if state.tasks:
            said = state.values.get("messages", [])
            # Only the newest calls can lack results, and those before a question are of a turn beside this one. Some
            # models give all their calls the same ids.
            last = max((at for at, each in enumerate(said) if isinstance(each, HumanMessage | AIMessage)), default=0)
            calls = [call for each in said[last:] if isinstance(each, AIMessage) for call in each.tool_calls]
            results = [each for each in said[last:] if isinstance(each, ToolMessage)]
            answered = {result.tool_call_id for result in results}
            # The provider of a model refuses a conversation in which a call has no result.
            missing = [
                ToolMessage("failed", tool_call_id=call["id"], name=call["name"], status="error")
                for call in calls
                if call["id"] not in answered
            ]
            # In one update, which is stored as a whole or not at all. It drops what this step gave, so that goes along.
            await agent.aupdate_state(config, {"messages": [*results, *missing, AIMessage(FAILED)]}, as_node="model")
    except StorageError as error:
        logger.error("%s", error)  # noqa: TRY400  # where it comes from was logged
        return False
    return True


async def steps(agent: Any, config: Any, text: str, *, lost: bool) -> AsyncIterator[str]:
    """What the model and the tools do, as events."""
    if lost:
        async for part in agent.astream(None, config, stream_mode="updates"):
            yield event("caught_up", sorted(part.keys() - {"__metadata__"}))
    said = {"messages": [HumanMessage(text)]}
    streamed = False
    async for mode, part in agent.astream(said, config, stream_mode=["messages", "updates"]):
        if mode == "messages":
            chunk = part[0]
            if isinstance(chunk, AIMessageChunk) and chunk.text:
                streamed = True
                yield event("token", chunk.text)
            continue
        for update in part.values():
            for message in (update or {}).get("messages", ()):
                if isinstance(message, AIMessage) and message.tool_calls:
                    yield event(
                        "tool_calls", [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]
                    )
                elif isinstance(message, AIMessage) and message.text and not streamed:
                    # Not every model streams, and before Python 3.11 none does inside a graph's async task.
                    yield event("token", message.text)
                elif isinstance(message, ToolMessage):
                    yield event("tool_result", message.text)


def event(name: str, data: Any) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


# A model obeys a system message: a user who could write one, if only into a session of their own, would lift what the
# application told it.
@app.post("/sessions/{session_id}/events", status_code=204, dependencies=[Depends(by_application)])
async def note(session_id: SessionId, said: Said, user: User, buffer: Buffer) -> None:
    """Let the next turn know of something, without calling the model."""
    await buffer.history(user, session_id).aadd_system_message(said.text)


@app.get("/sessions/{session_id}/messages")
async def messages(session_id: SessionId, user: User, buffer: Buffer) -> list[dict[str, Any]]:
    """The conversation."""
    return [message_to_dict(each) for each in await buffer.history(user, session_id).aget_messages()]


@app.get("/sessions")
async def sessions(user: User, buffer: Buffer) -> list[dict[str, Any]]:
    """The user's live sessions."""
    return [
        {"session_id": info.session_id, "messages": info.messages, "expires_at": info.expires_at}
        async for info in buffer.asessions(user)
    ]


@app.delete("/sessions/{session_id}", status_code=204)
async def delete(session_id: SessionId, user: User, buffer: Buffer) -> None:
    """Delete a session for good."""
    await buffer.adelete(user, session_id)


@app.delete("/me", status_code=204)
async def forget(user: User, buffer: Buffer) -> None:
    """Delete everything of the user."""
    await buffer.aforget(user)
