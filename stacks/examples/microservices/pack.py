"""Put a base layer and the application's folder together as an OCI image layout in one tar.

    pack.py BASE.tar.gz APP_FOLDER OUT.tar VERSION

The image specification's layout: oci-layout, index.json, and blobs named by their digest.
"""

import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

BINARY = {"amd64": "x86_64", "arm64": "aarch64"}


def application_layer(folder: Path) -> bytes:
    """The application under /srv, as an uncompressed tar; the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in sorted(folder.glob("*.py")):
            entry = tarfile.TarInfo(f"srv/app/{file.name}")
            entry.size, entry.mode = file.stat().st_size, 0o644
            tar.addfile(entry, io.BytesIO(file.read_bytes()))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def uncompressed_digest(file: Path) -> str:
    """Digest of what is inside a gzip, kept beside it: it costs a second to compute."""
    note = file.with_suffix(".diffid")
    if not note.exists():
        sha = hashlib.sha256()
        with gzip.open(file) as data:
            while chunk := data.read(1 << 20):
                sha.update(chunk)
        note.write_text("sha256:" + sha.hexdigest())
    return note.read_text()


def architecture() -> str:
    import platform

    machine = platform.machine()
    return next((name for name, kernel in BINARY.items() if kernel == machine), machine)


def main(base: Path, folder: Path, out: Path, version: str) -> None:
    layer = application_layer(folder)
    with base.open("rb") as data:
        base_digest = "sha256:" + hashlib.file_digest(data, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Env": [
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    f"APP_VERSION={version}",
                    "PYTHONUNBUFFERED=1",
                    "PYTHONDONTWRITEBYTECODE=1",
                ],
                "WorkingDir": "/srv",
                "Cmd": ["python3", "-m", "app.portal"],
                "ExposedPorts": {"8080/tcp": {}},
            },
            "rootfs": {"type": "layers", "diff_ids": [uncompressed_digest(base), digest(layer)]},
        }
    ).encode()
    kind = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [
                {"mediaType": f"{kind}.layer.v1.tar+gzip", "digest": base_digest, "size": base.stat().st_size},
                {"mediaType": f"{kind}.layer.v1.tar", "digest": digest(layer), "size": len(layer)},
            ],
        }
    ).encode()
    index = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": f"{kind}.manifest.v1+json",
                    "digest": digest(manifest),
                    "size": len(manifest),
                    "annotations": {
                        "org.opencontainers.image.ref.name": version,
                        "io.containerd.image.name": f"docker.io/library/microservices:{version}",
                    },
                }
            ],
        }
    ).encode()
    unfinished = out.with_name(out.name + ".part")
    with tarfile.open(unfinished, "w") as tar:
        for name, data in (
            ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
            ("index.json", index),
            *((f"blobs/sha256/{digest(blob)[7:]}", blob) for blob in (config, manifest, layer)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
        entry = tarfile.TarInfo(f"blobs/sha256/{base_digest[7:]}")
        entry.size, entry.mode = base.stat().st_size, 0o644
        with base.open("rb") as data:
            tar.addfile(entry, data)
    shutil.move(unfinished, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
