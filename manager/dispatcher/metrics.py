"""What the dispatcher tells Prometheus. One set per process: a manager that leads twice goes on counting."""

from prometheus_client import Counter, Gauge, Histogram

SESSIONS = Gauge("flota_dispatcher_sessions", "Workers that have a session with this manager.")
REGISTRATIONS = Counter("flota_dispatcher_registrations", "Sessions opened.")
TRANSITIONS = Counter("flota_dispatcher_node_transitions", "Changes of nodes' states, by the new state.", ["state"])
MESSAGES = Counter("flota_dispatcher_assignment_messages", "Assignment messages sent to workers.")
CHANGES = Counter("flota_dispatcher_assignments", "Assignment changes sent to workers (many go into one message).")
UPDATES = Counter(
    "flota_dispatcher_status_updates",
    "Reports about tasks by result: taken, old (no news), gone (no such task any longer).",
    ["result"],
)
COMMIT = Histogram(
    "flota_dispatcher_status_commit_seconds",
    "From the arrival of a worker's report to its commit.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
START = Histogram(
    "flota_dispatcher_scheduling_seconds",
    "From a task's creation to its container running (NEW to RUNNING).",
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
