"""The kinds of sluice.dev/v1alpha1: parsed types, conditions, and the CRDs generated from them.

Nothing here reads a cluster or decides what to do.
"""
