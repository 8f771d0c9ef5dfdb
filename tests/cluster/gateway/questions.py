"""What dashboards and proxies ask, as their public sources have it: none of them may get an error.

Portainer without an agent, Swarmpit, Traefik's and Caddy's swarm providers.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

ALL = {"desired-state": {"running": True}}
QUESTIONS: dict[str, list[tuple[str, dict[str, Any] | None]]] = {
    "portainer": [
        ("/_ping", None),
        ("/v1.41/info", None),
        ("/v1.41/version", None),
        ("/v1.41/swarm", None),
        ("/v1.41/nodes", None),
        ("/v1.41/services?status=true", None),
        ("/v1.41/tasks", None),
        ("/v1.41/containers/json?all=1", None),
        ("/v1.41/containers/json?all=true", {"label": ["com.docker.compose.project"]}),
        ("/v1.41/images/json", None),
        ("/v1.41/volumes", {"dangling": ["true"]}),
        ("/v1.41/networks", None),
        ("/v1.41/secrets", None),
        ("/v1.41/configs", None),
        ("/v1.41/plugins", None),
        ("/v1.41/system/df", None),
    ],
    "traefik": [
        ("/v1.24/version", None),
        ("/v1.24/services", None),
        ("/v1.24/networks", {"driver": {"overlay": True}, "scope": {"swarm": True}}),
        ("/v1.24/tasks", ALL),
    ],
    "caddy": [
        ("/v1.40/info", None),
        ("/v1.40/networks", None),
        ("/v1.40/configs", None),
        ("/v1.40/containers/json", None),
        ("/v1.40/services", None),
        ("/v1.40/tasks", ALL | {"service": {"nothing": True}}),
    ],
    "swarmpit": [
        ("/v1.30/version", None),
        ("/v1.30/nodes", None),
        ("/v1.30/services", {"label": ["com.docker.stack.namespace=shop"]}),
        ("/v1.30/tasks", None),
        ("/v1.30/networks", {"label": ["com.docker.stack.namespace=shop"]}),
        ("/v1.30/volumes", {"label": ["com.docker.stack.namespace=shop"]}),
        ("/v1.30/secrets", None),
        ("/v1.30/configs", None),
        ("/v1.30/images/busybox/json", None),
    ],
}


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


def ask_all(path: Path) -> None:
    """Ask everything at the socket `path`; fails at the first error."""
    connection = Connection(path)
    for who, questions in QUESTIONS.items():
        for page, filters in questions:
            query = f"{'&' if '?' in page else '?'}filters={quote(json.dumps(filters))}" if filters else ""
            connection.request("GET", page + query)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, f"{who}: {page}: {body!r}"
            if page != "/_ping":
                json.loads(body)
    connection.close()


def asked(path: Path, page: str, filters: dict[str, Any] | None = None) -> Any:
    """The JSON that the socket `path` answers to one question of today's version."""
    connection = Connection(path)
    try:
        connection.request("GET", f"/v1.48{page}" + (f"?filters={quote(json.dumps(filters))}" if filters else ""))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def traefik_sees(path: Path, service_name: str) -> dict[str, Any]:
    """What Traefik's swarm provider (v3) makes of a service, by the same steps: its addresses and its tasks'."""
    names = {each["Id"]: each["Name"] for each in asked(path, "/networks", {"scope": {"swarm": True}})}
    (service,) = [each for each in asked(path, "/services") if each["Spec"]["Name"] == service_name]
    wanted = {"service": {service["ID"]: True}, "desired-state": {"running": True}}
    tasks = [task for task in asked(path, "/tasks", wanted) if task["Status"]["State"] == "running"]
    return {
        "labels": service["Spec"]["Labels"],
        "mode": service["Spec"]["EndpointSpec"]["Mode"],
        "virtual": {names[each["NetworkID"]]: each["Addr"] for each in service["Endpoint"]["VirtualIPs"]},
        "tasks": {
            f"{service_name}.{task['Slot']}": {
                names[each["Network"]["ID"]]: each["Addresses"] for each in task["NetworksAttachments"]
            }
            for task in tasks
        },
        "nodes": {asked(path, f"/nodes/{task['NodeID']}")["Status"]["Addr"] for task in tasks},
    }


def portainer_snapshot(path: Path) -> dict[str, int]:
    """What Portainer's home page says of an environment, by the steps of its snapshot."""
    info = asked(path, "/info")
    assert info["Swarm"]["ControlAvailable"]
    services, nodes = asked(path, "/services"), asked(path, "/nodes")
    containers = asked(path, "/containers/json?all=1")
    stacks = {each["Spec"]["Labels"].get("com.docker.stack.namespace") for each in services} - {None}
    return {
        "cpus": sum(each["Description"]["Resources"]["NanoCPUs"] for each in nodes) // 10**9,
        "services": len(services),
        "stacks": len(stacks),
        "running": sum(each["State"] == "running" for each in containers),
        "images": len(asked(path, "/images/json")),
        "volumes": len(asked(path, "/volumes")["Volumes"]),
    }


def ask_about(path: Path, service: str) -> None:
    """What the pages of one service, its tasks and containers, its network and image ask; fails at the first error."""
    found = asked(path, f"/services/{service}")
    (task, *_) = asked(path, "/tasks", {"service": [found["ID"]]})
    assert asked(path, f"/tasks/{task['ID']}")["ServiceID"] == found["ID"]
    assert asked(path, f"/nodes/{task['NodeID']}")["ID"] == task["NodeID"]
    (container,) = asked(path, "/containers/json", {"label": [f"com.docker.swarm.service.id={found['ID']}"]})
    shown = asked(path, f"/containers/{container['Id']}/json")
    for endpoint in shown["NetworkSettings"]["Networks"].values():
        assert asked(path, f"/networks/{endpoint['NetworkID']}")["Id"] == endpoint["NetworkID"]
    assert asked(path, f"/images/{shown['Image']}/json")["Id"] == shown["Image"] == container["ImageID"]
    assert asked(path, f"/containers/{container['Id']}/stats?stream=false")["memory_stats"]["usage"] > 0
    assert asked(path, f"/containers/{container['Id']}/top")["Processes"]
    connection = Connection(path)
    lines = "details=true&stdout=true&stderr=true&timestamps=true&tail=2000"
    for page in (f"services/{found['ID']}", f"tasks/{task['ID']}", f"containers/{container['Id']}"):
        connection.request("GET", f"/v1.41/{page}/logs?{lines}")
        answer = connection.getresponse()
        assert answer.status == 200, f"{page}: {answer.read()!r}"
        answer.read()
    connection.close()
