"""What a graph reads of a session: its latest checkpoint, an older one, the list of them.

The latest one shows the conversation as it is now, an older one as it was put:

```text
 put              c1 shows q1, c2 shows q1 a1
 a chain adds     q2 a2
 load(None)       c2, showing q1 a1 q2 a2; likewise by its id
 load(c1)         c1, showing q1
```

What is sent to the storage is here; `loading` makes checkpoints of what comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from langchain_ttl_history.checkpointing.first_checkpoint import first_checkpoint_id
from langchain_ttl_history.checkpointing.loading import Loaded, Loading
from langchain_ttl_history.checkpointing.run_token import TOKEN_KEY, Token
from langchain_ttl_history.flow import Flow, Read
from langchain_ttl_history.freeing.pruning import interrupted_roots, within_cap
from langchain_ttl_history.index import lines_of
from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.listed_checkpoints import listed_lines
from langchain_ttl_history.pointers import target_of
from langchain_ttl_history.sessions import Sessions
from langchain_ttl_history.storage.types import Lease, Query, Snapshot
from langchain_ttl_history.stored.names import (
    BODY,
    CHECKPOINT,
    INDEX,
    LOG,
    SUBS,
    VALUE,
    WRITES,
    checkpoint_name,
    pointer_name,
    writes_name,
)
from langchain_ttl_history.stored.recall import Recall
from langchain_ttl_history.views import view_of

__all__ = ["CheckpointReads"]

_FOLLOW = (CHECKPOINT, BODY, VALUE, WRITES)


@dataclass(frozen=True)
class CheckpointReads:
    """Reads of checkpoints; `messages_key` is the channel that is the conversation."""

    sessions: Sessions
    messages_key: str

    @cached_property
    def _loading(self) -> Loading:
        return Loading(self.sessions, self.messages_key)

    def load(self, key: SessionKey, ns: str, id: str | None) -> Flow[Loaded | None]:
        """The latest checkpoint of a namespace, or the one of this id; None if there is none.

        That is a use of the session, and a run may start from the checkpoint, so a token is added.
        """
        sessions = self.sessions
        if ns:
            return (yield from self._load_sub(key, ns, id, sessions.lease))
        names, mark = _names_of_root(id), (LOG, pointer_name(""))
        recall = sessions.recall(key)
        if id is not None:
            names += (INDEX,)
        query = Query(
            names, _FOLLOW, mark, sessions.lease, outline_over=sessions.freeing.soft_limits, known=recall.known
        )
        snapshot: Snapshot = yield Read(key, query)
        found = self._found(key, snapshot, id, recall)
        if found is None:
            return None
        sessions.cache.count(key)
        loaded, token = found
        # What this process knows is all there is of what the run holds, should its session end under it.
        loaded.checkpoint["versions_seen"][TOKEN_KEY] = token.versions(sessions.cache.held(key))
        return loaded

    def load_listed(self, key: SessionKey, ns: str, id: str) -> Flow[Loaded | None]:
        """A checkpoint that `listed_ids` told of, and that is therefore within the cap; None if it is gone since."""
        sessions = self.sessions
        if ns:
            return (yield from self._load_sub(key, ns, id, None))
        recall = sessions.recall(key)
        query = Query(_names_of_root(id), _FOLLOW, (LOG, pointer_name("")), known=recall.known)
        snapshot: Snapshot = yield Read(key, query)
        pointer = snapshot.blobs.get(pointer_name(""))
        if pointer is not None and target_of(pointer) != checkpoint_name("", id):
            # It is listed as it was put, so the conversation as it is now need not be made for each of a list.
            snapshot.blobs = recall.completed(snapshot.blobs)
            found = self._loading.older(key, snapshot, id, recall)
        else:
            found = self._found(key, snapshot, id, recall)
        if found is None:
            return None
        sessions.cache.count(key)
        return found[0]

    def _found(
        self, key: SessionKey, snapshot: Snapshot, id: str | None, recall: Recall
    ) -> tuple[Loaded, Token] | None:
        """A checkpoint in a snapshot of the session, and the token of a run that starts there."""
        if not snapshot.generation:
            return None
        view = view_of(snapshot, recall, self.sessions.codec)
        self.sessions.freeing.plan_after_read(key, view)
        if view.record is None:
            is_there = view.names and id in (None, first_checkpoint_id(snapshot.generation))
            return self._loading.first(key, view) if is_there else None
        if id in (None, view.record.checkpoint["id"]):
            return self._loading.latest(key, view, view.record)
        return self._loading.older(key, snapshot, id, recall) if self._is_listed(snapshot, id) else None

    def _is_listed(self, snapshot: Snapshot, id: str) -> bool:
        cap = self.sessions.retention.max_checkpoints
        lines = lines_of(snapshot.lists.get(INDEX, ()))
        waiting = interrupted_roots([line for line in lines if line.id == id], snapshot, self.sessions.codec)
        return any(line.id == id for line in within_cap(lines, (), cap, waiting))

    def _load_sub(self, key: SessionKey, ns: str, id: str | None, lease: Lease | None) -> Flow[Loaded | None]:
        names = (pointer_name(ns),) if id is None else (checkpoint_name(ns, id), writes_name(ns, id))
        snapshot: Snapshot = yield Read(key, Query(names, _FOLLOW, None, lease))
        return self._loading.of_subgraph(key, ns, id, snapshot)

    def listed_ids(self, key: SessionKey, lease: Lease | None) -> Flow[list[tuple[str, str]]]:
        """Namespace and id of the checkpoints a session lists, oldest first."""
        pointer = pointer_name("")
        query = Query((INDEX, SUBS, pointer), (), (LOG, pointer), lease)
        snapshot: Snapshot = yield Read(key, query)
        roots = lines_of(snapshot.lists.get(INDEX, ()))
        subs = lines_of(snapshot.lists.get(SUBS, ()))
        if not roots and snapshot.lists.get(LOG):
            return [("", first_checkpoint_id(snapshot.generation))]  # Only a chain has written.
        listed = yield from listed_lines(self.sessions, key, roots, subs)
        return [(line.ns, line.id) for line in listed]


def _names_of_root(id: str | None) -> tuple[str, ...]:
    """The names of what is stored of the latest checkpoint of the root, or besides of the one of this id."""
    pointer = pointer_name("")
    return (pointer,) if id is None else (pointer, checkpoint_name("", id), writes_name("", id))
