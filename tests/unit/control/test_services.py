"""Services: what a created one looks like, updates and their versions, going back, removing, counting."""

import asyncio
import re

import pytest

from flota.manager.scheduler.demand import BINPACK
from flota.rpc.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfSequence,
    Unsupported,
)
from flota.v1.control_pb2 import (
    CreateServiceRequest,
    GetServiceRequest,
    ListFilters,
    ListServicesRequest,
    ListServiceStatusesRequest,
    RemoveNetworkRequest,
    RemoveSecretRequest,
    RemoveServiceRequest,
    UpdateServiceRequest,
)
from flota.v1.objects_pb2 import Service
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import PortConfig, TaskState, UpdateConfig, UpdateStatus, Version
from tests.unit.control.cluster import Cluster, HeldProposer
from tests.unit.control.specs import (
    Change,
    create_config,
    create_network,
    create_secret,
    create_service,
    image,
    on_network,
    refused,
    replicas,
    service_spec,
    update_service,
    with_secret,
)


async def test_a_created_service_has_every_default_written_out(cluster: Cluster) -> None:
    service = await create_service(cluster)
    spec = service.spec
    assert spec.replicated.replicas == 1
    assert (spec.update.parallelism, spec.update.monitor.seconds) == (1, 5)
    assert (spec.rollback.parallelism, spec.rollback.monitor.seconds) == (1, 5)
    assert spec.task.restart.delay.seconds == 5
    assert spec.task.container.stop_grace_period.seconds == 10
    assert service.spec_version.index == service.meta.version.index
    default = cluster.store.networks.by_name("flota")
    assert default is not None
    assert [each.target for each in spec.task.networks] == [default.id]
    assert cluster.service("web") == service


async def test_zero_is_kept_where_zero_was_said(cluster: Cluster) -> None:
    def zeros(spec: ServiceSpec) -> None:
        spec.update.parallelism = 0
        spec.update.delay.seconds = 0
        spec.task.restart.delay.seconds = 0

    spec = (await create_service(cluster, "web", replicas(0), zeros)).spec
    assert spec.replicated.replicas == 0
    assert spec.update.parallelism == 0
    assert spec.task.restart.delay.seconds == 0
    assert spec.task.restart.HasField("delay")


async def test_a_service_without_a_name_gets_one(cluster: Cluster) -> None:
    names = {(await create_service(cluster, "")).spec.annotations.name for _ in range(60)}
    assert len(names) == 60
    assert all(re.fullmatch(r"[a-z]+-[a-z]+(-\d+)?", name) for name in names)


async def test_a_name_is_taken_once(cluster: Cluster) -> None:
    first = await create_service(cluster, "web")
    with refused(AlreadyExists, f"service name 'web' is taken by service {first.id}"):
        await create_service(cluster, "web")
    assert len(cluster.store.services) == 1


async def test_a_name_is_taken_once_also_at_the_same_moment(cluster: Cluster) -> None:
    held = HeldProposer(cluster.store)
    both = [asyncio.create_task(create_service(cluster, "web")) for _ in range(2)]
    await held.until_waiting(2)
    held.let_go()
    # The second one's entry was refused; it looks again and sees who was first.
    results = await asyncio.gather(*both, return_exceptions=True)
    (refused,) = [result for result in results if isinstance(result, Exception)]
    assert isinstance(refused, AlreadyExists)
    assert len(cluster.store.services) == 1


