"""The one error the testbed raises on purpose: it says what is wrong, where, and what to do."""


class ClusterError(Exception):
    """Something a person can act on; printed without a traceback by the command line."""
