"""``scalercli cluster down --shutdown``: a cluster elsewhere ends for everybody, unless it is protected."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from reference_impl.cluster import EmbeddedCluster
from tests.cli.conftest import SECONDS, Shell


@pytest.fixture
def private(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_cluster_elsewhere_ends_with_its_workers(private: Shell, tmp_path: Path) -> None:
    with EmbeddedCluster.start(1, tmp_path / "logs") as cluster:
        address = cluster.scheduler_address
        assert private(f"scalercli --cluster {address} submit time:sleep 600").returncode == 0
        done = private(f"scalercli --cluster {address} cluster down --shutdown")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"down\t{address}\n", "note: 1 task canceled\n")
        ended = [psutil.Process(cluster.processes[role]) for role in ("scheduler", "worker")]
        assert psutil.wait_procs(ended, SECONDS)[1] == []
        assert psutil.Process(cluster.processes["object_storage"]).is_running()
    assert private.processes() == []


def test_a_protected_one_refuses_and_says_so(private: Shell, tmp_path: Path) -> None:
    with EmbeddedCluster.start(1, tmp_path / "logs", scheduler_options=["--protected"]) as cluster:
        address = cluster.scheduler_address
        done = private(f"scalercli --cluster {address} cluster down --shutdown")
        assert (done.returncode, done.stdout) == (5, "")
        assert done.stderr.splitlines() == [
            f"note: there is no session with {address}",
            f"error: the scheduler at {address} is protected: no client can shut it down",
            "hint: end it where it was started",
        ]
        assert private(f"scalercli --cluster {address} run math:sqrt 16").stdout == "4.0\n"
        assert private(f"scalercli --cluster {address} cluster down").returncode == 0
        assert cluster.alive()


def test_one_cluster_and_not_all(private: Shell) -> None:
    done = private("scalercli cluster down --all --shutdown")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --shutdown ends one cluster, not --all\n")
