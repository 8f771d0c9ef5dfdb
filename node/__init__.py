"""flota.node: the daemon of one machine (identity, role, sockets, manager and worker processes), and the lab."""
