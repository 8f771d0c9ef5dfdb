"""What the cluster's spec may say. Pure."""

from flota.manager.control.names import check_annotations, check_duration
from flota.manager.raft.interface import LONGEST_LEASE
from flota.rpc.errors import InvalidArgument
from flota.v1.specs_pb2 import ClusterSpec
from flota.v1.types_pb2 import PlacementStrategy, RebalancePolicy

# SwarmKit's minimum; renewal happens between half and four fifths of it.
MIN_CERTIFICATE_SECONDS = 3600
MIN_HEARTBEAT_SECONDS = 0.1
MAX_HEARTBEAT_SECONDS = 3600.0


def check_policies(spec: ClusterSpec) -> None:
    """What counts for services that say nothing. Raises InvalidArgument."""
    if spec.strategy not in PlacementStrategy.values():
        raise InvalidArgument.of("placement strategy", spec.strategy, "allowed are spread and binpack")
    if spec.rebalance not in RebalancePolicy.values():
        raise InvalidArgument.of("rebalance policy", spec.rebalance, "allowed are off, on-join and always")


def check_cluster_spec(spec: ClusterSpec) -> None:
    """Raises InvalidArgument, Unsupported."""
    check_policies(spec)
    check_annotations(spec.annotations)
    heartbeat, expiry = spec.dispatcher.heartbeat_period, spec.ca.node_cert_expiry
    check_duration("dispatcher heartbeat", heartbeat)
    check_duration("certificate expiry", expiry)
    check_duration("read lease", spec.raft.read_lease)
    if (lease := spec.raft.read_lease.ToNanoseconds() / 1e9) > LONGEST_LEASE:
        raise InvalidArgument.of("read lease", f"{lease:g}s", f"allowed is 0 (off) to {LONGEST_LEASE:g}s")
    if spec.dispatcher.HasField("heartbeat_period"):
        length = heartbeat.seconds + heartbeat.nanos / 1e9
        if not MIN_HEARTBEAT_SECONDS <= length <= MAX_HEARTBEAT_SECONDS:
            raise InvalidArgument.of("dispatcher heartbeat", f"{length:g}s", "allowed is 100 ms to 1 hour")
    if spec.ca.HasField("node_cert_expiry") and expiry.seconds < MIN_CERTIFICATE_SECONDS:
        raise InvalidArgument.of("certificate expiry", f"{expiry.seconds}s", "at least 1 hour is needed")
