"""Mutants of the worker."""

from __future__ import annotations

from conformance_tests.mutants.model import Mutants

mutant = MUTANTS = Mutants("worker")