async def test_references_become_ids_and_must_be_there(cluster: Cluster) -> None:
    network, secret = await create_network(cluster, "back"), await create_secret(cluster, "key")
    config = await create_config(cluster, "settings")

    def change(spec: ServiceSpec) -> None:
        spec.task.container.secrets.add(secret_name="key")
        spec.task.container.configs.add(config_name="settings")

    spec = (await create_service(cluster, "web", on_network("back", "db"), change)).spec
    assert [(each.target, list(each.aliases)) for each in spec.task.networks] == [(network.id, ["db"])]
    (mine,) = spec.task.container.secrets
    assert (mine.secret_id, mine.file.name, mine.file.uid, mine.file.mode) == (secret.id, "key", "0", 0o444)
    (other,) = spec.task.container.configs
    assert (other.config_id, other.file.name) == (config.id, "/settings")
    with refused(NotFound, "network nope not found"):
        await create_service(cluster, "x", on_network("nope"))
    with refused(NotFound, "secret nope not found"):
        await create_service(cluster, "x", with_secret("nope"))
    with refused(InvalidArgument, "invalid network 'back': it is given twice"):
        await create_service(cluster, "x", on_network("back"), on_network(network.id))
    with refused(InvalidArgument, "invalid network 'ingress': the ingress network is for published ports…"):
        await create_service(cluster, "x", on_network("ingress"))
    with refused(InvalidArgument, "invalid network 'host'…"):
        await create_service(cluster, "x", on_network("host"), on_network("back"))
    with refused(InvalidArgument, "invalid published port 80: mode=host is needed on network host…"):
        await create_service(cluster, "x", on_network("host"), publishing(80, PortConfig.PUBLISH_MODE_INGRESS))
    with refused(InvalidArgument, "invalid secret target 'key': it is given twice"):
        await create_service(cluster, "x", with_secret("key"), with_secret("key"))


def publishing(number: int, mode: "PortConfig.PublishMode.ValueType", protocol: int = 0) -> Change:
    return lambda spec: spec.endpoint.ports.add(
        target_port=80, published_port=number, publish_mode=mode, protocol=protocol
    )


async def test_a_published_port_is_one_services(cluster: Cluster) -> None:
    ingress, host = PortConfig.PUBLISH_MODE_INGRESS, PortConfig.PUBLISH_MODE_HOST
    await create_service(cluster, "web", publishing(8080, ingress), publishing(9090, host))
    taken = "port 8080/tcp is already in use by service web, in ingress mode"
    for mode in (ingress, host):
        with refused(AlreadyExists, taken):
            await create_service(cluster, "x", publishing(8080, mode))
    with refused(AlreadyExists, "port 9090/tcp is already in use by service web, in host mode"):
        await create_service(cluster, "x", publishing(9090, ingress))
    # Another protocol is another port; host mode is for other nodes; any number is one that is free.
    await create_service(cluster, "dns", publishing(8080, ingress, PortConfig.PROTOCOL_UDP))
    await create_service(cluster, "agent", publishing(9090, host), publishing(0, ingress))
    # What the allocator gave counts as well.
    given = Service.FromString(cluster.service("agent").SerializeToString())
    given.endpoint.ports.add(target_port=80, published_port=30000)
    await cluster.put(given)
    with refused(AlreadyExists, "port 30000/tcp is already in use by service agent, in ingress mode"):
        await create_service(cluster, "x", publishing(30000, ingress))
    # An update keeps its own, and may not take another's.
    await update_service(cluster, cluster.service("web"), publishing(8081, ingress))
    with refused(AlreadyExists, "port 8081/tcp is already in use by service web, in ingress mode"):
        await update_service(cluster, cluster.service("dns"), publishing(8081, ingress))


async def test_what_a_service_on_its_way_refers_to_cannot_be_removed(cluster: Cluster) -> None:
    await create_network(cluster, "back")
    await create_secret(cluster, "key")
    held = HeldProposer(cluster.store)
    creating = asyncio.create_task(create_service(cluster, "web", on_network("back"), with_secret("key")))
    await held.until_waiting(1)
    with refused(FailedPrecondition, "network back is in use by a service that is being created…"):
        await cluster.control.RemoveNetwork(RemoveNetworkRequest(network_id="back"), None)
    with refused(FailedPrecondition, "secret key is in use by a service that is being created…"):
        await cluster.control.RemoveSecret(RemoveSecretRequest(secret_id="key"), None)
    held.let_go()
    await creating
    with refused(FailedPrecondition, "network back is in use by service web"):
        await cluster.control.RemoveNetwork(RemoveNetworkRequest(network_id="back"), None)


