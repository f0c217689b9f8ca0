"""Why there is no export."""

from __future__ import annotations


class ExportError(Exception):
    """The export can't be made, or isn't good enough; the message is for whoever ran it."""
