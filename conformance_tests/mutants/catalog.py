"""All mutants, by role."""

from __future__ import annotations

import importlib

from conformance_tests.mutants.model import Mutant

ROLES = ("scheduler", "object-storage", "worker", "client")
_MODULES = {
    "scheduler": ("scheduler", "graphs", "placement", "limits"),
    "object-storage": ("storage",),
    "worker": ("worker",),
    "client": ("client", "client_graphs"),
}


def of_role(role: str) -> list[Mutant]:
    """The mutants of one role; imports no other role's code."""
    found: list[Mutant] = []
    for name in _MODULES[role]:
        found += importlib.import_module(f"conformance_tests.mutants.{name}").MUTANTS
    return found


def find(role: str, name: str) -> Mutant:
    """One mutant by its name; KeyError if there is none."""
    return {mutant.name: mutant for mutant in of_role(role)}[name]
