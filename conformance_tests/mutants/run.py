"""``python -m conformance_tests.mutants.run ROLE MUTANT -- ARGUMENTS``: a role of the reference, with a fault in it.

Processes that the role forks have the fault, too, and so has a worker's zygote; other programs that it starts do not.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from conformance_tests.mutants import catalog
from conformance_tests.mutants.model import applied

_MAINS = {
    "scheduler": "reference_impl.scheduler.__main__",
    "object-storage": "reference_impl.object_storage.__main__",
    "worker": "reference_impl.worker.__main__",
    "client": "conformance_tests.drivers.reference_client",
}


def main(argv: list[str]) -> int:
    """The exit code of the role; 2 where there is no such mutant."""
    if len(argv) < 3 or argv[2] != "--" or argv[0] not in _MAINS:
        print(__doc__, file=sys.stderr)
        return 2
    role, name, arguments = argv[0], argv[1], argv[3:]
    try:
        mutant = catalog.find(role, name)
    except KeyError:
        print(f"error: there is no mutant {role}/{name}", file=sys.stderr)
        return 2
    module = importlib.import_module(_MAINS[role])
    sys.argv = [f"{role} ({name})", *arguments]
    if role == "worker":
        from reference_impl.worker import zygote

        os.environ["_SCALER_MUTANT"] = name
        zygote._BOOT = Path(__file__).with_name("boot.py")
    with applied(mutant):
        return int((module.main(arguments) if arguments or role != "client" else module.main()) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
