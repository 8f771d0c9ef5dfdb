"""What an image says about the containers made from it: its configuration, in the OCI image specification's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flota.v1.types_pb2 import HealthConfig


@dataclass(frozen=True)
class ImageConfig:
    """The parts of an image's configuration that a worker uses."""

    architecture: str = ""
    os: str = ""
    created: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: HealthConfig | None = None
    # sha256:… of each layer's uncompressed tar, lowest first.
    diff_ids: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """From the JSON of an image's configuration. Raises ValueError."""
        try:
            document = json.loads(data)
            runs: dict[str, Any] = document.get("config") or {}
            return cls(
                architecture=document.get("architecture", ""),
                os=document.get("os", ""),
                created=document.get("created") or "",
                env=tuple(runs.get("Env") or ()),
                entrypoint=tuple(runs.get("Entrypoint") or ()),
                cmd=tuple(runs.get("Cmd") or ()),
                working_dir=runs.get("WorkingDir") or "",
                user=runs.get("User") or "",
                labels=dict(runs.get("Labels") or {}),
                volumes=tuple(sorted(runs.get("Volumes") or {})),
                stop_signal=runs.get("StopSignal") or "",
                healthcheck=_health(runs.get("Healthcheck")),
                diff_ids=tuple(document["rootfs"]["diff_ids"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an image configuration: {error!r}") from None


def _health(document: dict[str, Any] | None) -> HealthConfig | None:
    if not document or not document.get("Test"):
        return None
    config = HealthConfig(test=document["Test"], retries=document.get("Retries") or 0)
    for name in ("Interval", "Timeout", "StartPeriod", "StartInterval"):
        if document.get(name):
            field_name = {"StartPeriod": "start_period", "StartInterval": "start_interval"}.get(name, name.lower())
            getattr(config, field_name).FromNanoseconds(document[name])
    return config
