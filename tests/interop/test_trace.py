"""The proxy of ``scalercli trace`` between roles of opengris-scaler 2.9.0."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.interop import peer
from tests.interop.cluster import Cluster
from tests.interop.combinations import Combination
from tests.interop.monitor import workers
from tests.trace.test_traced import ended, proxy

TASKS = 40
PROGRAM = """
import sys
from scaler import Client
with Client(address=sys.argv[1]) as client:
    print(sum(client.map(lambda x: 2 * x, range(int(sys.argv[2])))))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if why := peer.missing():
        pytest.fail(why, pytrace=False)
    with Cluster(Combination.parse("PPPP"), tmp_path_factory.mktemp("logs")) as cluster:
        cluster.monitor.report_when("2 workers", lambda r: workers(r) == 2, 60)
        yield cluster


@pytest.fixture
def shell() -> Iterator[Shell]:
    home = Path(tempfile.mkdtemp(prefix="scli-"))
    made = Shell(home)
    yield made
    assert made.processes() == [] and made.sockets() == []
    shutil.rmtree(home)


def test_a_command_on_their_cluster_is_traced(cluster: Cluster, shell: Shell) -> None:
    done = shell(f"scalercli trace --cluster {cluster.scheduler_address} -f mermaid -- run math:sqrt 16")
    assert (done.returncode, done.stderr) == (0, "4.0\n")
    told = [re.sub(r"(: \w+) .*", r"\1", line.strip()) for line in done.stdout.splitlines() if ": task" in line]
    assert told == ["client1->>scheduler: task", "scheduler->>client1: taskResult"]


def test_their_client_and_their_workers_work_through_the_proxy(cluster: Cluster, tmp_path: Path) -> None:
    with proxy(cluster.scheduler_address, "--format", "jsonl", out=tmp_path / "out") as (address, process):
        command = [peer.command("scaler_worker_manager"), "baremetal_native", address, "--worker-manager-id", "traced"]
        manager = cluster.start("traced-workers", "P", [*command, "--mode", "fixed", "--max-task-concurrency", "2"])
        cluster.monitor.report_when("4 workers", lambda r: workers(r) == 4, 60)
        client = subprocess.run(
            [peer.python(), "-c", PROGRAM, address, str(TASKS)],
            capture_output=True,
            text=True,
            timeout=100,
            env=cluster.environment("P"),
        )
        assert client.stdout == f"{TASKS * (TASKS - 1)}\n", client.stderr
        manager.terminate()
        manager.wait(30)
        ended(process)
    summary = json.loads((tmp_path / "out").read_text().splitlines()[-1])
    assert summary["tasks"]["answers"] == {"success": TASKS}
    assert summary["findings"] == []
    assert {name.rstrip("0123456789") for name in summary["peers"]} >= {"client", "worker"}
    assert summary["hops"]["worker: taskResult"]["count"] > 0
