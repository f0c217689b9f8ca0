"""A real Kubernetes on one Linux machine, built from package registries only.

Tests, the demo and the benchmarks talk to it through ``KUBECONFIG`` alone.
``testbed.cluster.Cluster`` is the Python interface, ``python -m testbed`` the command.  Nothing
in here imports Sluice.
"""
