"""What an answer says of its pictures' quality: measures, shortcomings, and what looks the same."""

from __future__ import annotations

from collections.abc import Sequence

from sluice_inference.engine.backend import Output
from sluice_inference.http.context import Context
from sluice_inference.imaging.quality import Quality, find_issues, is_alike
from sluice_inference.predictor import Outcome
from sluice_inference.protocols.native import Exposure, PictureQuality


def make_quality_reports(
    outcomes: Sequence[Outcome], context: Context
) -> list[PictureQuality | None]:
    """A report for each input, in order; None where there is no picture or no answer.

    The pictures are counted, and remembered as recent by their fingerprints.
    """
    wanted = context.settings.quality
    found = {
        at: one.quality
        for at, one in enumerate(outcomes)
        if isinstance(one, Output) and one.quality is not None
    }
    recent = context.recent_pictures.note([one.fingerprint for one in found.values()])
    reports: list[PictureQuality | None] = [None] * len(outcomes)
    for (at, quality), is_recent in zip(found.items(), recent, strict=True):
        issues = [one.name for one in find_issues(quality, wanted)]
        for issue in issues:
            context.metrics.quality_issues_total.labels(issue).inc()
        twin = _find_twin(at, found, wanted.duplicate_bits)
        reports[at] = PictureQuality(
            quality.width,
            quality.height,
            round(quality.sharpness, 1),
            Exposure(
                round(quality.brightness, 4), round(quality.dark, 4), round(quality.bright, 4)
            ),
            issues,
            twin,
            is_recent,
        )
    return reports


def _find_twin(at: int, found: dict[int, Quality], bits: int) -> int | None:
    """The first input before `at` that looks the same."""
    mine = found[at].fingerprint
    return next(
        (
            other
            for other, quality in found.items()
            if other < at and is_alike(quality.fingerprint, mine, bits)
        ),
        None,
    )
