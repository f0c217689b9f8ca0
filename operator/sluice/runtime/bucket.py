"""A token bucket: the rate that all writers of the process share."""

from sluice.runtime.clock import Clock


class Bucket:
    """``rate`` tokens a second, at most ``burst`` saved up; first come, first served."""

    def __init__(self, rate: float, burst: int, clock: Clock) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"rate must be above 0 and burst at least 1, got {rate} and {burst}")
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._tokens = self._burst
        self._at: float | None = None  # when the tokens were counted last

    async def acquire(self) -> float:
        """Take a token, waiting for it where needed; the seconds waited."""
        self._refill()
        # Below zero means promised: who comes next waits behind.
        self._tokens -= 1
        if self._tokens >= 0:
            return 0.0
        delay = -self._tokens / self._rate
        try:
            await self._clock.sleep(delay)
        except BaseException:
            self._tokens += 1  # cancelled: the token was never used
            raise
        return delay

    def try_acquire(self) -> bool:
        """Take a token if one is there."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _refill(self) -> None:
        now = self._clock.monotonic()
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
