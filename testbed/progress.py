"""Says what the testbed is doing and for how long.  Knows nothing about what the steps do."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """Steps with elapsed time: a live line on a terminal, a start and an end line elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()

    def say(self, text: str) -> None:
        """Print one line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Announce ``what``, time the body, and say whether it ended well."""
        began = time.monotonic()
        over = threading.Event()
        ticker: threading.Thread | None = None
        if self._live:
            ticker = threading.Thread(target=self._tick, args=(what, began, over), daemon=True)
            ticker.start()
        else:
            self.say(f"[ .. ] {what}")
        verdict = "fail"
        try:
            yield
            verdict = " ok "
        finally:
            over.set()
            if ticker is not None:
                ticker.join()
            clear = "\r\033[K" if self._live else ""
            self.say(f"{clear}[{verdict}] {what} ({time.monotonic() - began:.1f} s)")

    def _tick(self, what: str, began: float, over: threading.Event) -> None:
        while not over.wait(0.25):
            self._stream.write(f"\r\033[K[ .. ] {what} ({time.monotonic() - began:.0f} s)")
            self._stream.flush()
