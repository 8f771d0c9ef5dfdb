"""Registries that speak TLS, and those that want tokens. This machine has one more name meanwhile, not loopback's."""

import asyncio
import base64
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from flota.worker.images.errors import PullRefused, RegistryUnavailable, RegistryUnreachable
from flota.worker.images.store import ImageStore
from tests.cluster.images.authority import Authority, token_server
from tests.cluster.images.conftest import serving
from tests.cluster.images.registry import PASSWORD, USER, Registry, registry_auth
from tests.cluster.runtime.world import private_mounts
from tests.unit.images.making import MadeImage, docker_save, parts, tar

HOST = "registry.test"
ONE = MadeImage([tar([("x", b"x")])])
TWO = MadeImage([tar([("y", b"y")])])


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This machine is registry.test, and certs.d is ours."""
    place = tmp_path_factory.mktemp("named")
    hosts, trusted = place / "hosts", place / "docker"
    hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
    trusted.mkdir()
    made = not Path("/etc/docker").exists()
    Path("/etc/docker").mkdir(exist_ok=True)
    with private_mounts():
        subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
        subprocess.run(["mount", "--bind", str(trusted), "/etc/docker"], check=True)
        yield place
        subprocess.run(["umount", "/etc/hosts", "/etc/docker"], check=True)
    if made:
        Path("/etc/docker").rmdir()


@pytest.fixture(scope="module")
def registry(named: Path) -> Iterator[Registry]:
    """Over TLS, with a certificate that nobody vouches for yet."""
    with serving(Registry(named / "tls", auth=True, tls=Authority(named / "authority", HOST))) as made:
        made.push(ONE, "one:1")
        yield made


def named_address(registry: Registry) -> str:
    return f"{HOST}:{registry.address.rpartition(':')[2]}"


async def test_a_certificate_nobody_vouches_for(store: ImageStore, registry: Registry) -> None:
    host = named_address(registry)
    with pytest.raises(RegistryUnavailable, match=rf"certificate.*certs.d/{host}/ca.crt\?"):
        await store.pull(f"{host}/one:1", registry_auth())
    await store.load(parts(docker_save([(TWO, [f"{host}/two:1"])])))
    with pytest.raises(RegistryUnavailable, match=rf"pushing {host}/two:1 to .*certificate.*certs.d/{host}/ca.crt\?"):
        await store.push(f"{host}/two:1", registry_auth())
    with pytest.raises(RegistryUnavailable, match=rf"showing credentials to registry {host} failed: its certificate"):
        await store.check(host, registry_auth())


async def test_a_registrys_own_authority(store: ImageStore, registry: Registry, named: Path) -> None:
    host = named_address(registry)
    place = named / "docker/certs.d" / host
    place.mkdir(parents=True)
    shutil.copy(named / "authority/cert.pem", place / "ca.crt")
    try:
        assert (await store.pull(f"{host}/one:1", registry_auth())).id == ONE.id
        with pytest.raises(PullRefused, match="refuses"):
            await store.pull(f"{host}/one:1", registry_auth(password="wrong"))
        await store.load(parts(docker_save([(TWO, [f"{host}/two:1"])])))
        digest = await store.push(f"{host}/two:1", registry_auth())
        assert (await store.resolve(f"{host}/two:1", registry_auth())).digest == digest
        await store.check(host, registry_auth())
        with pytest.raises(PullRefused, match=f"registry {host} does not take these credentials"):
            await store.check(host, registry_auth(password="wrong"))
    finally:
        shutil.rmtree(named / "docker/certs.d")


async def test_the_way_through_a_proxy(
    store: ImageStore, registry: Registry, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(named / "authority/cert.pem"))
    host = named_address(registry)
    async with connect_proxy() as (address, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://some:one@{address}")
        assert (await store.pull(f"{host}/one:1", registry_auth())).id == ONE.id
        assert {(line.rpartition(" ")[0], shown) for line, shown in asked} == {
            (f"CONNECT {host}", f"Basic {base64.b64encode(b'some:one').decode()}")
        }
        del asked[:]
        monkeypatch.setenv("NO_PROXY", HOST)
        await store.resolve(f"{host}/one:1", registry_auth())
        assert asked == []
    monkeypatch.delenv("NO_PROXY")
    with pytest.raises(RegistryUnreachable, match=r"cannot be reached: connect: proxy connection refused"):
        await store.resolve(f"{host}/one:1", registry_auth())


@asynccontextmanager
async def connect_proxy() -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
    """Its address, and what it was asked: first lines, and what it was shown."""
    asked: list[tuple[str, str]] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        shown = [line.partition(": ")[2] for line in lines if line.startswith("Proxy-Authorization: ")]
        asked.append((lines[0], shown[0]))
        host, _, port = lines[0].split()[1].rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()


async def test_the_systems_authorities(
    store: ImageStore, registry: Registry, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(named / "authority/cert.pem"))
    assert (await store.pull(f"{named_address(registry)}/one:1", registry_auth())).id == ONE.id


@contextmanager
def instead_of(path: str, content: str, place: Path) -> Iterator[None]:
    """A file of this machine is another one for this module's processes."""
    place.write_text(content)
    subprocess.run(["mount", "--bind", str(place), path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


async def test_a_mirror_is_asked_first_and_the_registry_when_that_is_gone(
    store: ImageStore, named: Path, tmp_path: Path
) -> None:
    registry, mirror = Registry(tmp_path / "registry"), Registry(tmp_path / "mirror")
    for one in (registry, mirror):
        one.start()
        one.push(ONE, "mirrored:1")
    config = (
        f'[[registry]]\nlocation = "{registry.address}"\n'
        f'[[registry.mirror]]\nlocation = "{mirror.address}"\ninsecure = true\n'
    )
    name = f"{registry.address}/mirrored:1"
    try:
        with instead_of("/etc/containers/registries.conf", config, tmp_path / "registries.conf"):
            before = len(registry.requests()), len(mirror.requests())
            assert (await store.pull(name)).id == ONE.id
            assert len(registry.requests()) == before[0]
            assert len(mirror.requests()) > before[1]
            await store.remove(name)
            mirror.stop()
            assert (await store.pull(name)).id == ONE.id
            assert len(registry.requests()) > before[0]
    finally:
        registry.stop()
        mirror.stop()


async def test_tokens(store: ImageStore, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", "tokens")
    with token_server(authority, USER, PASSWORD) as realm:
        registry = Registry(tmp_path / "registry", tokens=(authority, realm))
        registry.start()
        try:
            name = f"{registry.address}/by/token:1"
            await store.load(parts(docker_save([(ONE, [name])])))
            with pytest.raises(PullRefused, match="refuses"):
                await store.push(name, registry_auth(password="wrong"))
            await store.check(registry.address, registry_auth())
            with pytest.raises(PullRefused, match="does not take these credentials"):
                await store.check(registry.address, registry_auth(password="wrong"))
            digest = await store.push(name, registry_auth())
            await store.remove(name, force=True)
            for auth in ("", registry_auth(password="wrong")):
                with pytest.raises(PullRefused, match="refuses"):
                    await store.pull(name, auth)
            pulled = await store.pull(name, registry_auth())
            assert (pulled.id, pulled.references[1].endswith(digest)) == (ONE.id, True)
        finally:
            registry.stop()
