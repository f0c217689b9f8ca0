"""Builds the models of a process from its settings: backends, engines, and who answers with them.

Makes and connects; starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sluice_inference.caching.cached import Cached
from sluice_inference.caching.tiers import Tiers
from sluice_inference.engine.engine import Engine
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.lifecycle import Lifecycle
from sluice_inference.logs import log
from sluice_inference.metrics import Metrics
from sluice_inference.models.registry import make_backend
from sluice_inference.predictor import Answerer, Predictor
from sluice_inference.routing.fallback import WithFallback
from sluice_inference.routing.member import LocalModel, Member
from sluice_inference.routing.remote import RemoteModel
from sluice_inference.routing.roster import Roster
from sluice_inference.routing.split import Split
from sluice_inference.settings import Settings
from sluice_inference.settings.model import ModelSettings
from sluice_inference.settings.routing import FallbackSettings


def make_roster(
    settings: Settings,
    lifecycle: Lifecycle,
    pool: DecodePool,
    metrics: Metrics,
    on_failed: Callable[[str], None],
    tiers: Tiers | None = None,
) -> Roster:
    """All models that the settings name, and the one answerer over them.

    `tiers`: where the answers of each model of this process are kept; None keeps none.
    """
    make_own = partial(make_local, settings, pool, metrics, tiers)
    routing = settings.routing
    primary = make_own(settings.model)
    fallback = _make_fallback(routing.fallback, make_own, metrics) if routing.fallback else None
    second = None
    if routing.split is not None:
        second = make_own(routing.split.model)
    routers: dict[str, WithFallback] = {}
    if routing.fallback is not None and fallback is not None:
        for part, model in (("primary", primary), ("second", second)):
            if model is not None:
                routers[part] = WithFallback(model, fallback, routing.fallback, metrics)
    answerer: Answerer = routers.get("primary", primary)
    if second is not None and routing.split is not None:
        answerer = Split(answerer, routers.get("second", second), second, routing.split.percent)
    roster = Roster(
        lifecycle,
        answerer,
        primary,
        routers=routers,
        fallback=fallback,
        second=second,
        on_failed=on_failed,
    )
    metrics.fallback_active.set_function(lambda: float(roster.is_fallback_active()))
    return roster


def make_local(
    settings: Settings,
    pool: DecodePool,
    metrics: Metrics,
    tiers: Tiers | None,
    model: ModelSettings,
) -> LocalModel:
    """A model of this process."""
    lifecycle = Lifecycle(model=model.title)
    engine = Engine(
        make_backend(model),
        lifecycle,
        metrics,
        model=model.title,
        batch_size=model.batch_size,
        queue_items=model.queue_items,
        queue_bytes=model.queue_bytes,
        stall_s=model.stall_s,
        on_failed=partial(_tell_failure, model.title),
    )
    answerer: Answerer = Predictor(model, engine, pool, metrics, settings.quality)
    if tiers is not None:
        answerer = Cached(answerer, model, settings.quality, tiers, metrics, server=settings.server)
    return LocalModel(model, lifecycle, engine, answerer, metrics)


def _make_fallback(
    settings: FallbackSettings,
    make_own: Callable[[ModelSettings], LocalModel],
    metrics: Metrics,
) -> Member:
    if settings.model is not None:
        return make_own(settings.model)
    return RemoteModel(settings.url, metrics, key_file=settings.key_file)


def _tell_failure(model: str, message: str) -> None:
    """From the engine's thread. What follows from it, the roster decides."""
    log("error", "the model can't be served", model=model, reason=message)