async def test_a_service_cannot_refer_to_what_is_removed_before_it(cluster: Cluster) -> None:
    await create_network(cluster, "back")
    held = HeldProposer(cluster.store)
    removing = asyncio.create_task(cluster.control.RemoveNetwork(RemoveNetworkRequest(network_id="back"), None))
    await held.until_waiting(1)
    creating = asyncio.create_task(create_service(cluster, "web", on_network("back")))
    await held.until_waiting(2)
    held.let_go()
    await removing
    with refused(NotFound, "network back not found"):
        await creating


async def test_an_update_rests_on_the_newest_version(cluster: Cluster) -> None:
    first = await create_service(cluster, "web")
    second = await update_service(cluster, first, image("busybox:2"))
    assert second.spec_version.index > first.spec_version.index
    assert second.previous_spec == first.spec
    assert second.previous_spec_version == first.spec_version
    said = (
        f"update out of sequence: service web is at version {second.meta.version.index}, "
        f"the request rests on version {first.meta.version.index}"
    )
    with refused(OutOfSequence, said):
        await update_service(cluster, first, image("busybox:3"))
    assert cluster.service("web") == second


async def test_of_two_updates_at_the_same_moment_one_is_refused(cluster: Cluster) -> None:
    service = await create_service(cluster, "web")
    held = HeldProposer(cluster.store)
    both = [asyncio.create_task(update_service(cluster, service, image(f"busybox:{number}"))) for number in (2, 3)]
    await held.until_waiting(2)
    held.let_go()
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(first, Service)
    assert isinstance(second, OutOfSequence)
    assert cluster.service("web").spec.task.container.image == "busybox:2"


async def test_an_update_that_changes_nothing_makes_no_version(cluster: Cluster) -> None:
    service = await create_service(cluster, "web")
    assert await update_service(cluster, service) == service
    assert not cluster.service("web").HasField("previous_spec")


async def test_the_same_spec_wakes_a_paused_update(cluster: Cluster) -> None:
    service = await create_service(cluster, "web")
    paused = Service.FromString(service.SerializeToString())
    paused.update_status.state = UpdateStatus.STATE_PAUSED
    await cluster.put(paused)
    again = await update_service(cluster, cluster.service("web"))
    assert not again.HasField("update_status")
    assert again.meta.version.index > paused.meta.version.index
    assert again.spec_version == service.spec_version


async def test_name_and_mode_stay(cluster: Cluster) -> None:
    service = await create_service(cluster, "web")
    with refused(Unsupported, "service web cannot be renamed to 'other': create another one"):
        await update_service(cluster, service, lambda spec: setattr(spec.annotations, "name", "other"))
    with refused(Unsupported, "the mode of service web cannot be changed: it is replicated"):
        await update_service(cluster, service, lambda spec: getattr(spec, "global").SetInParent())


async def test_going_back_swaps_the_specs_and_back_again(cluster: Cluster) -> None:
    first = await create_service(cluster, "web", image("busybox:1"))
    with refused(FailedPrecondition, "service web has no previous spec to go back to"):
        await rollback(cluster, first)
    second = await update_service(cluster, first, image("busybox:2"))
    back = await rollback(cluster, second)
    assert (back.spec, back.spec_version) == (first.spec, first.spec_version)
    assert (back.previous_spec, back.previous_spec_version) == (second.spec, second.spec_version)
    assert back.update_status.state == UpdateStatus.STATE_ROLLBACK_STARTED
    assert back.update_status.message == "manually requested rollback"
    assert (await rollback(cluster, back)).spec == second.spec
    with pytest.raises(OutOfSequence):
        await rollback(cluster, first)


async def rollback(cluster: Cluster, service: Service) -> Service:
    request = UpdateServiceRequest(
        service_id=service.id, version=service.meta.version, rollback=UpdateServiceRequest.ROLLBACK_PREVIOUS
    )
    return (await cluster.control.UpdateService(request, None)).service


