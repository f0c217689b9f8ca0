"""What a ModelVersion's status says of a quarantine: from the record of it, and after the record is gone."""

from datetime import UTC, datetime
from typing import Any

from sluice import labels
from sluice.api.modelversion import ModelVersion
from sluice.version_status import summarize_version
from tests.builders import model_version

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
WORDS = "ErrorRate 3.10% > 1.00% (n=2207)"


def record(service: str, quarantine: str = "") -> dict[str, Any]:
    annotations = {labels.QUARANTINE: quarantine} if quarantine else {}
    return {"metadata": {"labels": {labels.SERVICE: service}, "annotations": annotations}}


def conditions(before: dict[str, Any], *records: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    found = summarize(before, *records)["conditions"]
    return {item["type"]: (item["status"], item["reason"], item["message"]) for item in found}


def summarize(before: dict[str, Any], *records: dict[str, Any]) -> dict[str, Any]:
    version = ModelVersion.parse(model_version().obj())
    return summarize_version(version, before, 1, [], [], list(records), NOW)


def test_a_version_that_failed_no_client_may_be_deployed() -> None:
    found = conditions({}, record("pizza"))

    assert found["Ready"][0] == "True"
    assert "Quarantined" not in found


def test_a_failed_check_quarantines_it() -> None:
    found = conditions({}, record("pizza", WORDS), record("other"))

    assert found["Quarantined"] == ("True", "AnalysisFailed", f"pizza: {WORDS}")
    assert found["Ready"] == ("False", "Quarantined", f"quarantined: pizza: {WORDS}")
    assert found["Stalled"][0] == "True"


def test_it_outlives_the_service_that_found_out() -> None:
    before = summarize({}, record("pizza", WORDS))

    assert conditions(before, record("other"))["Quarantined"][2] == f"pizza: {WORDS}"


def test_a_retry_where_it_failed_ends_it() -> None:
    before = summarize({}, record("pizza", WORDS))
    found = conditions(before, record("pizza"))

    assert "Quarantined" not in found
    assert "Stalled" not in found
    assert found["Ready"][0] == "True"
