"""Fuzzing of every decoder and every core.

A target is a function of bytes: it makes of them what it feeds to the code, and raises where something does not hold.
``test_fuzz`` runs each of them for a second, by Hypothesis; ``python -m tests.fuzz`` for as long as one likes, guided
by coverage (atheris, that is libFuzzer).
"""
