"""The worker's side of the cluster: its session with a manager, assignments in, status reports out."""
