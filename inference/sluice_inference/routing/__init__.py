"""Which model answers a request: the primary one, its fallback, or the second of two that share."""
