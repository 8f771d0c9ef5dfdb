"""From a task to its container, up to the moment before the program runs: image, secrets, network, container."""

from flota.v1.objects_pb2 import Task
from flota.v1.process_pb2 import PreparedTask
from flota.worker.images.config import ImageConfig
from flota.worker.runtime.container import Container
from flota.worker.tasks.health import Check, merged
from flota.worker.tasks.log_driver import log_of
from flota.worker.tasks.parts import Parts
from flota.worker.tasks.template import expanded, render_payload


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
