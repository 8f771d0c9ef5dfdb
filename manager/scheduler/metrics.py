"""What the scheduler tells Prometheus. One set per process: a manager that leads twice goes on counting."""

from prometheus_client import Counter, Histogram

LATENCY = Histogram(
    "flota_scheduler_latency_seconds",
    "From a task's creation to its assignment to a node (NEW to ASSIGNED).",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
PASS = Histogram(
    "flota_scheduler_pass_seconds",
    "Time to place the tasks that were waiting, without committing.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
DECISIONS = Counter(
    "flota_scheduler_decisions_total",
    "Decisions by result: assigned, no_node (nothing suitable), stale (the task or node had moved on).",
    ["result"],
)
