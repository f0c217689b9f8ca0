"""Model artifacts: the manifest that names their bytes, and the ways to fetch and push them."""
