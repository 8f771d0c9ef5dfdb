"""flota.node: the daemon of one machine: identity, role, local socket, the manager and worker processes; and the lab."""
