"""A proxy before a server that cuts, holds or delays what passes, at the commands it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Passes connections on to a port, and harms those that bring a script."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut: str | None = None
        """"before": the connection breaks before the script is passed on; "after": when its answer is there."""
        self.times = 0
        """How many more scripts are harmed."""
        self.scripts = 0
        """How many came by."""
        self.answers = threading.Event()
        """Answers pass while it is set."""
        self.answers.set()
        self.waiting = threading.Event()
        """Set once an answer waits."""
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The URL of the server behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        """Break everything."""
        self.answers.set()
        for each in (self._listener, *self._sockets):
            _close(each)

    def lead_to(self, port: int, *, keep: bool = False) -> None:
        """Pass new connections on to another port, and break those there are unless they are to be kept."""
        self._to = port
        if keep:
            return
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            _close(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._to))
                except ConnectionRefusedError:
                    _close(client)
                    continue
                self._sockets += (client, server)
                threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        # Requests and answers take turns, as the clients that are tested here do.
        lost = threading.Event()
        threading.Thread(target=self._back, args=(client, server, lost), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                if b"EVAL" in data:
                    self.scripts += 1
                    if self.cut is not None and self.times > 0:
                        self.times -= 1
                        if self.cut == "before":
                            break
                        lost.set()
                server.sendall(data)
        _close(client)
        _close(server)

    def _back(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                if lost.is_set():
                    break
                if not self.answers.is_set():
                    self.waiting.set()
                    self.answers.wait()
                client.sendall(data)
        _close(client)
        _close(server)


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy for the length of a test."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
