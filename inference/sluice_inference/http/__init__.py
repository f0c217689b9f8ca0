"""The HTTP surface. Knows requests and answers, nothing of models."""
