"""What can be deployed and is probably not meant: `stack lint`.

Each rule is a generator over a finished project; it knows nothing of the cluster. What is wrong outright is refused
before any rule is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flota.stacks.compose.loading import Project
from flota.stacks.compose.tree import Items, Map, Spot, WrittenInt, key_path, text_of
from flota.stacks.errors import one_line
from flota.v1.image_references import ImageReference

Rule = Callable[[Map], Iterator[tuple[Spot, str]]]

# What every machine has.
_ON_EVERY_NODE = ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/log", "/etc")
_SECRET = re.compile(r"(?:^|_)(?:PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|PRIVATE_KEY)$", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Finding:
    """One line for a person."""

    file: str
    line: int
    key: str
    rule: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return one_line(f"{place}: {f'{self.key}: ' if self.key else ''}{self.message} [{self.rule}]")


def look(project: Project, documents: list[Map]) -> list[Finding]:
    """All findings of a finished project; `documents` are its files as they were read."""
    found = [_finding(name, spot, text) for name, rule in RULES.items() for spot, text in rule(project.tree)]
    found += [_finding("decimal-mode", spot, text) for tree in documents for spot, text in _modes(tree)]
    return sorted(set(found))


def _finding(rule: str, spot: Spot, text: str) -> Finding:
    return Finding(spot.place.file, spot.place.line, key_path(spot.path), rule, text)


def _services(tree: Map) -> Iterator[tuple[str, Map, Spot]]:
    spot = Spot(tree.place, ()).of(tree, "services")
    for name, service in tree["services"].items():
        yield name, service, spot.of(tree["services"], name)


def _moving_images(tree: Map) -> Iterator[tuple[Spot, str]]:
    for _, service, spot in _services(tree):
        image = ImageReference.parse(service["image"])
        if not image.digest and image.tag in ("", "latest"):
            yield (
                spot.of(service, "image"),
                f"{service['image']} is another image tomorrow, and not the same on all nodes: name a version",
            )


def _open_secrets(tree: Map) -> Iterator[tuple[Spot, str]]:
    for _, service, spot in _services(tree):
        environment = service.get("environment", Map(spot.place))
        for key, value in environment.items():
            if _SECRET.search(key) and value:
                yield (
                    spot.of(service, "environment").of(environment, key),
                    "everybody who may look at the service can read it: use secrets:",
                )


def _unused(tree: Map) -> Iterator[tuple[Spot, str]]:
    services = tree["services"].values()
    used = {
        "networks": {name for service in services for name in service.get("networks", ())},
        "volumes": {mount.get("source") for service in services for mount in service.get("volumes", ())},
        "secrets": {entry["source"] for service in services for entry in service.get("secrets", ())},
        "configs": {entry["source"] for service in services for entry in service.get("configs", ())},
    }
    for section, names in used.items():
        entries = tree.get(section, Map(tree.place))
        for name in entries:
            if name not in names:
                yield Spot(entries.place_of(name), (section, name)), "no service uses it"


def _local_data(tree: Map) -> Iterator[tuple[Spot, str]]:
    """Named volumes are one on each node; a driver's options may make them the same everywhere (NFS)."""
    volumes = tree.get("volumes", {})
    for _, service, spot in _services(tree):
        deploy = service.get("deploy", {})
        pinned = deploy.get("placement", {}).get("constraints")
        mounts: Items = service.get("volumes", Items(spot.place))
        for index, mount in enumerate(mounts):
            entry = volumes.get(mount.get("source"), {})
            if mount["type"] != "volume" or not mount.get("source") or entry.get("driver_opts"):
                continue
            here = spot.of(service, "volumes").of(mounts, index)
            if deploy.get("mode", "replicated") != "replicated" or "{{" in entry.get("name", ""):
                continue
            if deploy.get("replicas", 1) > 1:
                yield here, f"volume {mount['source']} is another one on each node: the tasks do not share it"
            elif not pinned:
                yield (
                    here,
                    f"volume {mount['source']} stays on its node: a task that moves starts without its data "
                    "(pin it with deploy.placement.constraints)",
                )


def _local_paths(tree: Map) -> Iterator[tuple[Spot, str]]:
    for _, service, spot in _services(tree):
        mounts: Items = service.get("volumes", Items(spot.place))
        for index, mount in enumerate(mounts):
            source = mount.get("source", "")
            everywhere = source == "/" or source.startswith(_ON_EVERY_NODE)
            if mount["type"] == "bind" and not everywhere and not source.startswith("{{"):
                yield (
                    spot.of(service, "volumes").of(mounts, index),
                    f"{source} must be on every node that may run the service: use configs:, secrets: or a volume",
                )


def _health(tree: Map) -> Iterator[tuple[Spot, str]]:
    for _, service, spot in _services(tree):
        wanted = service.get("depends_on", Map(spot.place))
        for other, entry in wanted.items():
            if entry["condition"] == "service_healthy" and "healthcheck" not in tree["services"][other]:
                yield (
                    spot.of(service, "depends_on").of(wanted, other),
                    f"{other} has no healthcheck: unless its image has one, healthy only means that it runs",
                )


def _apart(tree: Map) -> Iterator[tuple[Spot, str]]:
    for _, service, spot in _services(tree):
        wanted = service.get("depends_on", Map(spot.place))
        for other in wanted:
            if not set(service["networks"]) & set(tree["services"][other]["networks"]):
                yield (
                    spot.of(service, "depends_on").of(wanted, other),
                    f"it shares no network with {other}, so it cannot reach it",
                )


def _ports(tree: Map) -> Iterator[tuple[Spot, str]]:
    taken: dict[tuple[str, str], str] = {}
    for name, service, spot in _services(tree):
        ports: Items = service.get("ports", Items(spot.place))
        start_first = service.get("deploy", {}).get("update_config", {}).get("order") == "start-first"
        for index, port in enumerate(ports):
            here = spot.of(service, "ports").of(ports, index)
            published = port.get("published")
            if not published:
                continue
            if port["mode"] == "host":
                if start_first:
                    yield here, "with order: start-first the new task cannot have the port while the old one runs"
                continue
            other = taken.setdefault((published, port["protocol"]), name)
            if other != name:
                yield here, f"port {published}/{port['protocol']} is published by {other}, too"


def _modes(tree: Map) -> Iterator[tuple[Spot, str]]:
    """A mode written without its leading zero is decimal."""
    services = tree.get("services", {})
    spot = Spot(tree.place, ()).of(tree, "services")
    for name, service in services.items():
        for section in ("secrets", "configs"):
            entries = service.get(section, Items(spot.place))
            for index, entry in enumerate(entries):
                mode = entry.get("mode") if isinstance(entry, Map) else None
                if isinstance(mode, WrittenInt) and not text_of(mode).startswith("0"):
                    here = spot.of(services, name).of(service, section).of(entries, index).of(entry, "mode")
                    yield here, f"{text_of(mode)} is decimal: it means {int(mode):04o}; write 0{text_of(mode)}"


RULES: dict[str, Rule] = {
    "apart": _apart,
    "health": _health,
    "local-data": _local_data,
    "local-path": _local_paths,
    "moving-image": _moving_images,
    "open-secret": _open_secrets,
    "port-taken": _ports,
    "unused": _unused,
}
