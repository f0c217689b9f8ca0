"""The errors of the operator, one small tree, mapped to an outcome once, at the edge.

    SluiceError
    ├── UserError        the person must change something: shown as Stalled, with reason and message
    └── ApiError         the API server said no; .code, .message, .causes
        ├── Transient    it may work later: tried again after .retry_after, or with backoff
        │   └── Gone     410: the page token or resourceVersion is too old, start again
        ├── Conflict     409: our view is old, read again
        │   └── AlreadyExists
        ├── NotFound     404
        ├── Invalid      400, 415, 422: the request is wrong, .causes name the fields
        └── Forbidden    401, 403

Must not know about HTTP libraries or kopf: the mapping from an answer is in ``runtime.answers``.
"""

# ruff: noqa: N818 - "Conflict" says it; every line that catches one would only get longer

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of a Status' ``details.causes``: what is wrong with which field."""

    field: str
    reason: str
    message: str


class SluiceError(Exception):
    """The root: everything the operator raises on purpose."""


class UserError(SluiceError):
    """Only a person can help: ends in the Stalled condition, and is not tried again by itself.

    ``reason`` is a CamelCase word for the condition; ``message`` says what, where, what is
    allowed and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class ApiError(SluiceError):
    """An answer of the API server that is no success. ``code`` is 0 when none came at all."""

    def __init__(
        self,
        message: str,
        *,
        code: int = 0,
        causes: tuple[Cause, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.causes = causes
        self.retry_after = retry_after

    def has_cause(self, reason: str) -> bool:
        """Whether a cause of this reason is given, e.g. ``NamespaceTerminating``."""
        return any(cause.reason == reason for cause in self.causes)


class Transient(ApiError):
    """May work later. ``retry_after`` is in seconds; None leaves it to the backoff."""


class Gone(Transient):
    """410: what the request built on has expired; begin the read again."""


class Conflict(ApiError):
    """409: the object has changed, or a precondition (uid, resourceVersion) does not hold."""


class AlreadyExists(Conflict):
    """409 on create: an object of this name is there."""


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class Invalid(ApiError):
    """400, 415 or 422: the same request will fail again. ``causes`` name the fields."""


class Forbidden(ApiError):
    """401 or 403: the credentials or the RBAC do not allow it."""
