"""busybox:latest, made from this machine's own static busybox: there is always something to run, without a registry.

The archive is the same for the same busybox, byte for byte, so that every node has the same image id.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

from flota.node.lab.errors import LabError

REFERENCE = "busybox:latest"
_INSTALL = "apt-get install busybox-static"
_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"
    "nobody:x:65534:65534:nobody:/home:/bin/false\n",
    "group": "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
}
_DIRECTORIES = ("bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "home", "root", "var", "var/www")


def write_archive(target: Path, reference: str = REFERENCE) -> None:
    """Write the image as `docker save` would. Raises LabError when there is no static busybox."""
    layer = _layer(_executable())
    digest = hashlib.sha256(layer).hexdigest()
    configuration = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}/layer.tar"]}]).encode()
    with tarfile.open(target, "w") as archive:
        for path, content in ((name, configuration), (f"{digest}/layer.tar", layer), ("manifest.json", manifest)):
            _add_file(archive, path, content)


def _executable() -> Path:
    for directory in os.get_exec_path():
        file = Path(directory) / "busybox"
        if os.access(file, os.X_OK):
            with file.open("rb") as opened:
                # A dynamic one names its loader here.
                if b"/ld-" in opened.read(4096):
                    raise LabError(f"{file} needs shared libraries, a lab needs a static one ({_INSTALL})")
            return file
    raise LabError(f"busybox is not installed ({_INSTALL})")


def _layer(busybox: Path) -> bytes:
    applets = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for directory in _DIRECTORIES:
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        layer.addfile(entry)
        _add_file(layer, "bin/busybox", busybox.read_bytes(), 0o755)
        for name, content in _ETC.items():
            _add_file(layer, f"etc/{name}", content.encode())
        for applet in sorted(set(applets) - {"bin/busybox", "linuxrc"}):
            # Hard links, as in Docker's own image: a file less to make and to delete for each, on every node.
            entry = tarfile.TarInfo(applet)
            entry.type, entry.linkname, entry.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
            layer.addfile(entry)
    return buffer.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
