"""skopeo, which gives images to registries for us, and tries credentials there. (What comes from them: registry/.)

What registries.conf(5) and certs.d say on this machine counts. Credentials reach it through a file, never through its
command line. What it says of failures becomes one line for people.
"""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from flota.rpc.errors import FlotaError, ResourceExhausted
from flota.v1.image_references import ImageReference
from flota.worker.images.credentials import auth_file, name_and_password
from flota.worker.images.errors import ImageNotFound, PullRefused, RegistryUnavailable, RegistryUnreachable
from flota.worker.images.registry.configuration import is_insecure
from flota.worker.runtime import processes
from flota.worker.runtime.processes import to_the_end

_PERIOD = 0.1
_KILL_LIMIT = 5.0
_LONGEST_OUTPUT = 1 << 20
_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
# What it did when it failed, which people need not know.
_PREAMBLE = re.compile(
    r'Error parsing image name "[^"]*": |(?:initializing|reading|copying) [a-z ]+ (?:\S+ in \S+|\S+): '
    r'|pinging container registry \S+: |(?:Get|Head) "[^"]*": |dial tcp(?: \S+)?: |Error [a-z]+ing \S+: '
)
_NOT_THERE = ("manifest unknown", "name unknown", "repository name not known", "status 404", "404 (not found)")
_NO_WAY = ("connection refused", "no such host", "unreachable", "no route to host", "i/o timeout", "server misbehaving")
_FULL = ("no space left on device", "disk quota exceeded")
_REFUSED = ("unauthorized", "denied", "authentication required", "invalid username/password", "forbidden")


class Skopeo:
    """`insecure` are hosts that may speak plain HTTP or show any certificate, as those on this machine may; `limit` are
    seconds without a byte after which a registry is given up."""

    def __init__(self, insecure: Collection[str], limit: float) -> None:
        self._insecure = frozenset(insecure)
        self._limit = limit

    @asynccontextmanager
    async def repository(self, name: ImageReference, auth: str, directory: Path) -> AsyncIterator["Repository"]:
        """Where `name` is, as long as the block lasts; what goes there is in `directory`.

        Raises InvalidArgument (auth), RegistryUnavailable (skopeo is not installed), OSError.
        """
        program = shutil.which("skopeo")
        if program is None:
            raise RegistryUnavailable("images cannot be pushed, skopeo is not installed: apt-get install skopeo")
        credentials = auth_file(name.host, auth)
        place = Path(tempfile.mkdtemp(dir=directory, prefix="pull-"))
        try:
            (place / "auth.json").write_bytes(credentials)
            yield Repository(program, name, place, is_insecure(name.host, self._insecure), self._limit)
        finally:
            await to_the_end(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))

    async def check(self, host: str, auth: str, directory: Path) -> None:
        """Whether a registry takes these credentials.

        Raises PullRefused if it does not, InvalidArgument (auth), RegistryUnavailable, OSError.
        """
        user, password = name_and_password(auth)
        # Any name will do.
        async with self.repository(ImageReference(host, "any"), "", directory) as repository:
            await repository.log_in(user, password)


