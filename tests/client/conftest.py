from __future__ import annotations

from collections.abc import Iterator

import pytest

from reference_impl.client import Client
from tests.client.fakes import FakeCluster


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster() as fake:
        yield fake


@pytest.fixture
def client(cluster: FakeCluster) -> Iterator[Client]:
    made = cluster.client()
    yield made
    made.close()
