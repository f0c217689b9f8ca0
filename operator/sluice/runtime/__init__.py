"""The machinery under the reconcilers: cache, queue, workers, lease, API port, recorder, metrics.

Knows no domain words, and imports nothing of the operator but ``sluice.errors``.
"""