class Repository:
    """One repository of a registry, while something is given to it."""

    def __init__(self, program: str, name: ImageReference, place: Path, insecure: bool, limit: float) -> None:
        self._program = program
        self._name = name
        self._place = place
        self._options = ["--tls-verify=false"] if insecure else []
        self._target_options = ["--dest-tls-verify=false"] if insecure else []
        self._limit = limit

    @property
    def place(self) -> Path:
        """For what is to be pushed."""
        return self._place

    async def push(self, layout: Path, tag: str, name: ImageReference) -> str:
        """Give an image in an OCI layout to the registry; the digest it has there.

        Raises ImageNotFound, PullRefused, RegistryUnavailable, OSError.
        """
        digest = self._place / "digest"
        command = [
            *(self._program, "--insecure-policy", "copy", "--dest-authfile", str(self._place / "auth.json")),
            *(*self._target_options, "--digestfile", str(digest), f"oci:{layout}:{tag}", f"docker://{name}"),
        ]
        await self._run(command, _activity)
        return digest.read_text().strip()

    async def log_in(self, user: str, password: str) -> None:
        """Show credentials to the registry. Raises PullRefused, RegistryUnavailable, OSError."""
        command = [
            *(self._program, "login", "--authfile", str(self._place / "login.json"), *self._options),
            *("--username", user, "--password-stdin", self._name.host),
        ]
        try:
            await self._run(command, lambda _: 0, password.encode())
        except PullRefused as error:
            raise PullRefused(f"registry {self._name.host} does not take these credentials: {error.said}") from None

    async def _run(self, command: Sequence[str], look: Callable[[int], int], told: bytes = b"") -> bytes:
        """Its output. `look` blocks, and gives another number as long as the process (its id) gets on."""
        # In memory: what it says of a full disk must not need room on it.
        with _memory("input") as input, _memory("output") as output, _memory("errors") as errors:
            input.write(told)
            input.seek(0)
            process = subprocess.Popen(  # noqa: ASYNC220 - a vfork; what takes time is the wait below
                command,
                stdin=input,
                stdout=output,
                stderr=errors,
                # Large things that it puts down meanwhile.
                env=os.environ | {"TMPDIR": str(self._place)},
            )
            try:
                await self._finished(process, look)
            except BaseException:
                process.kill()
                await to_the_end(processes.finished(process, _KILL_LIMIT))
                raise
            if process.returncode != 0:
                errors.seek(0)
                raise self.failure(errors.read(_LONGEST_OUTPUT).decode(errors="replace"))
            output.seek(0)
            return output.read(_LONGEST_OUTPUT)

    async def _finished(self, process: subprocess.Popen[bytes], look: Callable[[int], int]) -> None:
        loop = asyncio.get_running_loop()
        seen, at = -1, loop.time()
        while True:
            with suppress(TimeoutError):
                return await processes.finished(process, _PERIOD)
            now = await asyncio.to_thread(look, process.pid)
            if now != seen:
                seen, at = now, loop.time()
            elif loop.time() - at > self._limit:
                raise RegistryUnavailable(f"registry {self._name.host} sends nothing (for {self._limit:g} s)")

    def failure(self, text: str) -> FlotaError:
        """What it said, in one line for people."""
        image, host = self._name.familiar, self._name.host
        fatal = _FATAL.findall(text)
        said = _PREAMBLE.sub("", fatal[-1].replace('\\"', '"') if fatal else text.strip()[-500:])
        words = said.lower()
        if any(one in words for one in _FULL):
            return ResourceExhausted(f"no space is left for images on this node: {image}: {said}")
        if any(one in words for one in _NOT_THERE):
            return ImageNotFound(f"no such image: {image} (registry {host} has none of that name)")
        if any(one in words for one in _REFUSED):
            return PullRefused(
                f"registry {host} refuses {image}: {said} (credentials: flota login, --with-registry-auth)", said
            )
        if "server gave http response" in words:
            said = "it speaks plain HTTP, which is only trusted if the daemon's --insecure-registry names it"
        elif "certificate" in words or "x509" in words:
            said = f"{said} (is its authority in /etc/docker/certs.d/{host}/ca.crt?)"
        elif any(one in words for one in _NO_WAY):
            return RegistryUnreachable(f"registry {host} cannot be reached: {said}")
        return RegistryUnavailable(f"pushing {image} to registry {host} failed: {said}")


def _memory(name: str) -> BinaryIO:
    """A file that is on no disk."""
    return open(os.memfd_create(name), "w+b")


def _activity(process_id: int) -> int:
    """Bytes that a process has read and written; 0 if nobody knows."""
    try:
        lines = Path(f"/proc/{process_id}/io").read_text().split()
        return int(lines[1]) + int(lines[3])
    except (OSError, ValueError, IndexError):
        return 0
