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
        """From the JSON of an image's configuration, which anybody may have written. Raises ValueError."""
        document = _object(json.loads(data), "the document")
        runs = _object(document.get("config"), "config")
        return cls(
            architecture=_text(document, "architecture"),
            os=_text(document, "os"),
            created=_text(document, "created"),
            env=_texts(runs, "Env"),
            entrypoint=_texts(runs, "Entrypoint"),
            cmd=_texts(runs, "Cmd"),
            working_dir=_text(runs, "WorkingDir"),
            user=_text(runs, "User"),
            labels={key: str(value) for key, value in _object(runs.get("Labels"), "Labels").items()},
            volumes=tuple(sorted(_object(runs.get("Volumes"), "Volumes"))),
            stop_signal=_text(runs, "StopSignal"),
            healthcheck=_health(_object(runs.get("Healthcheck"), "Healthcheck")),
            diff_ids=_texts(_object(document.get("rootfs"), "rootfs"), "diff_ids"),
        )


def _health(document: dict[str, Any]) -> HealthConfig | None:
    if not document.get("Test"):
        return None
    config = HealthConfig(test=_texts(document, "Test"), retries=_number(document, "Retries", (1 << 32) - 1))
    for name, duration in (
        ("Interval", config.interval),
        ("Timeout", config.timeout),
        ("StartPeriod", config.start_period),
        ("StartInterval", config.start_interval),
    ):
        if nanoseconds := _number(document, name, (1 << 63) - 1):
            duration.FromNanoseconds(nanoseconds)
    return config


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no JSON object")
    return value


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    return value


def _texts(document: dict[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key} is no list of texts")
    return tuple(value)


def _number(document: dict[str, Any], key: str, largest: int) -> int:
    value = document.get(key) or 0
    if not isinstance(value, int) or not 0 <= value <= largest:
        raise ValueError(f"{key} is no number from 0")
    return value
