"""A worker of a cluster on this machine that ends is started again, but not for ever."""

from __future__ import annotations

import json
import os
import re

import psutil
import pytest

from reference_impl.processes import Losses
from tests.cli.conftest import Shell

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="nobody tells the agent of an end")

KILLS_ITS_WORKER = """
import os, psutil

def kill():
    with open({ran!r}, "a") as ran:
        ran.write("x")
    processor = psutil.Process()
    processor.parent().parent().kill()
    os.read(os.pipe()[0], 1)
"""


def up(shell: Shell) -> tuple[psutil.Process, psutil.Process]:
    """The agent and the worker process of a new cluster."""
    facts = json.loads(shell("scalercli cluster down -q; scalercli cluster up -o json").stdout)
    return psutil.Process(facts["agent_pid"]), psutil.Process(facts["processes"]["worker"])


def successor(shell: Shell, worker: psutil.Process) -> psutil.Process:
    """The worker process that has taken the place of one that was killed."""
    while True:  # each round lets the agent go on
        facts = json.loads(shell("scalercli cluster status -o json").stdout)
        if facts["processes"]["worker"] != worker.pid:
            return psutil.Process(facts["processes"]["worker"])


def test_an_idle_worker_that_is_killed_is_started_again(shell: Shell) -> None:
    _, worker = up(shell)
    worker.kill()
    assert shell("scalercli run math:sqrt 16").stdout == "4.0\n"
    again = successor(shell, worker)
    logged = shell("scalercli cluster logs --role agent").stdout
    says = f"the worker of the embedded cluster (pid {worker.pid}) was killed by SIGKILL; it is started again"
    assert [line.partition("cluster: ")[2] for line in logged.splitlines() if "WARNING" in line] == [
        f"{says} (pid {again.pid})"
    ]
    assert shell("scalercli cluster list").stdout.split("\t")[1:5] == ["embedded", "up", "0", "2"]


def test_a_task_that_kills_its_worker_each_time_is_given_up_and_the_cluster_goes_on(shell: Shell) -> None:
    ran = shell.work / "ran"
    (shell.work / "killer.py").write_text(KILLS_ITS_WORKER.format(ran=str(ran)))
    agent, _ = up(shell)
    done = shell("scalercli run killer.py:kill")
    assert done.returncode == 7
    assert re.search(r"error: task [0-9a-f]{32}:? worker-died", done.stderr), done
    assert ran.read_text() == "xxx"
    assert shell("scalercli run math:sqrt 16").stdout == "4.0\n"
    assert agent.is_running()


def test_a_worker_that_ends_too_often_ends_the_cluster_which_says_so(shell: Shell) -> None:
    agent, worker = up(shell)
    for _ in range(5):
        worker.kill()
        worker = successor(shell, worker)
    worker.kill()
    _, alive = psutil.wait_procs([agent], timeout=30)
    assert not alive and shell.processes() == []
    again = shell("scalercli run math:sqrt 9")
    assert (again.stdout, again.returncode) == ("3.0\n", 0)
    says = "was killed by SIGKILL: too often, 6 times in 60 s"
    assert again.stderr == f"note: the worker of the embedded cluster (pid {worker.pid}) {says}; starting again\n"


def test_losses_that_were_long_ago_do_not_count() -> None:
    losses = Losses(2, 60.0)
    assert [losses.lost(now) for now in (0.0, 1.0, 60.0, 60.5, 200.0)] == [0, 0, 0, 3, 0]
