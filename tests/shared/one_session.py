"""The session that tests of a storage write to, and by how long a use extends it."""

from __future__ import annotations

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.types import Lease

KEY = SessionKey("ada", "s1")
LEASE = Lease(100.0, None)
FOREVER = Lease(None, None)
