"""A log's owner as a process: `python log_on_disk.py DIRECTORY write|read`.

write: one entry after the other, each a line when it is on the disk; after three it waits for a line of its input. When
the disk refuses it is gone, as if it had been killed before it could cut off what did not get through.
read: the indices that are there.
"""

import os
import sys
from pathlib import Path

from flota.manager.raft.segment import SegmentWriter
from flota.manager.raft.storage import Storage
from flota.v1.raft_pb2 import Entry, HardState


def write(directory: Path) -> None:
    storage, _ = Storage.open(directory)

    def killed(_: SegmentWriter) -> None:
        os._exit(9)

    SegmentWriter.cut_back = killed  # type: ignore[method-assign]
    for index in range(1, 100):
        storage.persist(HardState(term=1), [Entry(index=index, term=1, data=bytes(4000))])
        print(index, flush=True)
        if index == 3:
            sys.stdin.readline()


def read(directory: Path) -> None:
    _, loaded = Storage.open(directory)
    print(*(entry.index for entry in loaded.entries))


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[2]](Path(sys.argv[1]))
