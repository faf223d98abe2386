"""``python -m scalercli`` and the console script ``scalercli``."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line of this process and ends it."""
    try:
        from scalercli.app import main as run

        code = int(run())
    except KeyboardInterrupt:  # before or after anything was done
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
