"""A request that is not let in: what its client is told, and what is counted and logged of it."""

from __future__ import annotations

from sluice_inference.errors import RequestError


class DeniedError(RequestError):
    """A RequestError that the guard raises. `reason` labels the metric and the security event."""

    def __init__(
        self,
        reason: str,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_s: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(status, code, message, retry_after_s=retry_after_s, headers=headers)
        self.reason = reason
