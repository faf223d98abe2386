"""Mutants of the object storage."""

from __future__ import annotations

from conformance_tests.mutants.model import Mutants

mutant = MUTANTS = Mutants("object-storage")
