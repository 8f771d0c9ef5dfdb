"""What workers talk to: sessions and liveness, assignments, task status (proto/flota/v1/dispatcher.proto).

`Dispatcher` (dispatcher.py) is the servicer; while this manager leads it has a `Term` (term.py), which owns everything
else: `presence` decides who is up, `node_writer` writes that into nodes, `assignments` keeps for every node what it
needs to know (`peers`: what it is told of others), `outbox` makes messages of it, `status` commits what workers report,
`orphans` gives up on tasks of nodes that stay away. The store is written when something changed for the cluster, never
for a heartbeat. Semantics: SwarmKit's manager/dispatcher.
"""

from flota.manager.dispatcher.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
