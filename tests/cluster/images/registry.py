"""A real registry (Debian's docker-registry) on loopback, filled by skopeo."""

import base64
import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flota.node.lab import machine
from tests.addresses import free_address
from tests.cluster.images.authority import ISSUER, SERVICE, Authority
from tests.cluster.waiting import wait_until
from tests.unit.images.making import INDEX, MadeImage, sha256

USER, PASSWORD = "reader", "secret"
# As `htpasswd -B` makes it of both.
_HTPASSWD = "reader:$2b$04$.8zsnOrHdq3syfdGGP9oteAx9qOliudNHppcnFb0VwRXQhZFcSCu2"


def registry_auth(user: str = USER, password: str = PASSWORD) -> str:
    """X-Registry-Auth."""
    return base64.urlsafe_b64encode(json.dumps({"username": user, "password": password}).encode()).decode()


class Registry:
    """Serves until `stop`; what was pushed stays. With `auth`, only to who is USER; with `tls` as that; with `tokens`
    only to who has one of that authority, which are to be had at that address."""

    def __init__(
        self,
        directory: Path,
        *,
        auth: bool = False,
        host: str = "127.0.0.1",
        tls: Authority | None = None,
        tokens: tuple[Authority, str] | None = None,
    ) -> None:
        directory.mkdir()
        self._directory = directory
        self._auth = auth
        # It may be stopped and started again: the port must stay its own meanwhile.
        self.address = free_address(host)
        (directory / "htpasswd").write_text(f"{_HTPASSWD}\n")
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn", "formatter": "json"},
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.address},
        }
        if auth:
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            config["http"]["tls"] = {"certificate": str(tls.certificate_file), "key": str(tls.key_file)}
        if tokens is not None:
            authority, realm = tokens
            config["auth"] = {
                "token": {
                    "realm": realm,
                    "service": SERVICE,
                    "issuer": ISSUER,
                    "rootcertbundle": str(authority.certificate_file),
                }
            }
        # JSON is YAML.
        (directory / "config.yml").write_text(json.dumps(config))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            command = ["docker-registry", "serve", str(self._directory / "config.yml")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.01)

    @contextmanager
    def serving(self, pid: int) -> Iterator[None]:
        """Serves on a lab's machine, whose process 1 is `pid`, in place of `start` and `stop`."""
        command = ["docker-registry", "serve", str(self._directory / "config.yml")]
        process = subprocess.Popen(machine.entering(pid, command), stderr=subprocess.DEVNULL)
        ask = ["python3", "-c", f"import urllib.request as u; u.urlopen('http://{self.address}/v2/')"]

        def answers() -> bool:
            return "401" in subprocess.run(machine.entering(pid, ask), capture_output=True, text=True).stderr

        try:
            wait_until(answers, "a registry", step=0.3)
            yield
        finally:
            process.terminate()
            process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        return (self._directory / "log").read_text()

    def requests(self) -> list[str]:
        """What it was asked for: method and path."""
        found = []
        for line in self.log().splitlines():
            _, quote, rest = line.partition('"')
            if quote and rest.startswith(("GET ", "HEAD ", "POST ", "PATCH ", "PUT ")):
                found.append(rest.partition(" HTTP")[0])
        return found

    def push(self, image: MadeImage, name: str) -> str:
        """Push an image as NAME:TAG; gives back its manifest's digest."""
        return self._push([image], image.manifest, name)

    def push_index(self, images: Sequence[MadeImage], name: str) -> str:
        """Push an index of images for several platforms; gives back its digest."""
        entries = [image.descriptor(platform=True) for image in images]
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        return self._push(images, index, name)

    def _push(self, images: Sequence[MadeImage], top: bytes, name: str) -> str:
        layout = self._directory / f"layout-{time.monotonic_ns()}"
        (layout / "blobs/sha256").mkdir(parents=True)
        for blob in (top, *(blob for image in images for blob in image.blobs())):
            (layout / "blobs" / sha256(blob).replace(":", "/")).write_bytes(blob)
        entry: Mapping[str, Any] = {
            "mediaType": json.loads(top)["mediaType"],
            "digest": sha256(top),
            "size": len(top),
            "annotations": {"org.opencontainers.image.ref.name": "it"},
        }
        (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        command = ["skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false"]
        command += [f"--dest-creds={USER}:{PASSWORD}"] if self._auth else []
        command += [f"oci:{layout}:it", f"docker://{self.address}/{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return sha256(top)

    def _answers(self) -> bool:
        try:
            trust = ssl._create_unverified_context()
            urllib.request.urlopen(f"{self._scheme}://{self.address}/v2/", timeout=5, context=trust).close()
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False
        return True
