"""Templates in specs: {{.Service.Name}}, {{.Task.Slot}}, {{.Node.Hostname}} … made into what they are for one task.

They may stand in env, hostname and mounts, and in the content of secrets and configs made with --template-driver
golang, which also know `env`, `secret` and `config`. What may be asked for: SwarmKit's template package.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flota.templates import Row, Strings, Template, TemplateError
from flota.v1.ids import container_id
from flota.v1.network_options import HOST
from flota.v1.objects_pb2 import Task
from flota.v1.specs_pb2 import ContainerSpec
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import Mount, Platform
from flota.worker.runtime.container import BadContainer
from flota.worker.tasks.payloads import Payloads

_MARK = "{{"


@dataclass(frozen=True)
class NodeFacts:
    """What a template may ask of the node."""

    id: str
    hostname: str
    platform: Platform


def expanded(task: Task, node: NodeFacts) -> Task:
    """A copy of the task without templates, and always with a hostname. Raises BadContainer."""
    result = Task()
    result.CopyFrom(task)
    container = result.spec.container
    if not container.hostname:
        # As Docker has it: the beginning of the container's id, and on the network host what the node is called.
        on_host = any(attachment.network_id == HOST for attachment in task.networks)
        container.hostname = node.hostname if on_host else container_id(task.id)[:12]
    if not _has_templates(container):
        return result
    data = _data(task, node)
    container.hostname = _render("hostname", container.hostname, data)
    for index, entry in enumerate(container.env):
        name, equals, value = entry.partition("=")
        container.env[index] = name + equals + _render(f"environment variable {name}", value, data)
    for mount in container.mounts:
        _expand_mount(mount, data)
    return result


def render_payload(what: str, text: str, task: Task, node: NodeFacts, payloads: Payloads) -> str:
    """The content of a secret or config (`what`, for people) for `task`, which is expanded. Raises BadContainer."""
    variables = dict(entry.partition("=")[::2] for entry in task.spec.container.env)
    functions = {
        "env": lambda name: variables.get(name, ""),
        "secret": lambda target: payloads.secret(task, target).decode(errors="replace"),
        "config": lambda target: payloads.config(task, target).decode(errors="replace"),
    }
    try:
        return Template(text, literal=True).render(_data(task, node), functions)
    except TemplateError as error:
        raise BadContainer(f"invalid template in {what}: {error}") from None


def _has_templates(container: ContainerSpec) -> bool:
    texts = [container.hostname, *container.env]
    for mount in container.mounts:
        texts += [mount.source, mount.target, *mount.volume_labels.values(), *mount.volume_driver.options.values()]
    return any(_MARK in text for text in texts)


def _expand_mount(mount: Mount, data: Mapping[str, object]) -> None:
    where = f"mount {mount.target}"
    mount.source = _render(f"source of {where}", mount.source, data)
    mount.target = _render(f"target of {where}", mount.target, data)
    for texts in (mount.volume_labels, mount.volume_driver.options if mount.HasField("volume_driver") else {}):
        for key in list(texts):
            texts[key] = _render(f"{key} of {where}", texts[key], data)


def _render(what: str, text: str, data: Mapping[str, object]) -> str:
    if _MARK not in text:
        return text
    try:
        return Template(text, literal=True).render(data)
    except TemplateError as error:
        raise BadContainer(f"invalid template {text!r} in {what}: {error}") from None


def _data(task: Task, node: NodeFacts) -> Row:
    return Row(
        {
            "Service": Row(
                {
                    "ID": task.service_id,
                    "Name": task.service_annotations.name,
                    "Labels": Strings(task.service_annotations.labels),
                }
            ),
            "Node": Row(
                {
                    "ID": node.id,
                    "Hostname": node.hostname,
                    "Platform": Row({"OS": node.platform.os, "Architecture": node.platform.architecture}),
                }
            ),
            "Task": Row({"ID": task.id, "Name": task_name(task), "Slot": str(task.slot or task.node_id)}),
        }
    )
