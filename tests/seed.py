"""The seed of a test that draws: printed, so that a failure can be had again."""

import os
import sys
import time
from typing import TextIO


def find_seed(out: TextIO | None = None) -> int:
    """SLUICE_TEST_SEED, or a new one; said on `out`, by default standard output."""
    seed = int(os.environ.get("SLUICE_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"SLUICE_TEST_SEED={seed}", file=out or sys.stdout)
    return seed
