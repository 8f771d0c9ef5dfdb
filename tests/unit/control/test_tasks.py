"""Tasks are looked at, never written: by id, name, service, node and what is wanted of them."""

from flota.rpc.errors import NotFound
from flota.v1.control_pb2 import GetTaskRequest, ListFilters, ListTasksRequest
from flota.v1.types_pb2 import TaskState
from tests.unit.control.cluster import Cluster
from tests.unit.control.specs import create_service, refused, replicas

RUNNING, SHUTDOWN = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SHUTDOWN


async def test_lists_are_filtered(cluster: Cluster) -> None:
    await cluster.add_node("w1")
    web = await create_service(cluster, "web", replicas(2))
    await create_service(cluster, "db", lambda spec: spec.annotations.labels.update({"tier": "back"}))
    one = await cluster.add_task("web", 1, "m1")
    old = await cluster.add_task("web", 2, "w1", TaskState.TASK_STATE_FAILED, SHUTDOWN)
    two = await cluster.add_task("web", 2, "w1")
    db = await cluster.add_task("db", 1, "w1")
    m1, w1 = cluster.node("m1").id, cluster.node("w1").id

    async def ids(**filters: object) -> set[str]:
        request = ListTasksRequest(filters=ListFilters(**filters))  # type: ignore[arg-type]
        return {task.id for task in (await cluster.control.ListTasks(request, None)).tasks}

    assert await ids() == {one.id, old.id, two.id, db.id}
    assert await ids(service_ids=[web.id, web.id, "nope"]) == {one.id, old.id, two.id}
    assert await ids(node_ids=[w1]) == {old.id, two.id, db.id}
    assert await ids(service_ids=[web.id], node_ids=[m1]) == {one.id}
    assert await ids(desired_states=[SHUTDOWN]) == {old.id}
    assert await ids(service_ids=[web.id], desired_states=[RUNNING], node_ids=[w1]) == {two.id}
    assert await ids(labels={"tier": "back"}) == {db.id}
    assert await ids(names=["web.2"]) == {old.id, two.id}
    assert await ids(names=["db"]) == {db.id}
    assert await ids(id_prefixes=[two.id[:9]]) == {two.id}


async def test_one_is_found_by_id_or_whole_name(cluster: Cluster) -> None:
    await create_service(cluster, "web")
    task = await cluster.add_task("web", 1, "m1")
    for reference in (task.id, task.id[:10], f"web.1.{task.id}"):
        assert (await cluster.control.GetTask(GetTaskRequest(task_id=reference), None)).task.id == task.id
    with refused(NotFound, "task web.1 not found"):
        await cluster.control.GetTask(GetTaskRequest(task_id="web.1"), None)


async def test_registry_credentials_are_not_shown(cluster: Cluster) -> None:
    await create_service(cluster, "web", lambda spec: setattr(spec.task.container, "registry_auth", "secret"))
    task = await cluster.add_task("web", 1, "m1")
    stored = cluster.store.tasks.get(task.id)
    assert stored is not None
    assert stored.spec.container.registry_auth == "secret"
    (listed,) = (await cluster.control.ListTasks(ListTasksRequest(), None)).tasks
    assert listed.spec.container.registry_auth == ""
