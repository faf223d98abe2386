"""What ``cluster up`` was told about a cluster on this machine, so that whoever starts it again does it alike.

It is written by ``cluster up`` and removed by ``cluster down``. A cluster that has one and does not run was killed, or
had been idle: the next command that needs it starts it again.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.places import Places


class Definition(NamedTuple):
    workers: int = 0
    """0: one per processor core."""
    idle_seconds: float = 0.0
    """0: it never ends by itself."""
    secure: bool = False
    """It has keys, so that no other user of this machine can use it."""


def load(places: Places) -> Definition | None:
    """None where there is none, or none that can be read."""
    try:
        found = json.loads(places.definition.read_text())
        return Definition(int(found["workers"]), float(found["idle_seconds"]), bool(found.get("secure")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(places: Places, definition: Definition) -> None:
    """Raises CliError."""
    places.make()
    try:
        new = places.definition.with_suffix(".new")
        new.write_text(json.dumps(definition._asdict()) + "\n")
        new.chmod(0o600)
        new.replace(places.definition)
    except OSError as error:
        raise CliError(
            f"can't write {places.definition}: {error.strerror}", "scalercli doctor", ExitCode.UNREACHABLE
        ) from None


def remove(places: Places) -> None:
    places.definition.unlink(missing_ok=True)
