"""What workers talk to: sessions and liveness, assignments, task status (proto/flota/v1/dispatcher.proto).

`Dispatcher` (dispatcher.py) is the servicer and the leader's loop. `liveness` decides who is up, `status` commits what
workers report, `assignments` keeps for every node what it needs to know, from one watch.
"""

from flota.manager.dispatcher.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
