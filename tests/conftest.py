"""What holds for all tests."""

from hypothesis import settings

# How long an example takes says more of what else the machine does: pytest's own limit ends what hangs.
settings.register_profile("sluice", deadline=None)
settings.load_profile("sluice")
