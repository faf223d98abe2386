"""Whoever of a cluster is killed, nothing that it started lives on: not its other processes, not what tasks have moved
to sessions of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

import psutil
import pytest

from tests.cli.conftest import Shell
from tests.worker.harness import wait_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers and parent-death signals as Linux has them")

DAEMON = """
import os, signal

def start():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, b"x")
            os.execvp("sleep", ["sleep", "3600"])
        os._exit(0)
    os.read(reader, 1)
    print("ready", flush=True)
    signal.pause()
"""


class Tree:
    """The processes of a cluster in which a task has started a daemon."""

    def __init__(self, shell: Shell) -> None:
        (shell.work / "daemon.py").write_text(DAEMON)
        facts = json.loads(shell("scalercli cluster up -o json").stdout)
        started = shell("id=$(scalercli submit daemon.py:start); scalercli logs -f $id | grep -m1 ready")
        assert started.stdout == "ready\n", started
        self.agent = psutil.Process(facts["agent_pid"])
        self.roles = {role: psutil.Process(pid) for role, pid in facts["processes"].items()}
        (self.roles["zygote"],) = self.roles["worker"].children()
        self.all = [self.agent, *self.agent.children(recursive=True)]
        self.task = [p for p in self.roles["zygote"].children(recursive=True) if p.name() == "sleep"]
        self.task += [parent for sleep in self.task if (parent := sleep.parent())]
        assert len(self.task) == 2

    def kill(self, *victims: str) -> None:
        processes = [self.agent if victim == "agent" else self.roles[victim] for victim in victims]
        for process in processes:  # so that they can't do anything about each other's end
            os.kill(process.pid, signal.SIGSTOP)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # who follows a killed worker kills what that has left
                os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("victim", ["agent", "object_storage"])
def test_who_is_killed_takes_everything_along(shell: Shell, victim: str) -> None:
    tree = Tree(shell)
    tree.kill(victim)
    wait_gone(tree.all)
    assert shell.processes() == []
    assert shell("scalercli status @last").stdout.split("\t")[1] == "lost"


@pytest.mark.parametrize("victims", [["worker"], ["worker", "zygote"]])
def test_a_worker_takes_its_tasks_along_and_they_start_again_with_another_one(shell: Shell, victims: list[str]) -> None:
    tree = Tree(shell)
    below = tree.roles["worker"].children(recursive=True)
    tree.kill(*victims)
    wait_gone([tree.roles["worker"], *below])
    assert shell("scalercli logs -f @last | grep -m2 ready").stdout == "ready\nready\n"
    assert shell("scalercli cancel @last").stdout.split("\t")[1] == "canceled\n"
    assert shell("scalercli run math:sqrt 16").stdout == "4.0\n"
    assert tree.agent.is_running()


def test_without_its_zygote_the_task_ends_and_the_cluster_goes_on(shell: Shell) -> None:
    tree = Tree(shell)
    tree.roles["zygote"].kill()
    wait_gone([tree.roles["zygote"], *tree.task])
    assert shell("scalercli wait @last").stdout.split("\t")[1] == "worker-died\n"
    assert shell("scalercli run math:sqrt 16").stdout == "4.0\n"
    assert tree.agent.is_running()
