"""The rollout state machine: where a service is between two revisions, and what comes next.

Pure.  States are data, time is an argument, and nothing here knows manifests or the API server.
"""
