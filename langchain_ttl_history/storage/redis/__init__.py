"""Sessions in Redis or Valkey: one server, or a cluster."""

from langchain_ttl_history.storage.redis.storage import RedisStorage

__all__ = ["RedisStorage"]
