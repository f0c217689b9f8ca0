"""GET /health, /ready, /status, /metrics and /metrics/rollout: for kubelets and operators. Runs no model."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sluice_inference import __version__
from sluice_inference.http.catalogue import JSON, Content, Entry, Purpose
from sluice_inference.http.context import Context
from sluice_inference.http.dialects import NATIVE
from sluice_inference.lifecycle import State
from sluice_inference.metrics import CONTENT_TYPE

_TEXT = (Content("text/plain", {"type": "string"}),)
_STATE = (Content(JSON, {"type": "object"}),)


def make_routes(context: Context) -> list[Entry]:
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
        own = context.metrics.render() if context.settings.monitoring.is_enabled else b""
        body = own + context.samples.render()
        return Response(body, media_type=CONTENT_TYPE)

    async def rollout(_: Request) -> Response:
        return Response(context.samples.render(), media_type=CONTENT_TYPE)

    probe, ops = Purpose.PROBE, Purpose.OPS
    rows = (
        ("/health", probe, health, "Can this process work?", _STATE),
        ("/ready", probe, ready, "Is new traffic welcome?", _STATE),
        ("/status", ops, status, "What runs here", _STATE),
        ("/metrics", ops, metrics, "Prometheus metrics", _TEXT),
        ("/metrics/rollout", ops, rollout, "The samples rollouts are judged by", _TEXT),
    )
    return [
        Entry("GET", path, purpose, NATIVE, handle, summary, gives=gives)
        for path, purpose, handle, summary, gives in rows
    ]


def find_fault(context: Context) -> str:
    """Why this process can't work any more and should be replaced, or an empty string."""
    if context.lifecycle.state in (State.FAILED, State.STOPPED):
        return f"the server is {context.lifecycle.state}"
    return context.roster.find_fault()


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
        "environment": settings.environment,
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
        **context.roster.describe(),
    }
