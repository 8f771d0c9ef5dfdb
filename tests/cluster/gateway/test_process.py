"""The gateway's process by itself: mutual TLS, and its end when nobody asks."""

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.addresses import free_address
from tests.cluster.daemon.daemons import Daemon
from tests.cluster.gateway.certificates import write_certificates

ROOT = Path(__file__).resolve().parents[3]


@asynccontextmanager
async def gateway(listening: socket.socket, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that accepts on `listening`; its daemon is nowhere."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flota.gateway", "--daemon=unix:///nowhere/flota.sock", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[listening.fileno()], cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.stdin.close()
        async with asyncio.timeout(60):
            await process.wait()


async def test_only_who_has_a_certificate_is_heard(tmp_path: Path) -> None:
    write_certificates(tmp_path / "tls")
    write_certificates(tmp_path / "stranger")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/v1.41/info"
        async with (
            gateway(listening, f"--secure={listening.fileno()}", f"--tls={tmp_path / 'tls'}"),
            aiohttp.ClientSession() as session,
        ):
            context = ssl.create_default_context(cafile=tmp_path / "tls/ca.pem")
            with pytest.raises(aiohttp.ClientError):
                await session.get(url, ssl=context)
            context.load_cert_chain(tmp_path / "stranger/cert.pem", tmp_path / "stranger/key.pem")
            with pytest.raises(aiohttp.ClientError):
                await session.get(url, ssl=context)
            context = ssl.create_default_context(cafile=tmp_path / "tls/ca.pem")
            context.load_cert_chain(tmp_path / "tls/cert.pem", tmp_path / "tls/key.pem")
            async with session.get(url, ssl=context) as answer:
                # Its daemon is nowhere, and it says so in Docker's form.
                assert answer.status == 503
                assert answer.headers["Api-Version"] == "1.48"
                assert set(await answer.json()) == {"message"}


async def test_a_daemon_serves_other_machines_too(tmp_path: Path) -> None:
    write_certificates(tmp_path / "tls")
    address = free_address()
    daemon = Daemon(tmp_path, "one")
    daemon.arguments = [address, str(tmp_path / "tls")]
    await daemon.start()
    try:
        context = ssl.create_default_context(cafile=tmp_path / "tls/ca.pem")
        context.load_cert_chain(tmp_path / "tls/cert.pem", tmp_path / "tls/key.pem")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"https://{address}/_ping", ssl=context) as answer,
        ):
            assert (answer.status, answer.headers["Swarm"], await answer.text()) == (200, "inactive", "OK")
        assert (daemon.run / "docker.sock").stat().st_mode & 0o777 == 0o600
    finally:
        await daemon.end()
    assert not (daemon.run / "docker.sock").exists()


async def test_versions_and_pages_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        async with (
            gateway(listening, f"--plain={listening.fileno()}"),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        ):
            for page, status, words in (
                ("/v1.99/info", 400, "client version 1.99 is too new. Maximum supported API version is 1.48"),
                ("/v1.12/info", 400, "client version 1.12 is too old. Minimum supported API version is 1.24"),
                ("/v1.41/nothing", 404, "page not found"),
                ("/v1.41/nodes?filters=x", 400, "JSON object"),
            ):
                async with session.get(f"http://docker{page}") as answer:
                    assert answer.status == status
                    assert words in (await answer.json())["message"]


async def test_it_ends_when_nobody_asks(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        async with gateway(listening, f"--plain={listening.fileno()}", "--idle=0.1") as process, asyncio.timeout(60):
            assert await process.wait() == 0
