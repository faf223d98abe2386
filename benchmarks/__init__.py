"""Measurements: the reference beside its peers, in the same run. ``make bench``, or ``python -m benchmarks --help``."""
