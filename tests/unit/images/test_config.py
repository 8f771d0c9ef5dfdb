"""Configurations of images, which anybody may have written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.worker.images.config import ImageConfig

SECOND = 1_000_000_000


def parse(**document: Any) -> ImageConfig:
    return ImageConfig.parse(json.dumps(document).encode())


def test_all_that_is_used() -> None:
    config = parse(
        architecture="arm64",
        os="linux",
        created="2026-01-01T00:00:00Z",
        config={
            "Env": ["A=b"],
            "Entrypoint": ["/init"],
            "Cmd": ["run"],
            "WorkingDir": "/srv",
            "User": "app",
            "Labels": {"a": "b"},
            "Volumes": {"/data": {}, "/cache": {}},
            "StopSignal": "SIGQUIT",
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": SECOND, "StartPeriod": 2 * SECOND, "Retries": 3},
            "OnBuild": None,
        },
        rootfs={"type": "layers", "diff_ids": ["sha256:1", "sha256:2"]},
        history=[],
    )
    assert config.healthcheck is not None
    assert (config.healthcheck.interval.seconds, config.healthcheck.start_period.seconds) == (1, 2)
    assert (config.healthcheck.retries, config.healthcheck.HasField("timeout")) == (3, False)
    assert (config.env, config.entrypoint, config.cmd) == (("A=b",), ("/init",), ("run",))
    assert (config.working_dir, config.user, config.stop_signal) == ("/srv", "app", "SIGQUIT")
    assert (config.volumes, config.labels) == (("/cache", "/data"), {"a": "b"})
    assert config.diff_ids == ("sha256:1", "sha256:2")


def test_what_is_null_is_as_if_it_were_missing() -> None:
    nothing = {"Env": None, "Cmd": None, "Labels": None, "Volumes": None, "User": None, "Healthcheck": None}
    assert parse(config=nothing, created=None) == parse(config=None) == parse() == ImageConfig()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the document is no JSON object"),
        ({"config": []}, "config is no JSON object"),
        ({"os": 1}, "os is no text"),
        ({"config": {"Env": "A=b"}}, "Env is no list of texts"),
        ({"config": {"Cmd": [1]}}, "Cmd is no list of texts"),
        ({"config": {"Labels": ["a"]}}, "Labels is no JSON object"),
        ({"config": {"Healthcheck": {"Test": ["CMD"], "Retries": -1}}}, "Retries is no number from 0"),
        ({"config": {"Healthcheck": {"Test": ["CMD"], "Timeout": "1s"}}}, "Timeout is no number from 0"),
        ({"rootfs": {"diff_ids": [None]}}, "diff_ids is no list of texts"),
    ],
)
def test_what_makes_no_sense(document: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageConfig.parse(json.dumps(document).encode())


KEYS = ["config", "rootfs", "os", "Env", "Labels", "Healthcheck", "Test", "Interval", "Retries", "Volumes", "diff_ids"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_anything_is_read_or_refused(document: Any) -> None:
    try:
        config = ImageConfig.parse(json.dumps(document).encode())
    except ValueError:
        return
    assert all(isinstance(one, str) for one in (*config.env, *config.diff_ids, *config.labels.values()))
