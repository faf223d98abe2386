"""A real browser without a window, to open the pages that are written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"),
    *("--disable-background-networking", "--no-first-run", "--disable-sync", "--disable-component-update"),
)


def program() -> str:
    """The browser; without one the test is skipped, but never where CI=true."""
    found = next((path for name in NAMES if (path := shutil.which(name))), "")
    if not found and os.environ.get("CI") == "true":
        pytest.fail(f"CI needs a browser, none of {', '.join(NAMES)} is installed; .ci/run installs one")
    if not found:
        pytest.skip(f"no browser is installed (looked for {', '.join(NAMES)})")
    return found


def opened(page: Path, profile: Path, fragment: str = "") -> tuple[str, list[str]]:
    """The document after its scripts have run, and what they complained of on the console."""
    done = subprocess.run(
        [program(), *_FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri() + fragment],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
