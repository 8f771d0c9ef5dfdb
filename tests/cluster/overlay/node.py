"""A node for the overlay's cluster tests: one Network in a process of its own, driven by lines of JSON.

Run in a node's network namespace: node.py RUN_DIRECTORY LOCAL_ADDRESS PORT NODE_ID RESOLV_CONF. Requests on standard
input ({"call": …}), one answer line each on standard output. The end of input ends the process as a crash would.
"""

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from flota.overlay import Network, OverlayError
from flota.v1.dispatcher_pb2 import AssignmentsMessage
from flota.v1.objects_pb2 import Task


async def answer(network: Network, request: dict[str, Any]) -> dict[str, Any]:
    match request["call"]:
        case "apply":
            message = AssignmentsMessage.FromString(bytes.fromhex(request["message"]))
            begin = time.perf_counter()
            network.apply(message.changes, message.type == AssignmentsMessage.TYPE_COMPLETE)
            await network.settled()
            return {"seconds": time.perf_counter() - begin}
        case "attach":
            tasks = [Task.FromString(bytes.fromhex(task)) for task in request["tasks"]]
            begin = time.perf_counter()
            sandboxes = await asyncio.gather(*map(network.attach, tasks))
            return {
                "seconds": time.perf_counter() - begin,
                "sandboxes": [
                    {
                        "netns": str(one.netns),
                        "resolv_conf": one.resolv_conf,
                        "hosts": one.hosts,
                        "ports": [port.published_port for port in one.ports],
                    }
                    for one in sandboxes
                ],
            }
        case "close":
            for task_id in request["tasks"]:
                await network.close(task_id)
            return {}
        case "detach":
            begin = time.perf_counter()
            for task_id in request["tasks"]:
                await network.detach(task_id)
            return {"seconds": time.perf_counter() - begin}
        case "adopt":
            await network.adopt(set(request["tasks"]))
            return {}
        case "keys":
            told = [key.SerializeToString().hex() for key in network.encryption.told_keys]
            return {"keys": told, "sending": network.encryption.sending}
        case "implementation":
            return {"implementation": network.encryption.implementation}
        case "rotate":
            network.encryption.rotation.hurry()
            return {}
        case "leave":
            await network.leave()
            return {}
        case "stop":
            await network.stop()
            return {}
    raise ValueError(request)


async def main(run_directory: str, address: str, port: str, node_id: str, resolv_conf: str, linger: str) -> None:
    network = Network(
        Path(run_directory),
        address,
        int(port),
        node_id,
        host_resolv_conf=Path(resolv_conf),
        linger=float(linger),
        # Keys go on when a test says so.
        key_settle=600.0,
    )
    await network.start()
    print(json.dumps({"ready": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        try:
            result = await answer(network, request)
        except OverlayError as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)
        if request["call"] == "stop":
            return
    os._exit(1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(*sys.argv[1:]))
