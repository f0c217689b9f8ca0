"""The seed of a test that draws: printed, so that a failure can be had again."""

import os
import time


def find_seed() -> int:
    """SLUICE_TEST_SEED, or a new one."""
    seed = int(os.environ.get("SLUICE_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"SLUICE_TEST_SEED={seed}")
    return seed
