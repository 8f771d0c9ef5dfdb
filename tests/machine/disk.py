"""A leader's disk answers EIO (dm-flakey): it steps down and says so, others lead, and nothing acknowledged is lost.

Without a journal the file system stays as it is, and the manager comes back by itself when the disk does. With one, as
machines have it, ext4 gives up, and has to be mounted again.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc.aio

from flota.v1.control_pb2 import CreateConfigRequest
from flota.v1.specs_pb2 import ConfigSpec
from flota.v1.types_pb2 import Annotations
from tests.cluster.manager import log_on_disk
from tests.cluster.manager import test_failing_disk as failing
from tests.cluster.manager.processes import ManagerProcess
from tests.machine.telling import end, must, say, tried

# The machine may be slow.
failing.PATIENCE = 600


def sh(line: str) -> str:
    done = subprocess.run(line, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{line}: {done.stdout}")
    return done.stdout.strip()


class Disk:
    """A file system on `device` behind the device mapper."""

    def __init__(self, name: str, device: str, *, journal: bool) -> None:
        self._name, self._device, self.path = name, device, Path("/mnt") / name
        self.path.mkdir()
        self._size = sh(f"blockdev --getsz {device}")
        sh(f"dmsetup --noudevsync create {name} --table '{self._linear}'")
        self._node = f"/dev/{sh(f'dmsetup info -c --noheadings -o blkdevname {name}')}"
        sh(f"mke2fs -q -F -t ext4 {'' if journal else '-O ^has_journal'} {self._node}")
        sh(f"mount {self._node} {self.path}")

    @property
    def _linear(self) -> str:
        return f"0 {self._size} linear {self._device} 0"

    def _become(self, table: str) -> None:
        name = self._name
        sh(f"dmsetup --noudevsync suspend --noflush --nolockfs {name}")
        sh(f"dmsetup --noudevsync load {name} --table '{table}' && dmsetup --noudevsync resume {name}")

    def fail(self) -> None:
        """Every write ends with EIO."""
        self._become(f"0 {self._size} flakey {self._device} 0 0 1000000 1 error_writes")

    def mend(self) -> None:
        self._become(self._linear)

    def mount_again(self) -> None:
        """Only what the device has stays."""
        sh(f"umount {self.path}; fsck.ext4 -p {self._node} || [ $? -lt 4 ]; mount {self._node} {self.path}")

    def remove(self) -> None:
        sh(f"umount {self.path}; dmsetup --noudevsync remove {self._name}")


def log(disk: Disk) -> None:
    """One log by itself: what was acknowledged is there, also when the page cache is gone."""
    command = [sys.executable, log_on_disk.__file__, str(disk.path / "log")]

    def read() -> list[int]:
        return list(map(int, subprocess.check_output([*command, "read"], text=True).split()))

    with subprocess.Popen([*command, "write"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(3)]
        disk.fail()
        rest, _ = writer.communicate("go on\n")
    acknowledged += map(int, rest.split())
    must("the log stopped at what the disk refused", len(acknowledged) < 99, acknowledged)
    disk.mend()
    disk.mount_again()
    must("what it acknowledged is there", read()[: len(acknowledged)] == acknowledged)


async def managers(disk: Disk, *, journal: bool) -> None:
    where = disk.path.with_name(f"{disk.path.name}-managers")
    where.mkdir()
    first, second, third = everyone = [ManagerProcess(where, name) for name in ("m1", "m2", "m3")]
    first.raft_directory = disk.path / "raft"
    try:
        ready = [await first.init(), await second.join(first), await third.join(first)]
        must("three managers, m1 leads", ready == ["ready"] * 3)
        written = {await failing.write(second, f"before{number}") for number in range(5)}
        disk.fail()
        written |= {await failing.write(second, f"meanwhile{number}") for number in range(20)}
        must("m1's disk fails, the others go on", await failing.names(third) == written)
        why = await failing.trouble(first, there=True)
        must("m1 says why it does not take part", "Input/output error" in why or "Read-only" in why, why)
        await third.kill()
        try:
            async with first.control() as control:
                spec = ConfigSpec(annotations=Annotations(name="never"), data=b"x")
                await control.CreateConfig(CreateConfigRequest(spec=spec), timeout=60)
            must("m1 and m2 alone claim nothing", False)
        except grpc.aio.AioRpcError as error:
            quorum_or_disk = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            must("m1 and m2 alone claim nothing", quorum_or_disk, error.details())
        await third.start(third.config())
        disk.mend()
        if journal:
            say("ext4 has given up:", sh(f"grep {disk.path} /proc/mounts"))
        else:
            await failing.trouble(first, there=False)
            written.add(await failing.write(first, "afterwards"))
            must("m1 takes part again by itself", True)
        for manager in everyone:
            await manager.kill()
        disk.mount_again()
        for manager in everyone:
            await manager.start(manager.config())
        # What was refused for want of a quorum may have been decided since.
        found = [await failing.names(manager) - {"never"} for manager in everyone]
        must(f"killed, and mounted again: each has all {len(written)} acknowledged writes", found == [written] * 3)
    finally:
        for manager in everyone:
            await manager.end()


def main() -> int:
    sh("modprobe -a dm-mod dm-flakey")
    device = next(name for name in ("/dev/vdb", "/dev/ubdb") if Path(name).exists())
    for name, journal in (("plain", False), ("journal", True)):

        def told(name: str = name, journal: bool = journal) -> None:
            disk = Disk(name, device, journal=journal)
            log(disk)
            asyncio.run(managers(disk, journal=journal))
            disk.remove()

        tried(f"EIO, ext4 {'with' if journal else 'without'} a journal", told)
    return end()


if __name__ == "__main__":
    sys.exit(main())
