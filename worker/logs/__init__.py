"""Log files of containers: written by conmon, replaced by it when they are full; kept, read and followed here, and sent
to whoever subscribed.

    entries     one line of conmon's file ──► when, from which stream, which bytes
    chain       one log as several files: numbers for those that were full
    rotation    which logs are kept in several files, and when conmon has put a new one in place
    files       one log: from where on (tail, since), part by part, from file to file
    changes     who waits for files to grow is woken (inotify)
    merging     logs of many tasks ──► one stream in order of time
    publisher   subscriptions of the managers ──► lines of this node's tasks (proto/flota/v1/logs.proto)
"""

from flota.worker.logs.merging import TaskLog
from flota.worker.logs.publisher import LogPublisher

__all__ = ["LogPublisher", "TaskLog"]
