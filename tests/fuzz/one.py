"""One target under atheris, for ``__main__``: ``python -m tests.fuzz.one TARGET [LIBFUZZER ARGUMENTS]``."""

from __future__ import annotations

import logging
import signal
import sys


def main() -> None:
    """Ends when libFuzzer does."""
    import atheris

    name, *arguments = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["protocol", "reference_impl", "scalercli", "conformance_tests.engine"]):
        from tests.fuzz.targets import TARGETS

    def target(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except BaseException:
            signal.setitimer(signal.ITIMER_REAL, 0)  # libFuzzer's; it would end us before the input is kept
            raise

    atheris.Setup([name, *arguments], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
