"""``python -m scalercli`` and the console script ``scalercli``."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line of this process and ends it."""
    from scalercli.app import main as run

    sys.exit(int(run()))


if __name__ == "__main__":
    main()
