"""Every endpoint there is."""

from __future__ import annotations

from flota.gateway.endpoints import (
    archive,
    containers,
    events,
    exec,
    files,
    images,
    logs,
    networks,
    nodes,
    plain,
    services,
    stats,
    swarm,
    system,
    tasks,
    volumes,
    written,
)
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
    images.ROUTES,
    containers.ROUTES,
    archive.ROUTES,
    plain.ROUTES,
    written.ROUTES,
    exec.ROUTES,
    stats.ROUTES,
    volumes.ROUTES,
)
