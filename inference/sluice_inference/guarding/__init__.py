"""Who may ask, and how often: keys, roles, addresses, rates. Knows nothing of routes' bodies or models."""
