"""What a put is planned from: what a graph hands over, the parent as it was found, and how far its run has come."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from langchain_ttl_history.checkpointing.run_token import Token
from langchain_ttl_history.checkpoints import Record
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.log_entries import Seen
from langchain_ttl_history.storage.types import Guard
from langchain_ttl_history.stored.known_bodies import KnownBodies
from langchain_ttl_history.stored.names import BodyName, checkpoint_name
from langchain_ttl_history.stored.pending import has_interrupt

__all__ = ["Parent", "Put", "PutInputs", "RunState", "TaskWrites"]


class Put(NamedTuple):
    """A checkpoint as a graph hands it over."""

    key: SessionKey
    ns: str
    id: str
    name: str
    """Of the checkpoint, in its session."""
    parent: str | None
    parent_name: str
    """Of its parent, if it has one."""
    checkpoint: dict[str, Any]
    """All of it but the channel values and the token."""
    values: Mapping[str, Any]
    """The channel values."""
    token: Token | None
    """What its run was shown; None if the run loaded nothing."""
    metadata: dict[str, Any]
    changed: Container[str]
    """The channels whose value is another than the parent's, as LangGraph says."""

    @classmethod
    def of(
        cls,
        key: SessionKey,
        ns: str,
        parent: str | None,
        checkpoint: Mapping[str, Any],
        metadata: dict[str, Any],
        changed: Container[str],
    ) -> Put:
        """The put of a checkpoint as LangGraph makes it, which stays as it is."""
        rest = {**checkpoint, "versions_seen": {**checkpoint["versions_seen"]}}
        values = rest.pop("channel_values")
        token = Token.taken_from(rest["versions_seen"])
        if counters := metadata.get("counters_since_delta_snapshot"):
            # LangGraph expects its pairs back as lists, which is what its own savers make of them.
            metadata["counters_since_delta_snapshot"] = {channel: list(pair) for channel, pair in counters.items()}
        id = checkpoint["id"]
        name, parent_name = checkpoint_name(ns, id), checkpoint_name(ns, parent or "")
        return cls(key, ns, id, name, parent, parent_name, rest, values, token, metadata, changed)

    @property
    def guard(self) -> Guard:
        """What it continues."""
        if self.token is not None:
            return Guard(self.token.generation)
        if not self.ns:
            return Guard(needs=None if self.parent is None else self.parent_name)
        root = (self.metadata.get("parents") or {}).get("")
        return Guard(needs=checkpoint_name("", root) if root else None)


class TaskWrites(NamedTuple):
    """What a task wrote, as a graph hands it over."""

    key: SessionKey
    ns: str
    id: str
    """The checkpoint that the writes are pending on."""
    writes: Sequence[tuple[str, Any]]
    """Channels and values."""
    task_id: str
    path: str
    """The task's place among those of its step."""

    @property
    def checkpoint_name(self) -> str:
        """The checkpoint's, in its session."""
        return checkpoint_name(self.ns, self.id)

    @property
    def interrupts(self) -> bool:
        """Whether a task of the root waits for an answer; nothing else says so once its run has ended."""
        return not self.ns and has_interrupt(self.writes)


class Parent(NamedTuple):
    """What a put builds on: its parent, as it was found in the session or is remembered."""

    generation: int | None = None
    """The generation the parent was found in; None if nothing was looked up."""
    now: float = 0.0
    """Seconds since the epoch by the storage's clock; 0 if nothing was looked up."""
    record: Record | None = None
    """The parent's record; None if there is none, or it is gone."""
    writes: tuple[Any, ...] = ()
    """The writes to the conversation that are pending on the parent, for a `DeltaChannel`."""
    has_head: bool = False
    """Whether the session was found to have a root checkpoint."""
    freed: bool = False
    """Whether the parent was freed meanwhile, and comes from memory."""
    reduced: bool = False
    """Whether the parent is there, and some of its messages were freed meanwhile."""
    remembered: bool = False
    """Whether all of this comes from memory, so that bodies may be left out of the write."""

    def as_remembered(self, record: Record | None) -> Parent:
        """With the parent as its run knows it, where that was freed, or messages of it, while the run went on."""
        if record is None or (self.record is not None and self.record.names == record.names):
            return self
        if self.record is not None:
            return self._replace(record=replace(self.record, names=record.names), reduced=True)
        # The values that it shared may be gone as well.
        return self._replace(record=replace(record, values={}), freed=True)


class RunState(NamedTuple):
    """How far the run of a put has come before it: what it was shown, and what it has seen of the log."""

    id: str
    """The id of the run's first checkpoint."""
    shown: tuple[BodyName, ...]
    seen: Seen
    is_first_put: bool
    """Whether it is the first put since its run loaded a checkpoint."""
    same_session: bool
    """Whether the session is the one that its run loaded, if it loaded any, and not one that began after that ended."""

    @classmethod
    def of(cls, put: Put, parent: Parent, bodies: KnownBodies) -> RunState:
        """The state of a put's run, by the run's token and by what the put builds on."""
        before, token = parent.record, put.token
        # A copy of a checkpoint builds on that checkpoint's parent, not on the checkpoint that was loaded.
        is_first = token is not None and (
            token.id == put.parent or (before is not None and put.metadata.get("source") == "fork")
        )
        same_session = token is None or token.generation == parent.generation
        if before is not None and not is_first:
            return cls(before.run, before.names, before.seen, is_first, same_session)
        own = (put.id, None)
        if token is not None and same_session:
            shown = bodies.names_shown(token.shown) or token.names
            seen = token.seen._replace(runs=(*token.seen.runs, own))
        else:
            # Where the session ended, what it loaded is there again if writes pending on that brought it along.
            shown = () if before is None else before.names
            seen = Seen(0, (own,))
        return cls(put.id, shown, seen, is_first, same_session)


class PutInputs(NamedTuple):
    """All that a put is planned from."""

    put: Put
    parent: Parent
    run: RunState

    @property
    def is_orphan(self) -> bool:
        """Whether it names a parent that is neither stored nor remembered."""
        return self.parent.record is None and self.put.parent is not None

    @property
    def lost_what_it_builds_on(self) -> bool:
        """Whether it is an orphan, and its run was not shown the parent just now in this session."""
        return self.is_orphan and not (self.run.is_first_put and self.run.same_session)

    @property
    def carries_over(self) -> bool:
        """Whether it is the first of its run in a session that began after the run's own had ended."""
        return (self.put.token is None or not self.run.same_session) and self.is_orphan

    @property
    def may_follow_first(self) -> bool:
        """Whether its run may have been shown the first checkpoint of a session without one, which is not stored yet.

        Where there is a checkpoint already, whoever put it has stored the first one, which was freed since.
        """
        run, parent = self.run, self.parent
        return run.is_first_put and run.same_session and parent.record is None and not parent.has_head
