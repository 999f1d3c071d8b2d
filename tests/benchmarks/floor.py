"""The least a checkpointer on Redis can do: one round trip a call, and only what is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ormsgpack
import redis
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from langchain_ttl_history.codec import Codec
from langchain_ttl_history.encoding.messages import pack_message

_PUT = """
redis.call('HSET', KEYS[1], 'head', ARGV[1])
for at = 3, #ARGV do
  redis.call('RPUSH', KEYS[2], ARGV[at])
end
redis.call('LTRIM', KEYS[2], -80, -1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
"""
_GET = "return {redis.call('HGET', KEYS[1], 'head'), redis.call('LRANGE', KEYS[2], 0, -1)}"
_WRITES = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
_IDLE = 1_800_000


class FloorSaver(BaseCheckpointSaver[Any]):
    """Decodes the window once a turn, encodes and sends what is new; knows no users, no forks and no cap but 80."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self._put, self._get, self._writes = map(client.register_script, (_PUT, _GET, _WRITES))
        self._codec = Codec()
        self._sent: dict[str, set[str]] = {}

    def get_next_version(self, current: Any, channel: None) -> Any:
        return (current or 0) + 1

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        thread = config["configurable"]["thread_id"]
        head, packed = self._get(keys=[f"f:{thread}", f"m:{thread}"])
        if head is None:
            self._sent[thread] = set()
            return None
        checkpoint, metadata, id = ormsgpack.unpackb(head)
        ids = checkpoint.pop("ids")
        messages = self._codec.messages(packed, ids[-len(packed) :])
        self._sent[thread] = {str(message.id) for message in messages}
        checkpoint["channel_values"]["messages"] = messages
        return CheckpointTuple({"configurable": {**config["configurable"], "checkpoint_id": id}}, checkpoint, metadata)

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        thread = config["configurable"]["thread_id"]
        sent = self._sent.setdefault(thread, set())
        values = dict(checkpoint["channel_values"])
        messages = values.pop("messages", [])
        new = [message for message in messages if message.id not in sent]
        sent.update(message.id for message in new)
        kept = {**checkpoint, "channel_values": _plain(values), "ids": [message.id for message in messages]}
        head = ormsgpack.packb([kept, dict(metadata), checkpoint["id"]], default=repr)
        packed = [pack_message(message, repr) for message in new]
        self._put(keys=[f"f:{thread}", f"m:{thread}"], args=[head, _IDLE, *packed])
        return {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}

    def put_writes(self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        thread = config["configurable"]["thread_id"]
        packed = [self.serde.dumps_typed(value) for _, value in writes]
        self._writes(keys=[f"f:{thread}"], args=[task_id, ormsgpack.packb(packed), _IDLE])


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The channels that are plain data; those of a graph's own steps are not kept here."""
    return {name: value for name, value in values.items() if isinstance(value, (str, int, float, bool, type(None)))}
