"""Backends: what runs a model. Heavy libraries are imported inside, when a backend loads."""
