"""What the TLS connections made from one URL share."""

from __future__ import annotations

import time
from copy import copy
from typing import Any

__all__ = ["SharedContext"]

# For how many seconds connections are made with one context. Then the files are read again, since they may be new ones.
_FRESH = 60.0


class SharedContext:
    """The TLS context of the async connections that are made from one URL.

    The drivers make one for each connection and read the system's certificates for it, 30 to 80 ms in which an event
    loop does nothing else: seconds, where many tasks open connections at once.
    """

    def __init__(self) -> None:
        self._context: Any = None
        self._until = 0.0

    def share(self, client: Any, *, is_cluster: bool) -> None:
        """Let the connections of a new async client share the context."""
        if not is_cluster:
            client.connection_pool.connection_class = self._among(client.connection_pool.connection_class)
            return
        # By these the client makes its nodes, except those that it begins with.
        options = client.get_connection_kwargs()
        options["connection_class"] = self._among(options["connection_class"])
        for node in client.nodes_manager.startup_nodes.values():
            node.connection_class = options["connection_class"]

    def _among(self, connection_class: Any) -> Any:
        """The class of connections that share the context."""
        instead_of = self._instead_of

        class Sharing(connection_class):  # type: ignore[misc]  # of either driver
            @property
            def ssl_context(self) -> Any:
                """What the driver asks for the context whenever it connects."""
                return instead_of(self._own_context)

            @ssl_context.setter
            def ssl_context(self, own: Any) -> None:
                self._own_context = own

        return Sharing

    def _instead_of(self, own: Any) -> Any:
        """The shared context for a connection, whose own has the same settings and has read nothing."""
        now = time.monotonic()
        if self._context is None or now > self._until:
            # It reads the files when it is first used.
            self._context, self._until = copy(own), now + _FRESH
        return self._context
