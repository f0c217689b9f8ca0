import json

import pytest

from sluice import errors
from sluice.runtime.answers import make_error, parse_retry_after


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", errors.Invalid),
        (401, "Unauthorized", errors.Forbidden),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (415, "UnsupportedMediaType", errors.Invalid),
        (418, "Teapot", errors.ApiError),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.Transient),
        (500, "InternalError", errors.Transient),
        (503, "ServiceUnavailable", errors.Transient),
        (504, "Timeout", errors.Transient),
    ],
)
def test_kinds_of_errors(code: int, reason: str, kind: type[errors.ApiError]) -> None:
    body = json.dumps({"kind": "Status", "reason": reason, "message": "why"}).encode()
    error = make_error("apply Thing default/a", code, {}, body)
    assert type(error) is kind
    assert error.code == code
    assert error.message == f"apply Thing default/a: {code} {reason}: why"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (["metadata.uid"], errors.Conflict),
        (["metadata.uid", "spec"], errors.Invalid),
        ([], errors.Invalid),
    ],
)
def test_a_uid_that_does_not_hold_is_a_conflict(
    fields: list[str], kind: type[errors.ApiError]
) -> None:
    causes = [{"field": field, "reason": "FieldValueInvalid"} for field in fields]
    body = json.dumps({"reason": "Invalid", "details": {"causes": causes}}).encode()
    assert type(make_error("apply", 422, {}, body)) is kind


def test_the_fields_at_fault_are_named() -> None:
    causes = [{"field": "spec.replicas", "reason": "FieldValueInvalid", "message": "must be ≥ 0"}]
    body = json.dumps({"reason": "Invalid", "details": {"causes": causes}}).encode()
    error = make_error("apply", 422, {}, body)
    assert error.causes == (errors.Cause("spec.replicas", "FieldValueInvalid", "must be ≥ 0"),)
    assert error.has_cause("FieldValueInvalid")
    assert not error.has_cause("NamespaceTerminating")


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"null", b"[]", b"\xff\xfe"])
def test_an_answer_that_is_no_status_is_an_error_all_the_same(body: bytes) -> None:
    assert isinstance(make_error("get", 502, {}, body), errors.Transient)


@pytest.mark.parametrize(
    ("header", "detail", "seconds"),
    [
        ("3", None, 3.0),
        (None, 2, 2.0),
        ("1", 5, 1.0),
        ("100000", None, 60.0),
        ("0", None, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 4, 4.0),
        (None, None, None),
    ],
)
def test_retry_after(header: str | None, detail: int | None, seconds: float | None) -> None:
    headers = {"Retry-After": header} if header else {}
    assert parse_retry_after(headers, {"retryAfterSeconds": detail}) == seconds
