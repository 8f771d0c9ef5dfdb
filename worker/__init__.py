"""flota.worker: the agent on every node: its session with the managers, its tasks, containers, images and logs."""
