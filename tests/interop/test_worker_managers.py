"""Their worker manager with our scheduler, and ours with theirs: workers come when there is work and go when there is
none."""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

import psutil
import pytest

from reference_impl.client import Client
from tests.interop import peer
from tests.interop.cluster import Cluster
from tests.interop.combinations import OURS, Combination

HANG_SECONDS = 120.0


class ManagedCluster(Cluster):
    """The workers of the combination are those of a manager, which has none at first."""

    def _start_workers(self, queue_size: int) -> None:
        common = [self.scheduler_address, "--worker-manager-id", "fleet", "--max-task-concurrency", "2"]
        common += ["-sdc", "0", "-his", "1", "-wtqs", str(queue_size), "-pwc", "gpu=1,linux"]
        if self.combination.worker == OURS:
            command = [sys.executable, "-m", "reference_impl.worker_manager", *common]
        else:
            command = [peer.command("scaler_worker_manager"), "baremetal_native", *common]
            command += ["--object-storage-address", self.storage_address]
        self.manager = psutil.Process(self.start("manager", self.combination.worker, command).pid)

    def workers(self) -> int:
        """How many there are: as the scheduler says, or, if it does not answer, as processes (of our manager;
        theirs has other child processes, too)."""
        if self.combination.scheduler != OURS:
            return len(self.manager.children())
        with Client(self.scheduler_address) as client:
            found = client.query("workers").value
            assert isinstance(found, tuple)
            return len(found)

    def until_no_worker_is_left(self) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        while self.workers():
            assert time.monotonic() < deadline, self.log_tail("manager")
            select.select([], [], [], 0.1)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["OOPO", "OPOP", "OPOO", "OOOO"])
def test_workers_come_with_the_work_and_go_without_it(name: str, tmp_path: Path) -> None:
    if why := peer.missing():
        pytest.fail(why, pytrace=False)
    with ManagedCluster(Combination.parse(name), tmp_path) as cluster:
        for _ in range(2):
            with Client(cluster.scheduler_address) as client:
                needs = {"gpu": 1}
                futures = [client.submit_verbose(time.sleep, (0.2,), capabilities=needs) for _ in range(4)]
                futures.append(client.submit(abs, -1))
                # There was no worker: that they are done says that some came. They may be gone already.
                assert [future.result(HANG_SECONDS) for future in futures] == [None] * 4 + [1]
            cluster.until_no_worker_is_left()
        assert cluster.stop() == []
