"""Every endpoint there is."""

from __future__ import annotations

from flota.gateway.endpoints import events, files, logs, networks, nodes, services, swarm, system, tasks
from flota.gateway.http import Route, routes

ROUTES: list[Route] = routes(
    system.ROUTES,
    swarm.ROUTES,
    nodes.ROUTES,
    services.ROUTES,
    tasks.ROUTES,
    files.ROUTES,
    networks.ROUTES,
    logs.ROUTES,
    events.ROUTES,
)
