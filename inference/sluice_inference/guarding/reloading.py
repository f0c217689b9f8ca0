"""A value made from files, made anew when they change.

Looks at the files' metadata now and then, when somebody asks for the value: a mounted Secret changes
by a swap of links several levels up, which file watches miss and which a plain `stat` sees.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from sluice_inference.errors import UnusableFileError
from sluice_inference.logs import log

T = TypeVar("T")

EVERY_S = 2.0
MAX_BYTES = 1 << 20
_Signature = tuple[tuple[int, ...], ...]


class Reloading(Generic[T]):
    """The value of `files`, at most `EVERY_S` seconds behind them.

    Files that can't be used any more leave the last good value in place: a slip of the hand in a
    Secret must not lock out every client. It is logged as an error, once for each change.
    """

    def __init__(
        self,
        what: str,
        files: Sequence[Path],
        make: Callable[[], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes the first value; raises UnusableFileError where that can't be done."""
        self._what = what
        self._files = tuple(files)
        self._make = make
        self._clock = clock
        # Taken before the files are read: what changes meanwhile is seen at the next look.
        self._seen = self._look()
        self._value = make()
        self._looked = clock()
        self.is_stale = False

    def get(self) -> T:
        """The newest value that could be made."""
        now = self._clock()
        if now - self._looked >= EVERY_S:
            self._looked = now
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._renew()
        return self._value

    def _renew(self) -> None:
        try:
            self._value = self._make()
        except UnusableFileError as error:
            self.is_stale = True
            log("error", f"{self._what} can't be used; the old ones stay", reason=str(error))
            return
        self.is_stale = False
        log("info", f"{self._what} were read again")

    def _look(self) -> _Signature:
        return tuple(_read_signature(file) for file in self._files)


def read_text(file: Path) -> str:
    """A small text file. Raises UnusableFileError."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UnusableFileError(f"{file} has more than {MAX_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise UnusableFileError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnusableFileError(f"{file} is not text in UTF-8") from error


def _read_signature(file: Path) -> tuple[int, ...]:
    try:
        seen = os.stat(file)
    except OSError:
        return ()
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
