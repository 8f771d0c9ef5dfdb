"""What of an object may leave the managers: secrets without data, clusters without keys, specs without credentials.

Objects that hold nothing confidential are shown as they are, without a copy.
"""

from flota.manager.store.schema import StoreObject
from flota.v1.objects_pb2 import Cluster, Secret, Service, ServiceHistory, Task


def shown(thing: StoreObject) -> StoreObject:
    """The object as anybody may see it."""
    if isinstance(thing, Task):
        return shown_task(thing)
    if isinstance(thing, Service):
        return shown_service(thing)
    if isinstance(thing, Secret):
        return shown_secret(thing)
    if isinstance(thing, ServiceHistory):
        return shown_history(thing)
    if isinstance(thing, Cluster):
        return shown_cluster(thing)
    return thing


def shown_task(task: Task) -> Task:
    """Without registry credentials."""
    if not task.spec.container.registry_auth:
        return task
    copy = Task()
    copy.CopyFrom(task)
    copy.spec.container.registry_auth = ""
    return copy


def shown_service(service: Service) -> Service:
    """Without registry credentials."""
    if not service.spec.task.container.registry_auth and not service.previous_spec.task.container.registry_auth:
        return service
    copy = Service()
    copy.CopyFrom(service)
    copy.spec.task.container.registry_auth = ""
    if copy.HasField("previous_spec"):
        copy.previous_spec.task.container.registry_auth = ""
    return copy


def shown_history(history: ServiceHistory) -> ServiceHistory:
    """Without registry credentials."""
    copy = ServiceHistory()
    copy.CopyFrom(history)
    for revision in copy.revisions:
        revision.spec.task.container.registry_auth = ""
    return copy


def shown_secret(secret: Secret) -> Secret:
    """Without its data."""
    copy = Secret(id=secret.id, meta=secret.meta)
    copy.spec.annotations.CopyFrom(secret.spec.annotations)
    copy.spec.template_driver = secret.spec.template_driver
    return copy


def shown_cluster(cluster: Cluster) -> Cluster:
    """Without the root's key, the join tokens and the unlock key."""
    copy = Cluster()
    copy.CopyFrom(cluster)
    copy.root_ca.private_key = b""
    if copy.root_ca.HasField("rotation"):
        copy.root_ca.rotation.private_key = b""
    copy.root_ca.ClearField("join_tokens")
    copy.unlock_key = b""
    return copy
