"""What opengris-scaler leaves in the directory for temporary files goes with the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def temporary_directory() -> Iterator[None]:
    """Its workers leave their sockets there. The path is a short one: sockets have room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="peer-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", directory)
        yield
