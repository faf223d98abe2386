"""A worker that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worker.harness import Cluster, cluster


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """One worker with one slot for the tests that leave it as they found it."""
    with cluster() as made:
        yield made


@pytest.fixture
def one(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    shared.barrier()
    shared.inbox.clear()
