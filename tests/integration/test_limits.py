"""What a user sees of the scheduler's limits (SPEC section 14)."""

from __future__ import annotations

import time
from pathlib import Path

from reference_impl.client import Client
from reference_impl.cluster import EmbeddedCluster


def test_a_task_too_many_fails_with_the_limit_that_was_met(tmp_path: Path) -> None:
    options = ("--max-tasks-per-client", "2")
    with (
        EmbeddedCluster.start(1, tmp_path, scheduler_options=options) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        sleeping = [client.submit(time.sleep, 60) for _ in range(2)]
        refused = [client.submit(time.sleep, 60) for _ in range(5)]
        for future in refused:
            error = future.exception(20)
            assert type(error) is RuntimeError
            assert "queue is full (limit 2 tasks per client: --max-tasks-per-client)" in str(error)
        assert not any(future.done() for future in sleeping)
        assert all(future.cancel() for future in sleeping)
        assert client.submit(pow, 2, 10).result(20) == 1024
