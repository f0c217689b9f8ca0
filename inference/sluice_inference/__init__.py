"""The model server that the operator deploys, and the tool that fetches what it serves."""

__version__ = "0.1.0"
