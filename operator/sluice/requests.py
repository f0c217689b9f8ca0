"""What a person asks of a rollout: one annotation, read strictly.

    sluice.dev/request: "<verb> <revision> <time> [<target>]"

The form is positional so that the admission policy `sluice-requests` (config/admission) can read it
too; it refuses what is refused here, with the same words.  Whether a request fits the rollout at hand,
is new, or is allowed to its author must not be decided here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sluice import labels

MAX_LENGTH: Final = 256
"""Characters of a request, far above the longest that makes sense."""

# As names.short_hash makes it and sluice.api.scalars has it; unit tests hold these to both.
REVISION_PATTERN: Final = "[bcdfghjklmnpqrstvwxz2456789]{10}"
_NUMBER: Final = "(0|[1-9][0-9]*)"
_PRERELEASE: Final = "(0|[1-9][0-9]*|[0-9]*[a-z-][0-9a-z-]*)"
VERSION_PATTERN: Final = rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRERELEASE}(\.{_PRERELEASE})*)?"
# RFC 3339, upper case, in this millennium: no reader of it then meets a time it can't convert.
TIME_PATTERN: Final = (
    r"2[0-9]{3}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)


class Verb(StrEnum):
    """What can be asked for; RBAC grants each as `update` on `inferenceservices/<verb>`."""

    PROMOTE = "promote"
    PROMOTE_FULL = "promote-full"
    ABORT = "abort"
    RETRY = "retry"
    PAUSE = "pause"
    RESUME = "resume"
    ROLLBACK = "rollback"


PREVIOUS: Final = "previous"
STABLE: Final = "stable"
"""Targets of a rollback besides a version."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request.  `text` is the annotation as it stands: its identity."""

    verb: Verb
    revision: str
    time: datetime  # in UTC
    target: str  # previous, stable or a version for rollback; empty for every other verb
    by: str  # who asked, empty where it isn't said
    text: str


@dataclass(frozen=True, slots=True)
class RequestError:
    """An annotation that can't be read: its text, and a sentence for its author."""

    text: str
    message: str


def read_request(annotations: Mapping[str, str]) -> Request | RequestError | None:
    """The request among an object's annotations; None where there is none."""
    text = annotations.get(labels.REQUEST)
    if text is None:
        return None
    problem = _find_problem(text)
    if problem:
        return RequestError(text, f"{labels.REQUEST}: {problem}")
    verb, revision, time, *rest = text.split(" ")
    return Request(
        verb=Verb(verb),
        revision=revision,
        time=datetime.fromisoformat(time).astimezone(UTC),
        target=rest[0] if rest else "",
        by=annotations.get(labels.REQUESTED_BY, ""),
        text=text,
    )


def format_request(verb: Verb, revision: str, now: datetime, target: str = "") -> str:
    """The annotation's text; ValueError says what no request can have.

    `now` needs a zone.  Its milliseconds are kept: the same request a moment later is another one.
    """
    if now.utcoffset() is None:
        raise ValueError(f"the time of a request needs a zone, {now.isoformat()} has none")
    time = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = " ".join([verb, revision, time, *([target] if target else [])])
    problem = _find_problem(text)
    if problem:
        raise ValueError(problem)
    return text


# The sentences below stand in config/admission/requests.yaml too; an integration test compares them.


def _find_problem(text: str) -> str:
    """What is wrong with a request, as a sentence; empty where nothing is."""
    if len(text) > MAX_LENGTH:
        return f"is {len(text)} characters long, allowed are {MAX_LENGTH}; {_example('promote')}"
    verb, *rest = text.split(" ")
    if verb not in list(Verb):
        return f"{_quote(verb)} is no verb, use one of {', '.join(Verb)}; {_example('promote')}"
    wanted = 3 if verb == Verb.ROLLBACK else 2
    if len(rest) != wanted:
        return (
            f"{verb} takes {wanted} words after it with one space between them, here are "
            f"{len(rest)}; {_example(verb)}"
        )
    return _find_wrong_word(*rest)


def _find_wrong_word(revision: str, time: str, target: str = PREVIOUS) -> str:
    if not re.fullmatch(REVISION_PATTERN, revision):
        return (
            f"{_quote(revision)} is no revision, use the 10 characters that "
            "status.rollout.revision has"
        )
    if not _is_time(time):
        return (
            f"{_quote(time)} is no time, use RFC 3339 with seconds and a zone, such as "
            "2026-10-05T03:04:05Z"
        )
    if target not in (PREVIOUS, STABLE) and not re.fullmatch(VERSION_PATTERN, target):
        return (
            f"{_quote(target)} is no target of a rollback, use previous, stable or an exact "
            "version such as 1.4.0"
        )
    return ""


def _is_time(text: str) -> bool:
    if not re.fullmatch(TIME_PATTERN, text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:  # the 30th of February
        return False
    return True


def _example(verb: str) -> str:
    target = " previous" if verb == Verb.ROLLBACK else ""
    return f"an example: {verb} kd7x2m9qwz 2026-10-05T03:04:05Z{target}"


def _quote(text: str) -> str:
    """In double quotes and on one line, whatever is in it."""
    return json.dumps(text, ensure_ascii=False)
