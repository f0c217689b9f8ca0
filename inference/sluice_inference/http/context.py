"""What the routes share: settings, state, engine, metrics. Made once by `app.make_app`."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluice_inference.engine.engine import Engine
from sluice_inference.http.budget import BodyBudget
from sluice_inference.lifecycle import Lifecycle, Traffic
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Answerer
from sluice_inference.samples import Samples
from sluice_inference.settings import Settings


@dataclass(slots=True)
class Context:
    """The server's parts, as routes and middleware see them."""

    settings: Settings
    lifecycle: Lifecycle
    engine: Engine
    answerer: Answerer
    metrics: Metrics
    backend: str
    traffic: Traffic = field(default_factory=Traffic)
    samples: Samples = field(default_factory=Samples)
    budget: BodyBudget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = BodyBudget(self.settings.limits.max_body_bytes_in_flight)
