"""The leader's calls into nodes, and what people do through them with running tasks (proto/flota/v1/tasks.proto).

`NodeCalls` (calls.py) joins a call to the stream that the called node opens; `TaskCalls` (tasks.py) is the service that
people call, `finding` says which task they mean, `rounds` collects figures from many nodes;
`NetworkCheckCalls` (checks.py) has all nodes look at each other.
"""

from flota.manager.nodecalls.calls import NodeCalls
from flota.manager.nodecalls.checks import NetworkCheckCalls
from flota.manager.nodecalls.tasks import TaskCalls
from flota.manager.nodecalls.volumes import VolumeCalls

__all__ = ["NetworkCheckCalls", "NodeCalls", "TaskCalls", "VolumeCalls"]
