"""Prometheus metrics of one Raft member."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class RaftMetrics:
    """One set per registry: give several members of one process a registry each."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        where = registry or REGISTRY
        self.term = Gauge("flota_raft_term", "Current term", registry=where)
        self.leader = Gauge("flota_raft_is_leader", "1 while this manager leads", registry=where)
        self.commit_index = Gauge("flota_raft_commit_index", "Newest entry known to be committed", registry=where)
        self.applied_index = Gauge("flota_raft_applied_index", "Newest entry applied here", registry=where)
        self.commit_seconds = Histogram(
            "flota_raft_commit_seconds", "From proposal to application", buckets=_SECONDS, registry=where
        )
        self.sync_seconds = Histogram(
            "flota_raft_sync_seconds", "One write and sync of the log", buckets=_SECONDS, registry=where
        )
        self.snapshots = Counter("flota_raft_snapshots", "Snapshots written", registry=where)
        self.sync_failures = Counter("flota_raft_sync_failures", "Writes of the log that failed", registry=where)
