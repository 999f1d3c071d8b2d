"""The methods of a checkpointer that read: one checkpoint, a list of them, the writes that lead to one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple, DeltaChannelHistory

from langchain_ttl_history.checkpointing.delta_channels import delta_history
from langchain_ttl_history.checkpointing.input_checks import check_narrowing, checked_list
from langchain_ttl_history.checkpointing.listing import matches, selected
from langchain_ttl_history.checkpointing.loading import Loaded
from langchain_ttl_history.checkpointing.reads import CheckpointReads
from langchain_ttl_history.checkpointing.threads import Threads
from langchain_ttl_history.flow import Flow, arun, every_key, run
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Storage

__all__ = ["GetAndList"]


class GetAndList:
    """The methods of a checkpointer that read checkpoints."""

    _storage: Storage
    _sessions: Sessions
    _threads: Threads
    _reads: CheckpointReads

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The latest checkpoint of the thread and namespace, or the one that `checkpoint_id` names.

        The latest one shows the conversation as it is now, including what chains have said since it was put.

        Raises:
            ConfigurationError: The config names no thread, or another user than the bound one; or the token counter
                failed.
            MissingUserError: It names no user, and there is no bound or default user.
            StorageError: The storage could not be reached.
            CorruptRecordError: A record of the session cannot be read.
            TypeNotAllowedError: It holds a value of a type that is not allow-listed here.
        """
        key, ns, id = self._threads.locate(config)
        found = run(self._storage, self._reads.load(key, ns, id))
        return None if found is None else self._tuple(config, key, found)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async `get_tuple`."""
        key, ns, id = self._threads.locate(config)
        found = await arun(self._storage, self._reads.load(key, ns, id))
        return None if found is None else self._tuple(config, key, found)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints of a thread, newest first; of all the user's threads without a config.

        They are read one by one as you iterate, which also raises all errors.

        Args:
            config: Names the thread; its `checkpoint_ns` and `checkpoint_id` narrow the list.
            filter: Metadata that every listed checkpoint has.
            before: A config; only checkpoints that were put before its `checkpoint_id` are listed.
            limit: The largest number of checkpoints to list; None lists all.

        Raises:
            ConfigurationError: An argument is of the wrong type, or the config names another user than the bound one;
                or the token counter failed.
            MissingUserError: No user is named, and there is no bound or default user.
            StorageError: The storage could not be reached.
            CorruptRecordError: A record of a session cannot be read.
            TypeNotAllowedError: It holds a value of a type that is not allow-listed here.
        """
        check_narrowing(filter, before, limit)
        for key in run(self._storage, self._keys(config)):
            flow = self._reads.listed_ids(key, self._sessions.lease if config else None)
            for ns, id in selected(run(self._storage, flow), config, before):
                if limit is not None and limit <= 0:
                    return
                found = run(self._storage, self._reads.load_listed(key, ns, id))
                if found is not None and matches(found, filter):
                    limit = None if limit is None else limit - 1
                    yield self._tuple(config, key, found)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Async `list`."""
        check_narrowing(filter, before, limit)
        for key in await arun(self._storage, self._keys(config)):
            flow = self._reads.listed_ids(key, self._sessions.lease if config else None)
            for ns, id in selected(await arun(self._storage, flow), config, before):
                if limit is not None and limit <= 0:
                    return
                found = await arun(self._storage, self._reads.load_listed(key, ns, id))
                if found is not None and matches(found, filter):
                    limit = None if limit is None else limit - 1
                    yield self._tuple(config, key, found)

    def _keys(self, config: RunnableConfig | None) -> Flow[Sequence[SessionKey]]:
        if config is not None and config != {}:
            return [self._threads.key(config)]
        return (yield from every_key(self._threads.user()))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """The writes that lead to a checkpoint, and the value each channel starts from.

        Returns:
            For each channel a dictionary: `writes` are pending writes, (task id, channel, value), the oldest first, and
            `seed` is the value they are applied to, where there is one.

        Raises:
            ConfigurationError: The channels are no list, or the config names no thread or another user than the bound
                one.
            MissingUserError: It names no user, and there is no bound or default user.
            StorageError: The storage could not be reached.
            CorruptRecordError: A record of the session cannot be read.
            TypeNotAllowedError: It holds a value of a type that is not allow-listed here.
        """
        key, ns, id = self._threads.locate(config)
        flow = delta_history(self._sessions, key, ns, id, checked_list("channels", channels))
        return cast(Mapping[str, DeltaChannelHistory], run(self._storage, flow))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Async `get_delta_channel_history`."""
        key, ns, id = self._threads.locate(config)
        flow = delta_history(self._sessions, key, ns, id, checked_list("channels", channels))
        return cast(Mapping[str, DeltaChannelHistory], await arun(self._storage, flow))

    def _tuple(self, config: RunnableConfig | None, key: SessionKey, found: Loaded) -> CheckpointTuple:
        parent = found.parent
        return CheckpointTuple(
            self._threads.config(config, key, found.ns, found.id),
            cast(Checkpoint, found.checkpoint),
            cast(CheckpointMetadata, found.metadata),
            None if parent is None else self._threads.config(config, key, found.ns, parent),
            [(write.task_id, write.channel, write.value) for write in found.writes],
        )
