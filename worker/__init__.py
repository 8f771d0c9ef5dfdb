"""flota.worker: the agent on every node: its session with the managers, its task controllers, its containers, images and logs."""
