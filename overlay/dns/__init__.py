"""Names inside containers: a DNS server per task, at 127.0.0.11 in its own namespace, answered by the worker."""
