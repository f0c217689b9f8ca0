"""GET /health, /ready, /status, /metrics and /metrics/rollout: for kubelets and operators. Runs no model."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sluice_inference import __version__
from sluice_inference.http.context import Context
from sluice_inference.lifecycle import State
from sluice_inference.metrics import CONTENT_TYPE

PATHS = frozenset({"/health", "/ready", "/status", "/metrics", "/metrics/rollout"})


def make_routes(context: Context) -> list[Route]:
    async def health(_: Request) -> Response:
        problem = find_fault(context)
        body = {"status": "failed", "reason": problem} if problem else {"status": "ok"}
        return JSONResponse(body, status_code=503 if problem else 200)

    async def ready(_: Request) -> Response:
        if context.lifecycle.is_ready() and not find_fault(context):
            return JSONResponse({"status": "ready"})
        body = {"status": "not ready", "state": str(context.lifecycle.state)}
        return JSONResponse(body, status_code=503, headers={"retry-after": "1"})

    async def status(_: Request) -> Response:
        return JSONResponse(describe(context))

    async def metrics(_: Request) -> Response:
        body = context.metrics.render() + context.samples.render()
        return Response(body, media_type=CONTENT_TYPE)

    async def rollout(_: Request) -> Response:
        return Response(context.samples.render(), media_type=CONTENT_TYPE)

    endpoints = {
        "/health": health,
        "/ready": ready,
        "/status": status,
        "/metrics": metrics,
        "/metrics/rollout": rollout,
    }
    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]


def find_fault(context: Context) -> str:
    """Why this process can't work any more and should be replaced, or an empty string."""
    if context.lifecycle.state in (State.FAILED, State.STOPPED):
        return f"the server is {context.lifecycle.state}"
    return context.engine.health()


def describe(context: Context) -> dict[str, Any]:
    """What /status says. The test double is named as such."""
    settings, facts = context.settings, context.engine.facts
    return {
        "state": str(context.lifecycle.state),
        "backend": context.backend,
        "device": facts.device if facts else "",
        "architecture": facts.architecture if facts else "",
        "precision": settings.model.precision,
        "model": settings.model.name,
        "version": settings.model.version,
        "digest": settings.model.digest,
        "service": settings.service,
        "revision": settings.revision,
        "role": settings.role,
        "tasks": list(facts.tasks) if facts else [],
        "labels": len(facts.labels) if facts else 0,
        "embedding": {"space": facts.space, "dimension": facts.dimension} if facts else {},
        "queue_items": context.engine.queued,
        "in_flight": context.traffic.in_flight,
        "uptime_seconds": round(context.lifecycle.uptime_s(), 1),
        "server_version": __version__,
    }
