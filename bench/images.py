"""How quick images come: `python -m bench.images [--json] [--rounds 3] [--directory DIR]`. Needs root.

Rows: loading the lab's busybox for the first time and again, finding it; unpacking a layer of about 100 MB made from
this machine's own files, plain and gzip, beside `tar -x` of the same; pulling both from a docker-registry on loopback,
the large one also when its lowest layer is here. Below DIR (default: where temporary files are), which should be on
the disk that images are to be on.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from flota.node.lab.busybox import write_archive
from flota.worker.images.compression import plain
from flota.worker.images.store import ImageStore
from flota.worker.images.unpack import unpack
from tests.cluster.images.registry import Registry
from tests.unit.images.making import MadeImage

_SOURCES = ("usr/lib/python3.11", "usr/lib/systemd", "usr/sbin", "etc")
_FINDS = 1000
_PART = 1 << 20


async def parts(data: bytes) -> AsyncIterator[bytes]:
    """As the command line sends it."""
    for at in range(0, len(data), _PART):
        yield data[at : at + _PART]


class Bench:
    """`rows` are seconds, a list per row."""

    def __init__(self, directory: Path) -> None:
        self.rows: dict[str, list[float]] = defaultdict(list)
        self._directory = directory
        self._number = 0

    @contextmanager
    def timed(self, row: str) -> Iterator[None]:
        """Take the time of the block."""
        begun = time.perf_counter()
        yield
        self.rows[row].append(time.perf_counter() - begun)

    def new(self) -> Path:
        """A directory that is not there yet."""
        self._number += 1
        return self._directory / str(self._number)

    @contextmanager
    def emptied(self) -> Iterator[Path]:
        """An empty directory, gone afterwards."""
        made = self.new()
        made.mkdir()
        yield made
        shutil.rmtree(made)

    async def load(self, archive: bytes) -> None:
        """A small image, for the first time and again."""
        store = ImageStore(self.new())
        await store.start()
        with self.timed("load 2 MB"):
            await store.load(parts(archive))
        with self.timed("load it again"):
            await store.load(parts(archive))
        with self.timed(f"find it {_FINDS} times"):
            for _ in range(_FINDS):
                await store.find("busybox:latest")
        await store.stop()

    def unpack(self, layer: Path, option: str, name: str) -> None:
        """A large layer, beside tar."""
        with self.emptied() as target, layer.open("rb", buffering=0) as file, self.timed(f"unpack {name}"):
            unpack(plain(file), target)
        with self.emptied() as target, self.timed(f"tar -x {name}"):
            subprocess.run(["tar", f"-xp{option}f", layer, "-C", target], check=True)

    async def pull(self, registry: Registry, rounds: int, material: "Material") -> None:
        """From a registry."""
        images = {"small": material.small, "big": material.big, "bigger": material.bigger}
        for name, image in images.items():
            registry.push(image, f"{name}:1")
        rows = {"small": "pull 1 MB", "big": "pull the large layer", "bigger": "pull it and 1 MB more"}
        for _ in range(rounds):
            store = ImageStore(self.new())
            await store.start()
            for name, row in rows.items():
                with self.timed(row):
                    await store.pull(f"{registry.address}/{name}:1")
            await store.stop()


class Material:
    """What is measured with; blocks."""

    def __init__(self, directory: Path) -> None:
        busybox = directory / "busybox.tar"
        write_archive(busybox)
        self.archive = busybox.read_bytes()
        self.layer, self.gzip_layer = directory / "layer.tar", directory / "layer.tar.gz"
        with self.layer.open("wb") as file:
            subprocess.run(["tar", "--sort=name", "-C", "/", "-c", *_SOURCES], stdout=file, check=True)
        with self.gzip_layer.open("wb") as file:
            subprocess.run(["gzip", "-c", self.layer], stdout=file, check=True)
        little = subprocess.run(["tar", "-C", "/usr/bin", "-c", "busybox"], stdout=subprocess.PIPE, check=True).stdout
        big = self.layer.read_bytes()
        self.small = MadeImage([little], compression="gzip")
        self.big = MadeImage([big], compression="gzip")
        self.bigger = MadeImage([big, little], compression="gzip")


async def measure(directory: Path, material: Material, rounds: int) -> dict[str, float]:
    """Seconds per row, medians."""
    bench = Bench(directory)
    for _ in range(3 * rounds):
        await bench.load(material.archive)
    for _ in range(rounds):
        bench.unpack(material.layer, "", "plain")
        bench.unpack(material.gzip_layer, "z", "gzip")
    registry = Registry(directory / "registry")
    registry.start()
    try:
        await bench.pull(registry, rounds, material)
    finally:
        registry.stop()
    bench.rows["MB of the layer"] = [material.layer.stat().st_size / 1e6]
    return {row: statistics.median(values) for row, values in bench.rows.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-images-", dir=given.directory) as directory:
        rows = asyncio.run(measure(Path(directory), Material(Path(directory)), given.rounds))
    if given.json:
        print(json.dumps(rows))
        return
    for row, value in rows.items():
        print(f"{row:28} {value:8.1f} MB" if "MB of" in row else f"{row:28} {value * 1000:8.1f} ms")


if __name__ == "__main__":
    main()
