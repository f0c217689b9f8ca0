"""Manifests of a service's children, made from a revision's inputs.

Pure: the same arguments give the same manifest, byte for byte.  Nothing here reads the cluster or decides
whether a child should exist; `plan` does.
"""
