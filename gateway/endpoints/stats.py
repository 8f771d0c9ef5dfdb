"""/containers/{id}/stats"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from google.protobuf.duration_pb2 import Duration

from flota.gateway import local_containers
from flota.gateway.http import Call, Route, answer
from flota.gateway.streams import Streaming
from flota.gateway.translation import container
from flota.gateway.translation.words import NEVER, iso_time
from flota.rpc.errors import NotFound
from flota.v1.tasks_pb2 import StatsRequest, TaskStats


async def stats(call: Call) -> web.StreamResponse:
    """Figures every second; with stream=false once. one-shot does without the round before."""
    task = (await local_containers.find(call, call.name())).task
    id = container.container_id(task)
    streaming = call.flag("stream", default=True)
    once = not streaming and call.flag("one-shot")
    rounds = call.backend.containers.StatsOf(
        StatsRequest(tasks=[task.id], stream=not once, interval=Duration(seconds=1))
    )
    before: TaskStats | None = None
    try:
        if streaming:
            async with Streaming(call, "application/json") as out:
                async for told in rounds:
                    for now in told.tasks:
                        await out.line(shape(now, before, id))
                        before = now
            return out.response
        async for told in rounds:
            for now in told.tasks:
                if once or before is not None:
                    return answer(shape(now, before, id))
                before = now
    finally:
        rounds.cancel()
    raise NotFound(f"No such container: {call.name()}")


def shape(now: TaskStats, before: TaskStats | None, id: str) -> dict[str, Any]:
    """One round, with the processor time of the one before, as clients reckon per cent from both."""
    return {
        "name": f"/{now.name}",
        "id": id,
        "read": iso_time(now.read_at),
        "preread": iso_time(before.read_at) if before is not None else NEVER,
        "num_procs": 0,
        "pids_stats": {"current": now.pids} | ({"limit": now.pids_limit} if now.pids_limit else {}),
        "cpu_stats": _cpu(now),
        "precpu_stats": _cpu(before if before is not None else TaskStats()),
        "memory_stats": {
            "usage": now.memory.usage,
            "limit": now.memory.limit,
            "max_usage": now.memory.peak,
            "failcnt": 0,
            # Clients take the cache off by themselves.
            "stats": dict(now.memory.details) | {"inactive_file": max(0, now.memory.usage - now.memory.used)},
        },
        "blkio_stats": _blocks(now),
        "networks": {
            each.name: {
                "rx_bytes": each.received_bytes,
                "rx_packets": each.received_packets,
                "rx_errors": each.received_errors,
                "rx_dropped": each.received_dropped,
                "tx_bytes": each.sent_bytes,
                "tx_packets": each.sent_packets,
                "tx_errors": each.sent_errors,
                "tx_dropped": each.sent_dropped,
            }
            for each in now.networks
        },
        "storage_stats": {},
    }


def _cpu(stats: TaskStats) -> dict[str, Any]:
    cpu = stats.cpu
    return {
        "cpu_usage": {
            "total_usage": cpu.total,
            "usage_in_usermode": cpu.user,
            "usage_in_kernelmode": cpu.system,
        },
        "system_cpu_usage": cpu.machine,
        "online_cpus": cpu.processors,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled,
        },
    }


def _blocks(stats: TaskStats) -> dict[str, Any]:
    transferred = []
    for each in stats.blocks:
        major, _, minor = each.device.partition(":")
        for what, count in (("read", each.read_bytes), ("write", each.written_bytes)):
            transferred.append({"major": int(major or 0), "minor": int(minor or 0), "op": what, "value": count})
    empty = ("io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive")
    return {"io_service_bytes_recursive": transferred, **dict.fromkeys(empty)}


ROUTES: list[Route] = [("GET", "/containers/{id}/stats", stats)]
