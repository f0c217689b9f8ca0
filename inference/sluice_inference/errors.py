"""What can go wrong, as a small tree. Only the HTTP edge turns a RequestError into an answer.

Messages say what is wrong, where, what is allowed and what to do. They never carry the text of a
library's exception to a client: such texts have leaked addresses and paths before.
"""

from __future__ import annotations


class RequestError(Exception):
    """Something a client is told: a code to branch on, a sentence to read, an HTTP status."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_s: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.headers = headers


class SettingsError(Exception):
    """One or more environment variables can't be used; each line names one."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class UnusableFileError(Exception):
    """A file that a setting names (keys, a certificate) can't be used; says which, and why."""


class LoadError(Exception):
    """The model can't be served by this process, and trying again can't help."""


class NoDeviceError(LoadError):
    """The model needs a GPU, and this process sees none."""


class RunError(Exception):
    """The model could not answer this one item; the others of its batch are fine."""


class QueueFullError(Exception):
    """The engine has as much work as it is allowed to hold."""


class EngineStoppedError(Exception):
    """The engine takes no more work: it failed or was closed."""
