"""The methods of a checkpointer that prune, copy and delete whole threads."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_ttl_history.checkpointing.checkpoint_deletion import delete_for_runs, keep_latest
from langchain_ttl_history.checkpointing.input_checks import checked_list
from langchain_ttl_history.checkpointing.session_copy import copy_session
from langchain_ttl_history.checkpointing.threads import Threads
from langchain_ttl_history.errors import ConfigurationError, brief
from langchain_ttl_history.flow import Flow, arun, run
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.base import Storage

__all__ = ["PruneCopyDelete"]


class PruneCopyDelete:
    """The methods of a checkpointer that prune, copy and delete threads, within one user's sessions."""

    _storage: Storage
    _sessions: Sessions
    _threads: Threads

    def delete_thread(self, thread_id: str) -> None:
        """Delete the user's session of this thread, its conversation included.

        Raises:
            MissingUserError: There is no bound or default user.
            ConfigurationError: The thread's id is not valid.
            StorageError: The storage could not be reached.
        """
        run(self._storage, self._delete(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Async `delete_thread`."""
        await arun(self._storage, self._delete(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that these runs put in the user's sessions, and what they said.

        A message stays that a checkpoint of another run holds.

        Raises:
            MissingUserError: There is no bound or default user.
            ConfigurationError: The run ids are no list of ids.
            StorageError: The storage could not be reached, or others kept writing to a session.
            CorruptRecordError: A record of a session cannot be read.
        """
        run(self._storage, self._delete_for_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Async `delete_for_runs`."""
        await arun(self._storage, self._delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a user's session to a thread that is not there yet; nothing happens where there is no such session.

        The copy's life begins now, and it has no idle time of its own.

        Raises:
            MissingUserError: There is no bound or default user.
            ConfigurationError: The target is there already, or an id is not valid.
            StorageError: The storage could not be reached.
        """
        run(self._storage, self._copy(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Async `copy_thread`."""
        await arun(self._storage, self._copy(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete checkpoints of the user's threads.

        Args:
            thread_ids: The threads.
            strategy: `keep_latest` keeps the latest checkpoint of each namespace, `delete`
                deletes the sessions.

        Raises:
            MissingUserError: There is no bound or default user.
            ConfigurationError: An argument is of the wrong type, or the strategy is neither of the two.
            StorageError: The storage could not be reached, or others kept writing to a thread.
            CorruptRecordError: A record of a thread cannot be read.
        """
        for thread_id in _checked(thread_ids, strategy):
            run(self._storage, self._pruned(thread_id, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Async `prune`."""
        for thread_id in _checked(thread_ids, strategy):
            await arun(self._storage, self._pruned(thread_id, strategy))

    def _delete(self, thread_id: str) -> Flow[int]:
        return self._sessions.delete(*self._threads.session(thread_id))

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Flow[None]:
        return delete_for_runs(self._sessions, self._threads.user(), checked_list("run_ids", run_ids))

    def _copy(self, source: str, target: str) -> Flow[None]:
        return copy_session(self._sessions, self._threads.session(source), self._threads.session(target))

    def _pruned(self, thread_id: str, strategy: str) -> Flow[object]:
        if strategy == "delete":
            return self._delete(thread_id)
        return keep_latest(self._sessions, self._threads.session(thread_id))


def _checked(thread_ids: Sequence[str], strategy: str) -> Sequence[str]:
    """The threads to prune, if the strategy is one that is known.

    Raises:
        ConfigurationError: It is not, or these are no threads.
    """
    if strategy not in ("keep_latest", "delete"):
        raise ConfigurationError(f"strategy must be 'keep_latest' or 'delete', not {brief(strategy)}")
    return checked_list("thread_ids", thread_ids)
