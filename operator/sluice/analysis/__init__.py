"""From what servers count to verdicts on a candidate: samples, tallies, statistics, checks.

Pure, but for ``pods`` and ``prometheus``, which fetch.  Nothing here decides what a verdict leads to.
"""
