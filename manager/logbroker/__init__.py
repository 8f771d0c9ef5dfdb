"""Logs on their way from workers to whoever asked (proto/flota/v1/logs.proto).

`LogBroker` (broker.py) is the servicer; while this manager leads it has a `Term` (term.py) that knows who asks and who
can be asked. `selection` says which tasks are meant, `subscription` is one subscriber with its bounded buffer. Nothing
is stored, and nothing is read ahead of a subscriber who does not read.
"""

from flota.manager.logbroker.broker import LogBroker

__all__ = ["LogBroker"]