async def test_a_job_begins_a_new_run_when_its_task_changes(cluster: Cluster) -> None:
    def job(spec: ServiceSpec) -> None:
        spec.replicated_job.total_completions = 5
        spec.replicated_job.max_concurrent = 9

    service = await create_service(cluster, "job", job)
    assert service.spec.replicated_job.max_concurrent == 5
    assert service.job_status.iteration.index == 1
    assert service.job_status.HasField("last_execution")
    assert not service.spec.HasField("update")
    relabelled = await update_service(cluster, service, lambda spec: spec.annotations.labels.update({"a": "b"}))
    assert relabelled.job_status.iteration.index == 1
    forced = await update_service(cluster, relabelled, lambda spec: setattr(spec.task, "force_update", 1))
    assert forced.job_status.iteration.index == 2


async def test_credentials_are_kept_and_never_shown(cluster: Cluster) -> None:
    def credentials(value: str):  # type: ignore[no-untyped-def]
        return lambda spec: setattr(spec.task.container, "registry_auth", value)

    shown = await create_service(cluster, "web", credentials("secret"))
    assert shown.spec.task.container.registry_auth == ""
    assert cluster.service("web").spec.task.container.registry_auth == "secret"
    listed = await cluster.control.ListServices(ListServicesRequest(), None)
    assert listed.services[0].spec.task.container.registry_auth == ""
    after = await update_service(cluster, shown, image("busybox:2"))
    assert after.previous_spec.task.container.registry_auth == ""
    stored = cluster.service("web")
    assert stored.spec.task.container.registry_auth == stored.previous_spec.task.container.registry_auth == "secret"
    await update_service(cluster, after, credentials("newer"))
    assert cluster.service("web").spec.task.container.registry_auth == "newer"


async def test_what_is_odd_is_warned_of(cluster: Cluster) -> None:
    spec = service_spec("web", lambda spec: spec.task.placement.constraints.append("node.zone==a"))
    answer = await cluster.control.CreateService(CreateServiceRequest(spec=spec), None)
    assert list(answer.warnings) == [
        "constraint 'node.zone==a' has a key that no node has: no task will ever be scheduled"
    ]
    spec = service_spec("packed", lambda spec: setattr(spec.task.placement, "strategy", BINPACK))
    answer = await cluster.control.CreateService(CreateServiceRequest(spec=spec), None)
    assert list(answer.warnings) == [
        "strategy binpack: nothing is reserved, so no node is ever full; the tasks are spread"
    ]


async def test_found_by_id_name_or_beginning_of_an_id(cluster: Cluster) -> None:
    service = await create_service(cluster, "web")

    async def get(reference: str) -> Service:
        return (await cluster.control.GetService(GetServiceRequest(service_id=reference), None)).service

    assert await get(service.id) == await get("web") == await get(service.id[:6]) == service
    with refused(NotFound, "service we not found"):
        await get("we")
    with refused(InvalidArgument, "no service is named: give its id or its name"):
        await get("")
    # A name that is the beginning of another's id means the one with the name.
    other = await create_service(cluster, service.id[:4])
    assert await get(service.id[:4]) == other


async def test_a_beginning_of_several_ids_is_ambiguous(cluster: Cluster) -> None:
    for id in ("abc1", "abc2"):
        service = Service(id=id)
        service.spec.annotations.name = id
        await cluster.put(service)
    with refused(InvalidArgument, "service 'abc' is ambiguous: 2 services match, for example abc1 and abc2…"):
        await cluster.control.GetService(GetServiceRequest(service_id="abc"), None)


async def test_lists_are_filtered(cluster: Cluster) -> None:
    web = await create_service(cluster, "web", lambda spec: spec.annotations.labels.update({"tier": "front", "a": ""}))
    await create_service(cluster, "worker", lambda spec: spec.annotations.labels.update({"tier": "back"}))

    async def names(**filters: object) -> list[str]:
        request = ListServicesRequest(filters=ListFilters(**filters))  # type: ignore[arg-type]
        answer = await cluster.control.ListServices(request, None)
        return sorted(service.spec.annotations.name for service in answer.services)

    assert await names() == ["web", "worker"]
    assert await names(names=["web", "nope"]) == ["web"]
    assert await names(name_prefixes=["w"]) == ["web", "worker"]
    assert await names(id_prefixes=[web.id[:5]]) == ["web"]
    assert await names(labels={"tier": ""}) == ["web", "worker"]
    assert await names(labels={"tier": "front", "a": ""}) == ["web"]
    assert await names(labels={"tier": "front"}, names=["worker"]) == []


