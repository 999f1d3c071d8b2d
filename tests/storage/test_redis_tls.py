"""Redis and Valkey over TLS: what the certificate says is checked, and the rest is as without."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from langchain_core.messages import HumanMessage

from langchain_ttl_history import SessionBuffer, StorageError
from langchain_ttl_history.storage.redis import tls
from tests import servers
from tests.shared.redis_cases import assert_sound, kind_here

SCHEMES = {"rediss": "redis", "valkeys": "valkey", "rediss+cluster": "redis", "valkeys+cluster": "valkey"}
"""Of which library their clients are."""


class Safe(NamedTuple):
    """A server that speaks TLS, as a cluster of its own if that is asked for."""

    server: servers.Server
    port: int
    certificate: Path
    """Made by nobody but itself, for 127.0.0.1."""


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate and its key, known to nobody."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl that makes a certificate: TLS is NOT tested here")
    made, key = folder / f"{name}.crt", folder / f"{name}.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    subprocess.run(
        [openssl, *words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made],
        check=True,
        capture_output=True,
    )
    return made, key


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Safe]:
    # The other two kinds are built without TLS.
    kind = kind_here("redis-7")
    made, key = certificate(tmp_path_factory.mktemp("tls"), "server")
    port = servers.free_port()
    files = {"--tls-cert-file": made, "--tls-key-file": key, "--tls-ca-cert-file": made}
    options = [str(word) for pair in files.items() for word in pair]
    options += ["--tls-port", str(port), "--tls-auth-clients", "no", "--cluster-enabled", "yes", "--tls-cluster", "yes"]
    server = servers.Server(kind, options=options).start()
    with server.admin() as admin:
        admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, servers.SLOTS - 1)
        servers.wait_for(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "a cluster")
    yield Safe(server, port, made)
    server.remove()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_session_is_written_and_read_over_tls(safe: Safe, scheme: str) -> None:
    async with SessionBuffer(f"{scheme}://127.0.0.1:{safe.port}?ssl_ca_certs={safe.certificate}") as buffer:
        user = f"ada by {scheme}"
        history = buffer.history(user, "s1")
        history.add_messages([HumanMessage("hello")])
        await history.aadd_messages([HumanMessage("again")])
        for messages in (history.messages, await history.aget_messages()):
            assert [message.content for message in messages] == ["hello", "again"]
        assert [info.session_id for info in buffer.sessions(user)] == ["s1"]
        assert [info.session_id async for info in buffer.asessions(user)] == ["s1"]
    assert_sound(safe.server)


@pytest.mark.parametrize("trusting", ["nobody it knows", "another"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_certificate_that_is_not_trusted_is_an_error(
    safe: Safe, tmp_path: Path, scheme: str, trusting: str
) -> None:
    query = f"?ssl_ca_certs={certificate(tmp_path, 'other')[0]}" if trusting == "another" else ""
    async with SessionBuffer(f"{scheme}://127.0.0.1:{safe.port}{query}") as buffer:
        history = buffer.history("eve", "s1")
        with pytest.raises(StorageError, match="certificate") as sync:
            _ = history.messages
        with pytest.raises(StorageError, match="certificate") as asynchronous:
            await history.aadd_messages([HumanMessage("lost")])
        for refused in (sync, asynchronous):
            assert type(refused.value.__cause__).__module__ == f"{SCHEMES[scheme]}.exceptions"
    async with SessionBuffer(f"{scheme}://127.0.0.1:{safe.port}?ssl_ca_certs={safe.certificate}") as buffer:
        assert buffer.info("eve", "s1") is None


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_connections_opened_at_once_read_the_systems_certificates_once(
    safe: Safe, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """It takes 30 to 80 ms, and the event loop does nothing else meanwhile."""
    make, made = ssl.create_default_context, list[ssl.SSLContext]()

    def count(*purpose: ssl.Purpose) -> ssl.SSLContext:
        made.append(make(*purpose))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", count)
    with safe.server.admin() as admin:
        before = admin.info("stats")["total_connections_received"]
        async with SessionBuffer(f"{scheme}://127.0.0.1:{safe.port}?ssl_ca_certs={safe.certificate}") as buffer:
            # What is as long as this is sent alone, over a connection of its own.
            long = [HumanMessage("x" * 100_000)]
            histories = [buffer.history(f"many by {scheme}", str(number)) for number in range(8)]
            await asyncio.gather(*(history.aadd_messages(long) for history in histories))
        # Not always one each: who comes late may find one that is free again.
        assert admin.info("stats")["total_connections_received"] - before > len(histories) / 2
    assert len(made) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_certificates_that_were_renewed_are_read_again(
    safe: Safe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    known, _ = certificate(tmp_path, "known")
    async with SessionBuffer(f"{scheme}://127.0.0.1:{safe.port}?ssl_ca_certs={known}") as buffer:
        with pytest.raises(StorageError, match="certificate"):
            await buffer.ainfo("ada", "s1")
        known.write_bytes(safe.certificate.read_bytes())
        with pytest.raises(StorageError, match="certificate"):
            await buffer.ainfo("ada", "s1")
        later = time.monotonic() + tls._FRESH
        monkeypatch.setattr(tls, "time", SimpleNamespace(monotonic=lambda: later))
        assert await buffer.ainfo("ada", "s1") is None
