"""Secrets and configs of this node's tasks: in memory only, as the managers sent them; given to containers as files."""

from collections.abc import Callable, Iterable

from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.objects_pb2 import Config, Secret, Task
from flota.v1.types_pb2 import FileTarget
from flota.worker.runtime.container import BadContainer, ContainerError, PlacedFile

_SECRETS = "/run/secrets/"
_MODE = 0o444
TEMPLATED = "golang"

Render = Callable[[str, str], str]


class Payloads:
    """What is known at the moment, by id."""

    def __init__(self) -> None:
        self._secrets: dict[str, Secret] = {}
        self._configs: dict[str, Config] = {}

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        """Take over secrets and configs (other kinds are skipped). `complete` replaces all known ones."""
        if complete:
            self._secrets.clear()
            self._configs.clear()
        for change in changes:
            kind = change.WhichOneof("item")
            removed = change.action == AssignmentChange.ACTION_REMOVE
            if kind == "secret":
                if removed:
                    self._secrets.pop(change.secret.id, None)
                else:
                    self._secrets[change.secret.id] = change.secret
            elif kind == "config":
                if removed:
                    self._configs.pop(change.config.id, None)
                else:
                    self._configs[change.config.id] = change.config

    def secret(self, task: Task, target: str) -> bytes:
        """The secret that the task has under the name `target`. Raises BadContainer, ContainerError."""
        for reference in task.spec.container.secrets:
            if target in (reference.file.name, reference.secret_name):
                return self._secret(reference.secret_id, reference.secret_name).spec.data
        raise BadContainer(f"a template asks for secret {target!r}, which the service does not have")

    def config(self, task: Task, target: str) -> bytes:
        """The config that the task has under the name `target`. Raises BadContainer, ContainerError."""
        for reference in task.spec.container.configs:
            if target in (reference.file.name, reference.config_name):
                return self._config(reference.config_id, reference.config_name).spec.data
        raise BadContainer(f"a template asks for config {target!r}, which the service does not have")

    def files(self, task: Task, render: Render) -> tuple[PlacedFile, ...]:
        """A task's secrets and configs; `render` gives the content of one that is a template, by name and text.

        Raises BadContainer, and ContainerError while one of them has not come yet.
        """
        result = []
        for one in task.spec.container.secrets:
            secret = self._secret(one.secret_id, one.secret_name).spec
            data = _content("secret", one.secret_name, secret.data, secret.template_driver, render)
            result.append(_placed(one.file, one.secret_name, _SECRETS, data))
        for other in task.spec.container.configs:
            config = self._config(other.config_id, other.config_name).spec
            data = _content("config", other.config_name, config.data, config.template_driver, render)
            result.append(_placed(other.file, other.config_name, "/", data))
        return tuple(result)

    def _secret(self, secret_id: str, name: str) -> Secret:
        if (found := self._secrets.get(secret_id)) is None:
            raise ContainerError(f"secret {name} has not come to this node yet")
        return found

    def _config(self, config_id: str, name: str) -> Config:
        if (found := self._configs.get(config_id)) is None:
            raise ContainerError(f"config {name} has not come to this node yet")
        return found


def _content(kind: str, name: str, data: bytes, driver: str, render: Render) -> bytes:
    if not driver:
        return data
    if driver != TEMPLATED:
        raise BadContainer(f"invalid template driver {driver!r} of {kind} {name}: {TEMPLATED} is the only one")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadContainer(f"{kind} {name} is to be a template and is not UTF-8 text") from None
    return render(f"{kind} {name}", text).encode()


def _placed(file: FileTarget, name: str, directory: str, data: bytes) -> PlacedFile:
    target = file.name or name
    path = target if target.startswith("/") else directory + target
    return PlacedFile(path, data, _number("uid", file.uid, path), _number("gid", file.gid, path), file.mode or _MODE)


def _number(field: str, value: str, path: str) -> int:
    if not value:
        return 0
    if not value.isascii() or not value.isdigit():
        raise BadContainer(f"invalid {field} {value!r} of {path}: a number is needed")
    return int(value)
