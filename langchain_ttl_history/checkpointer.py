"""The checkpointer: sessions as LangGraph's threads."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_ttl_history.checkpointing.arrivals import Arrivals
from langchain_ttl_history.checkpointing.get_and_list import GetAndList
from langchain_ttl_history.checkpointing.input_checks import (
    check_checkpoint,
    check_key,
    checked_name,
    checked_types,
    checked_writes,
    required_checkpoint_id,
)
from langchain_ttl_history.checkpointing.late_writes import LateWrites
from langchain_ttl_history.checkpointing.pending_writes import PendingWrites
from langchain_ttl_history.checkpointing.prune_copy_delete import PruneCopyDelete
from langchain_ttl_history.checkpointing.put_inputs import Put, TaskWrites
from langchain_ttl_history.checkpointing.put_plans import PutPlans
from langchain_ttl_history.checkpointing.puts import CheckpointPuts
from langchain_ttl_history.checkpointing.reads import CheckpointReads
from langchain_ttl_history.checkpointing.threads import Threads, flattened
from langchain_ttl_history.codec import Serializer, check_serde
from langchain_ttl_history.errors import ConfigurationError, brief
from langchain_ttl_history.flow import Flow, arun, run
from langchain_ttl_history.keys import Id
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Storage

__all__ = ["TTLCheckpointSaver"]


class TTLCheckpointSaver(GetAndList, PruneCopyDelete, BaseCheckpointSaver[Any]):
    """Keeps a graph's checkpoints in the session of (user, `thread_id`).

    Made by `SessionBuffer.checkpointer`. The user is the one the checkpointer is bound to, or else the one in
    ``config["configurable"][user_key]``, or else the default user. Every method has an async twin; on the memory
    storage the two are equivalent.
    """

    def __init__(
        self,
        storage: Storage,
        sessions: Sessions,
        *,
        user_id: str | None,
        default_user: str | None,
        user_key: str,
        messages_key: str,
        serde: Serializer | None,
    ) -> None:
        super().__init__(serde=serde)
        for name, value in (("user_key", user_key), ("messages_key", messages_key)):
            check_key(name, value)
        check_serde(serde)
        if serde is None:
            # LangGraph announces a graph's types only to a serializer that is strict.
            self.serde: Serializer = _STRICT
        self._storage = storage
        self._threads = Threads(user_key, user_id, default_user)
        self._messages_key = messages_key
        self._late = LateWrites(sessions.cache)
        self._use(replace(sessions, codec=sessions.codec.allowing((), serde)))

    def __repr__(self) -> str:
        user = self._threads.user_id
        return f"TTLCheckpointSaver({self._storage!r}{'' if user is None else f', user_id={user!r}'})"

    def _use(self, sessions: Sessions) -> None:
        self._sessions = sessions
        messages_key = self._messages_key
        self._reads = CheckpointReads(sessions, messages_key)
        puts = CheckpointPuts(sessions, PutPlans(sessions, messages_key))
        self._arrivals = Arrivals(puts, PendingWrites(sessions, messages_key), self._late)

    def for_user(self, user_id: Id) -> TTLCheckpointSaver:
        """This checkpointer for one user's sessions only.

        Raises:
            ConfigurationError: It is bound to another user already, or the id is not valid.
        """
        clone = copy.copy(self)
        clone._threads = self._threads.of_user(user_id)
        return clone

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> TTLCheckpointSaver:
        """A clone that also rebuilds these types; itself if it rebuilds all of them already. LangGraph calls this.

        Args:
            extra_allowlist: The types, each as a pair (module, name).

        Raises:
            ConfigurationError: One is not named by such a pair.
        """
        extra_allowlist = checked_types(extra_allowlist)
        clone = cast(TTLCheckpointSaver, super().with_allowlist(extra_allowlist))
        codec = self._sessions.codec
        serde = None if codec.serde is None else clone.serde
        if serde is codec.serde and codec.allows(extra_allowlist):
            return self
        if clone is self:
            clone = copy.copy(self)
        clone._use(replace(self._sessions, codec=codec.allowing(extra_allowlist, serde)))
        return clone

    # Writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint under the one the config names as its parent.

        The put of a turn whose session was deleted stores nothing, raises nothing, and is logged once.

        Raises:
            ConfigurationError: The config names no thread, or another user than the bound one.
            MissingUserError: It names no user, and there is no bound or default user.
            TypeNotAllowedError: A channel's value would not come back as it is; nothing was stored.
            StorageError: The storage could not be reached, or refused the checkpoint again and again.
            CorruptRecordError: A record of the session cannot be read.
        """
        put = self._put(config, checkpoint, metadata, new_versions)
        run(self._storage, self._arrivals.put(put))
        return self._threads.config(config, put.key, put.ns, put.id)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Async `put`."""
        put = self._put(config, checkpoint, metadata, new_versions)
        await arun(self._storage, self._arrivals.put(put))
        return self._threads.config(config, put.key, put.ns, put.id)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, pending on the checkpoint the config names.

        Raises:
            ConfigurationError: The config names no thread or checkpoint, or another user than the bound one.
            MissingUserError: It names no user, and there is no bound or default user.
            TypeNotAllowedError: A value would not come back as it is; nothing was stored.
            StorageError: The storage could not be reached.
            CorruptRecordError: A record of the session cannot be read.
        """
        run(self._storage, self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Async `put_writes`."""
        await arun(self._storage, self._put_writes(config, writes, task_id, task_path))

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        changed: ChannelVersions,
    ) -> Put:
        key, ns, parent = self._threads.locate(config)
        check_checkpoint(checkpoint, metadata)
        kept: Any = get_checkpoint_metadata(flattened(config), metadata)
        return Put.of(key, ns, parent, cast(Mapping[str, Any], checkpoint), kept, changed)

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, path: str
    ) -> Flow[None]:
        key, ns, id = self._threads.locate(config)
        task, path = checked_name("task_id", task_id), checked_name("task_path", path)
        return self._arrivals.put_writes(
            TaskWrites(key, ns, required_checkpoint_id(id), checked_writes(writes), task, path)
        )

    # Versions

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The version after this one: an int that counts up from 1.

        Versions that another checkpointer made, strings like "00000002.0.123", keep their format and count up.

        Raises:
            ConfigurationError: `current` is neither of the two.
        """
        try:
            if isinstance(current, str):
                count, dot, rest = current.partition(".")
                return f"{int(count) + 1:0{len(count)}}{dot}{rest}"
            return 1 if current is None else current + 1
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the version of a channel must be a number, or a string that begins with one, not {brief(current)}"
            ) from error


_STRICT = JsonPlusSerializer(allowed_msgpack_modules=None)
