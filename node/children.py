"""What a node's children are told when they begin: their configurations, as of now."""

from typing import TYPE_CHECKING

from flota.v1.process_pb2 import ManagerConfig, WorkerConfig

if TYPE_CHECKING:
    from flota.node.node import Node


def worker_config(node: "Node") -> WorkerConfig:
    """What the worker is told, as of now."""
    options, places = node.options, node.places
    config = WorkerConfig(
        hostname=node.hostname,
        state_directory=str(places.state),
        run_directory=str(places.run),
        socket=str(places.child_socket("worker")),
        metrics_address=options.worker_metrics,
        cgroup_parent=options.cgroup_parent,
        engine_labels=options.engine_labels,
        generic_resources=options.generic_resources,
        insecure_registries=options.insecure_registries,
        image_max_age_seconds=int(options.image_max_age),
        image_disk_high=options.image_disk[0],
        image_disk_low=options.image_disk[1],
    )
    if node.record is not None and node.identity is not None:
        config.node_id = node.identity.node_id
        config.identity_directory = str(places.open_identity)
        config.managers.extend(node.manager_addresses())
        config.join_addresses.extend(node.record.join_addresses)
        config.data_path_address = node.record.data_path_address
        config.data_path_port = node.record.data_path_port
    return config


def manager_config(node: "Node") -> ManagerConfig:
    """What the manager is told, as of now."""
    record, identity, places = node.record, node.identity, node.places
    assert record is not None
    assert identity is not None
    config = ManagerConfig(
        node_id=identity.node_id,
        cluster_id=identity.cluster_id,
        hostname=node.hostname,
        identity_directory=str(places.open_identity),
        unlock_keys=node.keys.unlock_keys,
        raft_directory=str(places.raft),
        socket=str(places.child_socket("manager")),
        listen_address=record.listen_address,
        advertise_address=record.advertise_address,
        metrics_address=node.options.manager_metrics,
        join_addresses=node.other_managers(),
        credential_helpers=node.options.credential_helpers,
    )
    if node.founding is not None:
        config.init.CopyFrom(node.founding.request)
        config.root_key = node.founding.root_key
        if node.founding.restore_file is not None:
            config.restore_file = str(node.founding.restore_file)
            config.restore_index = node.founding.restore_index
    return config
