"""One target under atheris, for ``__main__``: ``python -m tests.fuzz.one TARGET [LIBFUZZER ARGUMENTS]``."""

from __future__ import annotations

import logging
import sys


def main() -> None:
    """Ends when libFuzzer does."""
    import atheris

    name, *arguments = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["protocol", "reference_impl", "scalercli", "conformance_tests.engine"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([name, *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
