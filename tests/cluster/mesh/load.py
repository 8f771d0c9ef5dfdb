"""A client with an open loop: load.py SECONDS_BETWEEN PATH ADDRESS:PORT…, until its input ends.

Asks in turn, each time over a new connection, begun when it is due whether the last one was answered or not. Prints
"ready" with the first answer, and at the end a line of JSON: how often which answer came, and what went wrong.
"""

import asyncio
import itertools
import json
import sys
from collections import Counter

# Seconds. On a busy machine an answer may take long; an error is an error at once.
PATIENCE = 60.0
MOST = 200


class Step:
    """What is being waited for: said with an error."""

    name = "connection"


async def ask(address: str, port: int, path: str, step: Step) -> str:
    """The first word of the answer's last line."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(address, port)
        step.name = f"answer to {writer.get_extra_info('sockname')[:2]}"
        try:
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            lines = (await reader.read()).decode().splitlines()
        finally:
            writer.close()
    if not lines or " 200 " not in lines[0]:
        raise OSError(f"answered {lines[:1]!r}")
    return lines[-1].split()[0]


async def main(pause: float, path: str, targets: list[tuple[str, int]]) -> None:
    loop = asyncio.get_running_loop()
    answers: Counter[str] = Counter()
    errors: list[str] = []
    under_way: set[asyncio.Task[None]] = set()
    end = loop.run_in_executor(None, sys.stdin.read)

    async def one(target: tuple[str, int]) -> None:
        begun, step = loop.time(), Step()
        try:
            answers[await ask(*target, path, step)] += 1
            if answers.total() == 1:
                print("ready", flush=True)
        except (OSError, TimeoutError, IndexError) as error:
            # A second or more: the first packet was lost on its way, and sent again.
            errors.append(f"{target[0]}:{target[1]}: {error!r} instead of {step.name}, {loop.time() - begun:.3f} s")

    due = loop.time()
    for target in itertools.cycle(targets):
        if end.done():
            break
        due = max(due + pause, loop.time() - 1)
        await asyncio.sleep(max(0, due - loop.time()))
        # A machine that cannot keep up is not to be buried.
        while len(under_way) >= MOST:
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(one(target))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    print(json.dumps({"answers": answers, "errors": errors}))


if __name__ == "__main__":
    places = [target.rpartition(":") for target in sys.argv[3:]]
    asyncio.run(main(float(sys.argv[1]), sys.argv[2], [(host, int(port)) for host, _, port in places]))
