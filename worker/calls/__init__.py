"""What people do with running tasks, answered on their node (proto/flota/v1/tasks.proto).

`TaskServicer` (tasks.py) is the service on this machine's socket. `Answering` (answering.py) has it answer the leader
too, over the session; and whatever else the contract lets managers call.
"""
