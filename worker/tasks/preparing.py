"""From a task to its container, up to the moment before the program runs: image, secrets, network, container."""

from pathlib import Path

from flota.v1.objects_pb2 import Task
from flota.v1.process_pb2 import PreparedTask
from flota.v1.types_pb2 import Driver
from flota.worker.images.config import ImageConfig
from flota.worker.runtime.container import BadContainer, Container, Log
from flota.worker.tasks.health import Check, merged
from flota.worker.tasks.parts import Parts
from flota.worker.tasks.template import expanded, render_payload

# What people call the log that this node keeps: Docker's names for logs in files.
_FILES = ("", "json-file", "local", "k8s-file")
_NONE, _JOURNALD = "none", "journald"
_LOG_DRIVERS = (*_FILES[1:], _JOURNALD, _NONE)
# Of a log that nobody said anything about: a program that says the same thing for ever must not fill its node's disk.
_DEFAULT_SIZE = 100 << 20
_JOURNAL = Path("/run/systemd/journal/socket")
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


async def prepare(task: Task, parts: Parts) -> PreparedTask:
    """Make the task's container. What was made before a failure is left to whoever called: see Controller.

    Raises ContainerError, OverlayError, FlotaError, of which BadContainer, BadAddress and ImageNotFound (say) will be
    the same at every try.
    """
    parts.containers.expect()
    wanted = expanded(task, parts.node)
    container = wanted.spec.container

    async def credentials() -> str:
        # Those in the spec may have run out by now.
        return await parts.credentials(task.id) or container.registry_auth

    image = await parts.images.provide(container.image, credentials)
    parts.images.hold(task.id, image.id)
    prepared = decide(task, image.id, image.config)
    files = parts.payloads.files(
        wanted, lambda what, text: render_payload(what, text, wanted, parts.node, parts.payloads)
    )
    log = log_of(task.log_driver)
    sandbox = await parts.networks.attach(wanted)
    prepared.ports.extend(sandbox.ports)
    await parts.containers.create(
        Container(wanted, image.config, image.layers, sandbox, container.hostname, files, log, parts.again)
    )
    return prepared


def decide(task: Task, image_id: str, image: ImageConfig) -> PreparedTask:
    """What follows from task and image together. Raises BadContainer."""
    container = task.spec.container
    spec = container.healthcheck if container.HasField("healthcheck") else None
    healthcheck = merged(spec, image.healthcheck)
    Check.of(healthcheck)
    return PreparedTask(
        image_id=image_id, stop_signal=container.stop_signal or image.stop_signal, healthcheck=healthcheck
    )


def log_of(driver: Driver) -> Log:
    """How the container's log is kept. Raises BadContainer."""
    if driver.name == _NONE:
        return Log(kept=False)
    if driver.name == _JOURNALD and not _JOURNAL.exists():
        raise BadContainer(f"log driver journald: no journald listens on this node ({_JOURNAL})")
    if driver.name not in _FILES and driver.name != _JOURNALD:
        raise BadContainer(f"unknown log driver {driver.name!r}: this node has {', '.join(_LOG_DRIVERS)}")
    return Log(size=_size(driver.options.get("max-size", "")), journal=driver.name == _JOURNALD)


def _size(max_size: str) -> int:
    """Bytes after which a new file takes the log's place; 0 = never ("-1"). Raises BadContainer."""
    text = max_size.strip().lower()
    if not text:
        return _DEFAULT_SIZE
    if text == "-1":
        return 0
    digits = text.removesuffix("b").rstrip("kmg")
    unit = text[len(digits) :].removesuffix("b")
    if not digits.isdigit() or not digits.isascii() or unit not in _UNITS:
        raise BadContainer(f"invalid max-size {text!r} of the log: a size such as 500k, 10m or 1g is needed")
    return int(digits) * _UNITS[unit]
