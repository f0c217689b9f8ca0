"""What the routes share: settings, state, models, metrics. Made once by `app.make_app`."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluice_inference.engine.engine import Engine
from sluice_inference.http.budget import BodyBudget
from sluice_inference.http.prediction_counts import PredictionCounts
from sluice_inference.imaging.quality import RecentPictures
from sluice_inference.lifecycle import Lifecycle, Traffic
from sluice_inference.loop_lag import LoopLag
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Answerer
from sluice_inference.routing.roster import Roster
from sluice_inference.samples import Samples
from sluice_inference.settings import Settings
from sluice_inference.tracing import Tracer


@dataclass(slots=True)
class Context:
    """The server's parts, as routes and middleware see them."""

    settings: Settings
    lifecycle: Lifecycle
    roster: Roster
    metrics: Metrics
    backend: str
    traffic: Traffic = field(default_factory=Traffic)
    samples: Samples = field(default_factory=Samples)
    tracer: Tracer | None = None
    lag: LoopLag = field(init=False)
    predictions: PredictionCounts = field(init=False)
    recent_pictures: RecentPictures = field(init=False)
    budget: BodyBudget = field(init=False)

    @property
    def engine(self) -> Engine:
        """The primary model's."""
        return self.roster.primary.engine

    @property
    def answerer(self) -> Answerer:
        return self.roster.answerer

    def __post_init__(self) -> None:
        self.lag = LoopLag(self.metrics.loop_lag_seconds)
        self.budget = BodyBudget(self.settings.limits.max_body_bytes_in_flight)
        self.predictions = PredictionCounts(self.metrics)
        self.recent_pictures = RecentPictures(self.settings.quality.duplicate_bits)
