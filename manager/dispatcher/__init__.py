"""The manager's side of a worker's session: liveness, assignments, status."""