async def test_removed_is_gone_and_only_once(cluster: Cluster) -> None:
    await create_service(cluster, "web")
    request = RemoveServiceRequest(service_id="web")
    await cluster.control.RemoveService(request, None)
    assert len(cluster.store.services) == 0
    with refused(NotFound, "service web not found"):
        await cluster.control.RemoveService(request, None)
    with pytest.raises(NotFound):
        await update_service(cluster, Service(id="x", spec=service_spec()))


async def test_requests_without_a_spec(cluster: Cluster) -> None:
    with refused(InvalidArgument, "the request has no service spec"):
        await cluster.control.CreateService(CreateServiceRequest(), None)
    with refused(InvalidArgument, "the request has no service spec"):
        await cluster.control.UpdateService(UpdateServiceRequest(service_id="x", version=Version(index=1)), None)


async def test_statuses_count_what_is_wanted_and_what_runs(cluster: Cluster) -> None:
    web = await create_service(cluster, "web", replicas(3))
    agent = await create_service(cluster, "agent", lambda spec: getattr(spec, "global").SetInParent())
    await cluster.add_node("w1")
    running, shutdown = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SHUTDOWN
    await cluster.add_task("web", 1, "m1")
    await cluster.add_task("web", 2, "m1", running, shutdown)  # On its way out.
    await cluster.add_task("web", 2, "m1", TaskState.TASK_STATE_READY)
    await cluster.add_task("agent", 0, "m1", running, shutdown)
    await cluster.add_task("agent", 0, "m1", TaskState.TASK_STATE_READY)
    await cluster.add_task("agent", 0, "w1")
    answer = await cluster.control.ListServiceStatuses(ListServiceStatusesRequest(), None)
    counts = {
        each.service_id: (each.running_tasks, each.desired_tasks, each.completed_tasks) for each in answer.statuses
    }
    assert counts == {web.id: (1, 3, 0), agent.id: (1, 2, 0)}
    request = ListServiceStatusesRequest(service_ids=[agent.id, "nope"])
    (only,) = (await cluster.control.ListServiceStatuses(request, None)).statuses
    assert only.service_id == agent.id


async def test_a_jobs_earlier_runs_do_not_count(cluster: Cluster) -> None:
    def job(spec: ServiceSpec) -> None:
        spec.replicated_job.total_completions = 10
        spec.replicated_job.max_concurrent = 2

    service = await create_service(cluster, "job", job)
    complete = TaskState.TASK_STATE_COMPLETE
    for slot in range(10):
        await cluster.add_task("job", slot, "m1", complete, complete)
    await update_service(cluster, service, lambda spec: setattr(spec.task, "force_update", 1))
    await cluster.add_task("job", 0, "m1", complete, complete)
    await cluster.add_task("job", 1, "m1", TaskState.TASK_STATE_RUNNING, complete)
    await cluster.add_task("job", 2, "m1", TaskState.TASK_STATE_STARTING, complete)
    (status,) = (await cluster.control.ListServiceStatuses(ListServiceStatusesRequest(), None)).statuses
    assert (status.running_tasks, status.desired_tasks, status.completed_tasks) == (1, 2, 1)


async def test_a_rollback_action_is_for_updates_only(cluster: Cluster) -> None:
    def forever(spec: ServiceSpec) -> None:
        spec.rollback.failure_action = UpdateConfig.FAILURE_ACTION_ROLLBACK

    with refused(InvalidArgument, "invalid rollback failure action 'rollback': allowed are pause and contin…"):
        await create_service(cluster, "web", forever)
