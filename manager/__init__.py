"""flota.manager: agreement (raft, store), decisions (orchestrator, scheduler, allocator), and the services around."""
