"""Mistakes that can be deployed."""

import pytest

from flota.stacks.compose.reading import read_document
from flota.stacks.lint import RULES, look
from tests.unit.stacks.help import project


def found(text: str) -> list[tuple[str, int, str]]:
    """(rule, line, key) of all findings."""
    return [(each.rule, each.line, each.key) for each in look(project(text), [read_document(text, "c.yml")])]


GOOD = """
services:
  web:
    image: web:1.2
    ports: ['80:80']
    environment: {PASSWORD_FILE: /run/secrets/p, DB_PASSWORD: ''}
    depends_on: {db: {condition: service_healthy}}
    volumes: ['/etc/localtime:/etc/localtime:ro', nfs:/shared]
    secrets: [{source: p, mode: 0440}]
    deploy: {replicas: 3}
  db:
    image: db@sha256:0000000000000000000000000000000000000000000000000000000000000000
    healthcheck: {test: 'true'}
    volumes: [data:/data]
    deploy: {placement: {constraints: [node.hostname==m1]}}
volumes: {data: , nfs: {driver_opts: {type: nfs}}}
secrets: {p: {content: x}}
"""


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert found(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "findings"),
    [
        ("web:1.2", "web", [("moving-image", 4, "services.web.image")]),
        ("web:1.2", "registry:5000/web:latest", [("moving-image", 4, "services.web.image")]),
        ("PASSWORD_FILE: /run", "API_TOKEN: /run", [("open-secret", 6, "services.web.environment.API_TOKEN")]),
        ("    healthcheck: {test: 'true'}\n", "", [("health", 7, "services.web.depends_on.db")]),
        ("/etc/localtime:/etc/localtime:ro", "./conf:/conf", [("local-path", 8, "services.web.volumes[0]")]),
        ("nfs:/shared", "data:/shared", [("local-data", 8, "services.web.volumes[1]"), ("unused", 16, "volumes.nfs")]),
        ("deploy: {placement: {constraints: [node.hostname==m1]}}", "user: me",
         [("local-data", 14, "services.db.volumes[0]")]),
        ("mode: 0440", "mode: 440", [("decimal-mode", 9, "services.web.secrets[0].mode")]),
        ("volumes: {data: ,", "volumes: {data: , more: ,", [("unused", 16, "volumes.more")]),
        ("    healthcheck", "    ports: ['80:80']\n    healthcheck", [("port-taken", 13, "services.db.ports[0]")]),
        ("ports: ['80:80']", "ports: [{target: 80, published: 80, mode: host}]", []),
        ("deploy: {replicas: 3}", "deploy: {replicas: 3, update_config: {order: start-first}}", []),
        ("    volumes: [data:/data]", "    networks: [n]\n    volumes: [data:/data]", None),
    ],
)  # fmt: skip
def test_rules(old: str, new: str, findings: list[tuple[str, int, str]] | None) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    if findings is None:
        text, findings = text + "networks: {n: }\n", [("apart", 7, "services.web.depends_on.db")]
    assert found(text) == findings


def test_a_host_port_and_start_first() -> None:
    text = (
        "services: {a: {image: 'x:1', ports: [{target: 1, published: 1, mode: host}], "
        "deploy: {update_config: {order: start-first}}}}"
    )
    assert found(text) == [("port-taken", 1, "services.a.ports[0]")]


def test_each_rule_is_named_in_the_documentation() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[3] / "docs/compose.md").read_text()
    for rule in RULES:
        assert f"`{rule}`" in text
