"""Consensus: a pure Raft core, its durable log, its transport, and the driver that joins them."""
