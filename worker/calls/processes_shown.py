"""`top`: what ps says of a container's processes, as `docker top` shows it."""

from collections.abc import Sequence

from flota.rpc.errors import FailedPrecondition, InvalidArgument
from flota.v1.tasks_pb2 import TopResponse
from flota.worker.runtime import processes

_LIMIT = 10.0
_DEFAULT = ("-ef",)


async def top(pids: set[int], arguments: Sequence[str]) -> TopResponse:
    """Those of `ps arguments` whose PID is one of `pids`. Raises InvalidArgument, FailedPrecondition."""
    command = ["ps", *(arguments or _DEFAULT)]
    try:
        done = await processes.run(command, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, limit=_LIMIT, most=4 << 20)
    except (OSError, TimeoutError) as error:
        raise FailedPrecondition(f"ps does not work on the task's node: {error}") from None
    lines = done.output.splitlines()
    if done.code != 0 or not lines:
        raise InvalidArgument(f"ps {' '.join(arguments)} fails: {lines[-1] if lines else f'exit code {done.code}'}")
    return _selected(lines, pids, arguments)


def _selected(lines: Sequence[str], pids: set[int], arguments: Sequence[str]) -> TopResponse:
    titles = lines[0].split()
    if "PID" not in titles:
        raise InvalidArgument(f"ps {' '.join(arguments)} shows no PID: leave that column in")
    place = titles.index("PID")
    answer = TopResponse(titles=titles)
    for line in lines[1:]:
        values = line.split(None, len(titles) - 1)
        if len(values) > place and values[place].isdigit() and int(values[place]) in pids:
            answer.processes.add(values=values)
    return answer
