"""What models say, counted: best labels and how sure they are. For drift that no error shows."""

from __future__ import annotations

from sluice_inference.engine.backend import Output
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Reply

_MOST_LABELS = 50
_OTHER = "other"


class PredictionCounts:
    """Counts the answers of classifiers.

    A model's first 50 labels that are best for some input get a count of their own, all later ones
    share `other`: a metric must not grow with what clients send.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._labels = metrics.predictions_total
        self._confidence = metrics.prediction_confidence
        self._known: dict[str, set[str]] = {}

    def note(self, reply: Reply) -> None:
        for index, outcome in enumerate(reply.outcomes):
            if not isinstance(outcome, Output) or outcome.scores is None:
                continue
            source = reply.find_source(index)
            labels = source.facts.labels
            if "Classification" not in source.facts.tasks or len(labels) != outcome.scores.size:
                continue
            best = int(outcome.scores.argmax())
            title = source.model.title
            self._labels.labels(title, self._bound(title, labels[best])).inc()
            self._confidence.labels(title).observe(float(outcome.scores[best]))

    def _bound(self, title: str, label: str) -> str:
        known = self._known.setdefault(title, set())
        if label not in known:
            if len(known) >= _MOST_LABELS:
                return _OTHER
            known.add(label)
        return label
