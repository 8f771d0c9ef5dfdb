"""Registries that speak plain HTTP: only where it is allowed. This machine has another name meanwhile, which is none of
loopback's."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flota.worker.images.errors import RegistryUnavailable
from flota.worker.images.store import ImageStore
from tests.cluster.images.conftest import serving
from tests.cluster.images.registry import Registry
from tests.cluster.runtime.world import private_mounts
from tests.unit.images.making import MadeImage, tar

ONE = MadeImage([tar([("x", b"x")])])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """At registry.test, for this module's processes alone."""
    directory = tmp_path_factory.mktemp("registry")
    hosts = directory / "hosts"
    hosts.write_text("127.0.0.1 localhost registry.test\n")
    with private_mounts():
        subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
        with serving(Registry(directory / "plain")) as made:
            yield made
        subprocess.run(["umount", "/etc/hosts"], check=True)


@pytest.mark.parametrize("allowed", [False, True])
async def test_plain_http_only_where_it_is_allowed(tmp_path: Path, registry: Registry, allowed: bool) -> None:
    registry.push(ONE, "plain:1")
    host = f"registry.test:{registry.address.rpartition(':')[2]}"
    store = ImageStore(tmp_path / "images", insecure_registries=[host] if allowed else [], pull_limit=60)
    await store.start()
    try:
        if allowed:
            assert (await store.pull(f"{host}/plain:1")).id == ONE.id
        else:
            with pytest.raises(
                RegistryUnavailable, match=f"{host} failed: it speaks plain HTTP, which is only trusted"
            ):
                await store.pull(f"{host}/plain:1")
    finally:
        await store.stop()
