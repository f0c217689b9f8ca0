"""The request annotation: what is read from it, what is refused, and with which words."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml

from sluice import labels, names
from sluice.api import scalars
from sluice.requests import (
    MAX_LENGTH,
    REVISION_PATTERN,
    VERSION_PATTERN,
    Request,
    RequestError,
    Verb,
    format_request,
    read_request,
)

ROOT = Path(__file__).parents[3]
REVISION = "kd7x2m9qwz"
TIME = "2026-10-05T03:04:05Z"
NOON = datetime(2026, 10, 5, 12, 0, 0, tzinfo=UTC)


def read(text: str, by: str | None = None) -> Request | RequestError | None:
    annotations = {labels.REQUEST: text}
    return read_request(annotations if by is None else {**annotations, labels.REQUESTED_BY: by})


def test_none_asks_for_nothing() -> None:
    assert read_request({}) is None
    assert read_request({labels.REQUESTED_BY: "alice", "other": "promote"}) is None


@pytest.mark.parametrize("verb", list(Verb))
def test_every_verb_is_read(verb: Verb) -> None:
    target = "previous" if verb is Verb.ROLLBACK else ""
    text = " ".join([verb.value, REVISION, TIME, target]).strip()
    time = datetime(2026, 10, 5, 3, 4, 5, tzinfo=UTC)
    assert read(text, by="alice") == Request(verb, REVISION, time, target, "alice", text)


@pytest.mark.parametrize(
    ("time", "want"),
    [
        ("2026-10-05T03:04:05Z", datetime(2026, 10, 5, 3, 4, 5, tzinfo=UTC)),
        ("2026-10-05T03:04:05.250Z", datetime(2026, 10, 5, 3, 4, 5, 250_000, tzinfo=UTC)),
        ("2026-10-05T03:04:05.123456789Z", datetime(2026, 10, 5, 3, 4, 5, 123_456, tzinfo=UTC)),
        ("2026-10-05T03:04:05+02:00", datetime(2026, 10, 5, 1, 4, 5, tzinfo=UTC)),
        ("2024-02-29T23:59:59-23:59", datetime(2024, 3, 1, 23, 58, 59, tzinfo=UTC)),
        ("2999-12-31T23:59:59-23:59", datetime(3000, 1, 1, 23, 58, 59, tzinfo=UTC)),
    ],
)
def test_time_is_in_utc(time: str, want: datetime) -> None:
    request = read(f"abort {REVISION} {time}")
    assert isinstance(request, Request)
    assert request.time == want
    assert request.time.tzinfo is UTC


@pytest.mark.parametrize("target", ["previous", "stable", "1.4.0", "2.0.0-rc.1"])
def test_targets_of_a_rollback(target: str) -> None:
    request = read(f"rollback {REVISION} {TIME} {target}")
    assert isinstance(request, Request)
    assert request.target == target


VERBS = "use one of promote, promote-full, abort, retry, pause, resume, rollback"
EXAMPLE = f"an example: promote {REVISION} {TIME}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", f'"" is no verb, {VERBS}; {EXAMPLE}', id="empty"),
        pytest.param(
            f"Promote {REVISION} {TIME}", f'"Promote" is no verb, {VERBS}; {EXAMPLE}', id="case"
        ),
        pytest.param(
            f" promote {REVISION} {TIME}", f'"" is no verb, {VERBS}; {EXAMPLE}', id="space before"
        ),
        pytest.param(
            f"promote\n{REVISION} {TIME}",
            f'"promote\\n{REVISION}" is no verb, {VERBS}; {EXAMPLE}',
            id="line break",
        ),
        pytest.param(
            f"promote {REVISION}",
            f"promote takes 2 words after it with one space between them, here are 1; {EXAMPLE}",
            id="too few",
        ),
        pytest.param(
            f"promote {REVISION}  {TIME}",
            f"promote takes 2 words after it with one space between them, here are 3; {EXAMPLE}",
            id="two spaces",
        ),
        pytest.param(
            f"abort {REVISION} {TIME} previous",
            "abort takes 2 words after it with one space between them, here are 3; an example: "
            f"abort {REVISION} {TIME}",
            id="a target where none belongs",
        ),
        pytest.param(
            f"rollback {REVISION} {TIME}",
            "rollback takes 3 words after it with one space between them, here are 2; an example: "
            f"rollback {REVISION} {TIME} previous",
            id="rollback without target",
        ),
        pytest.param(
            f"promote {REVISION[:9]} {TIME}",
            f'"{REVISION[:9]}" is no revision, use the 10 characters that status.rollout.revision '
            "has",
            id="short revision",
        ),
        pytest.param(
            f"promote pizza-1.0. {TIME}",
            '"pizza-1.0." is no revision, use the 10 characters that status.rollout.revision has',
            id="no hash",
        ),
        pytest.param(
            f"rollback {REVISION} {TIME} 1.4",
            '"1.4" is no target of a rollback, use previous, stable or an exact version such as '
            "1.4.0",
            id="no version",
        ),
        pytest.param(
            f"rollback {REVISION} {TIME} ",
            '"" is no target of a rollback, use previous, stable or an exact version such as 1.4.0',
            id="empty target",
        ),
        pytest.param(
            "x" * (MAX_LENGTH + 1),
            f"is {MAX_LENGTH + 1} characters long, allowed are {MAX_LENGTH}; {EXAMPLE}",
            id="too long",
        ),
    ],
)
def test_refused_with_what_is_wrong_and_what_is_allowed(text: str, message: str) -> None:
    assert read(text) == RequestError(text, f"sluice.dev/request: {message}")


@pytest.mark.parametrize(
    "time",
    [
        "now",
        "2026-10-05",
        "2026-10-05T03:04Z",
        "2026-10-05T03:04:05",  # no zone
        "2026-10-05t03:04:05z",
        "2026-02-30T03:04:05Z",
        "2025-02-29T03:04:05Z",
        "2026-13-01T03:04:05Z",
        "2026-10-05T24:00:00Z",
        "2026-10-05T03:04:60Z",
        "2026-10-05T03:04:05+24:00",
        "2026-10-05T03:04:05,5Z",
        "1970-01-01T00:00:00Z",
        "2026-10-05T03:04:05Z\n",
        "２026-10-05T03:04:05Z",
    ],
)
def test_no_time(time: str) -> None:
    refused = read(f"promote {REVISION} {time}")
    assert isinstance(refused, RequestError)
    assert "is no time, use RFC 3339 with seconds and a zone, such as" in refused.message
    assert "\n" not in refused.message


@pytest.mark.parametrize("verb", list(Verb))
def test_what_is_written_is_read(verb: Verb) -> None:
    target = "1.4.0-rc.1" if verb is Verb.ROLLBACK else ""
    now = NOON + timedelta(milliseconds=250)
    request = read(format_request(verb, REVISION, now, target))
    assert isinstance(request, Request)
    assert (request.verb, request.revision, request.time, request.target) == (
        verb,
        REVISION,
        now,
        target,
    )


def test_time_is_written_in_utc() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    want = f"pause {REVISION} 2026-10-05T12:00:00.000Z"
    assert format_request(Verb.PAUSE, REVISION, there) == want


@pytest.mark.parametrize(
    ("verb", "revision", "now", "target", "why"),
    [
        (Verb.PROMOTE, REVISION, NOON.replace(tzinfo=None), "", "needs a zone"),
        (Verb.PROMOTE, "nonsense", NOON, "", "is no revision"),
        (Verb.PROMOTE, REVISION, NOON, "previous", "takes 2 words"),
        (Verb.ROLLBACK, REVISION, NOON, "", "takes 3 words"),
        (Verb.ROLLBACK, REVISION, NOON, "yesterday", "is no target"),
    ],
)
def test_nothing_unreadable_is_written(
    verb: Verb, revision: str, now: datetime, target: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        format_request(verb, revision, now, target)


def test_patterns_are_those_of_names_and_versions() -> None:
    assert f"[{names._ALPHABET}]{{{names.HASH_LENGTH}}}" == REVISION_PATTERN
    assert scalars.SEMVER_PATTERN == VERSION_PATTERN


def test_the_release_manager_may_do_every_verb_and_nothing_else() -> None:
    documents = yaml.safe_load_all((ROOT / "config" / "rbac" / "people.yaml").read_text())
    roles = {role["metadata"]["name"]: role["rules"] for role in documents}
    resources = [f"inferenceservices/{verb.value}" for verb in Verb]
    assert roles["sluice-release-manager"] == [
        {"apiGroups": [names.GROUP], "resources": resources, "verbs": ["update"]}
    ]
