"""Secrets and configs: sizes and names, what is shown, and that neither goes while a service uses it."""

from typing import Any

import pytest

from flota.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfSequence
from flota.v1 import control_pb2
from flota.v1.types_pb2 import ConfigReference
from tests.unit.control.cluster import Cluster
from tests.unit.control.specs import create_config, create_secret, create_service, refused, with_secret

KINDS = pytest.mark.parametrize("kind", ["secret", "config"])


def request(kind: str, verb: str, **fields: Any) -> Any:
    plural = "s" if verb == "List" else ""
    return getattr(control_pb2, f"{verb}{kind.title()}{plural}Request")(**fields)


async def call(cluster: Cluster, kind: str, verb: str, **fields: Any) -> Any:
    plural = "s" if verb == "List" else ""
    method = getattr(cluster.control, f"{verb}{kind.title()}{plural}")
    return await method(request(kind, verb, **fields), None)


async def create(cluster: Cluster, kind: str, name: str, data: bytes = b"x") -> Any:
    return await (create_secret if kind == "secret" else create_config)(cluster, name, data)


async def test_a_secrets_data_never_comes_back(cluster: Cluster) -> None:
    made = await create(cluster, "secret", "key", b"very secret")
    got = (await call(cluster, "secret", "Get", secret_id="key")).secret
    (listed,) = (await call(cluster, "secret", "List")).secrets
    assert made == got == listed
    assert made.spec.data == b""
    stored = cluster.store.secrets.by_name("key")
    assert stored is not None
    assert stored.spec.data == b"very secret"


async def test_a_configs_data_does(cluster: Cluster) -> None:
    made = await create(cluster, "config", "settings", b"level=debug")
    assert made.spec.data == b"level=debug"
    assert (await call(cluster, "config", "Get", config_id=made.id[:8])).config == made
    assert list((await call(cluster, "config", "List")).configs) == [made]


@KINDS
async def test_sizes_have_limits(cluster: Cluster, kind: str) -> None:
    most = {"secret": 500 << 10, "config": 1000 << 10}[kind] - 1
    await create(cluster, kind, "largest", b"x" * most)
    for size in (0, most + 1):
        said = f"invalid size of {kind} 'x': it has {size:,} bytes, 1 to {most:,} are allowed"
        with refused(InvalidArgument, said):
            await create(cluster, kind, "x", b"x" * size)


@KINDS
@pytest.mark.parametrize("name", ["-a", "a-", "a b", "a/b", "é"])
async def test_names_that_are_none(cluster: Cluster, kind: str, name: str) -> None:
    with refused(InvalidArgument, f"invalid {kind} name {name!r}: allowed are letters, digits, '-', '_' and '.', …"):
        await create(cluster, kind, name)


@KINDS
async def test_a_name_is_taken_once_until_it_is_free_again(cluster: Cluster, kind: str) -> None:
    first = await create(cluster, kind, "a.b_c-1")
    with refused(AlreadyExists, f"{kind} name 'a.b_c-1' is taken by {kind} {first.id}"):
        await create(cluster, kind, "a.b_c-1")
    await call(cluster, kind, "Remove", **{f"{kind}_id": "a.b_c-1"})
    await create(cluster, kind, "a.b_c-1")
    with refused(NotFound, f"{kind} {first.id} not found"):
        await call(cluster, kind, "Get", **{f"{kind}_id": first.id})


@KINDS
async def test_what_a_service_uses_stays(cluster: Cluster, kind: str) -> None:
    made = await create(cluster, kind, "mine")
    if kind == "secret":
        await create_service(cluster, "web", with_secret("mine"))
    else:
        await create_service(
            cluster,
            "web",
            lambda spec: spec.task.container.configs.append(ConfigReference(config_id=made.id, config_name="other")),
        )
    with refused(FailedPrecondition, f"{kind} mine is in use by service web"):
        await call(cluster, kind, "Remove", **{f"{kind}_id": "mine"})


@KINDS
async def test_lists_are_filtered(cluster: Cluster, kind: str) -> None:
    for name in ("one", "two"):
        await create(cluster, kind, name)
    filters = control_pb2.ListFilters(names=["two", "three"])
    answer = await call(cluster, kind, "List", filters=filters)
    assert [each.spec.annotations.name for each in getattr(answer, f"{kind}s")] == ["two"]


@KINDS
async def test_requests_without_a_spec(cluster: Cluster, kind: str) -> None:
    with refused(InvalidArgument, f"the request has no {kind} spec"):
        await call(cluster, kind, "Create")


@KINDS
async def test_labels_change_and_nothing_else(cluster: Cluster, kind: str) -> None:
    made = await create(cluster, kind, "mine")
    spec = type(made.spec)(annotations={"labels": {"a": "1"}})
    key = {f"{kind}_id": "mine"}
    changed = getattr(await call(cluster, kind, "Update", **key, version=made.meta.version, spec=spec), kind)
    assert dict(changed.spec.annotations.labels) == {"a": "1"}
    assert changed.spec.annotations.name == "mine"
    with refused(OutOfSequence, f"update out of sequence: {kind} mine is at version …"):
        await call(cluster, kind, "Update", **key, version=made.meta.version, spec=spec)
    for wrong in (type(spec)(data=b"y"), type(spec)(annotations={"name": "other"})):
        with refused(InvalidArgument, f"{kind} mine: only labels can change; a new content is a new {kind}"):
            await call(cluster, kind, "Update", **key, version=changed.meta.version, spec=wrong)
    stored = getattr(cluster.store, f"{kind}s").by_name("mine")
    assert stored.spec.data == b"x"


@KINDS
async def test_template_drivers(cluster: Cluster, kind: str) -> None:
    spec = {"annotations": {"name": "t"}, "data": b"x", "template_driver": "golang"}
    assert getattr(await call(cluster, kind, "Create", spec=spec), kind).spec.template_driver == "golang"
    with refused(InvalidArgument, f"invalid template driver of a {kind} 'jinja': golang, or none, is allowed"):
        await call(cluster, kind, "Create", spec=spec | {"template_driver": "jinja"})
