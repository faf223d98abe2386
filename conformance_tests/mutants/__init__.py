"""Mutants of the reference: small named faults. The suite is judged by how many of them it notices.

These modules know the insides of ``reference_impl``, which the engine must not; nothing in the engine imports them.
"""
