"""Where opengris-scaler 2.9.0 is: by default in the environment that runs the tests (``pip install -e .[interop]``).

``SCALER_PEER_BIN`` names another one: the directory with its ``python`` and its ``scaler_…`` commands.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

VERSION = "2.9.0"
BIN = Path(os.environ.get("SCALER_PEER_BIN") or Path(sys.executable).parent)
ENVIRONMENT = {"SCALER_NETWORK_BACKEND": "zmq"}


def python() -> str:
    """The Python that can ``import scaler``."""
    return str(BIN / "python")


def command(name: str) -> str:
    """One of the peer's commands."""
    return str(BIN / name)


@lru_cache(maxsize=1)
def missing() -> str:
    """Why the peer can't be used; empty if it can."""
    hint = "pip install -e '.[interop]', or set SCALER_PEER_BIN to the bin directory of an environment that has it"
    code = "import importlib.metadata as m, scaler; print(m.version('opengris-scaler'))"
    try:
        done = subprocess.run(
            [python(), "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **ENVIRONMENT}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{python()} does not run ({error}): {hint}"
    if done.returncode:
        return f"opengris-scaler {VERSION} is not installed in {BIN}: {hint}"
    found = done.stdout.strip()
    return "" if found == VERSION else f"{BIN} has opengris-scaler {found}, this needs {VERSION}"
